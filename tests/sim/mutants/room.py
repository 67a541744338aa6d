"""Bugs of places: R."""

from __future__ import annotations

from sim.mutants.mutant import Edit, Mutant

MUTANTS = (
    Mutant(
        name="more-places-than-there-are",
        broken="One body more than is allowed gets a place.",
        caught_by="no_more_at_work_than_places",
        edits=(
            Edit(
                module="wool.worker.serve",
                old="            desk = Desk(\n                configure.max_concurrency,\n",
                new="            desk = Desk(\n                configure.max_concurrency + 1,\n",
            ),
            Edit(
                module="wool.worker.serve",
                old="            self._door = Door(configure.max_concurrency)\n",
                new="            self._door = Door(configure.max_concurrency + 1)\n",
            ),
        ),
    ),
)
