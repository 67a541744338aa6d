"""Bugs of places and of admission: R."""

from __future__ import annotations

from sim.mutants.mutant import Edit, Mutant

PROXY = "wool.proxy"
SEATS = "wool.worker.seats"
ADMISSION = "wool.worker.admission"

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
    Mutant(
        name="place-is-not-lent",
        broken="A body that awaits a nested call keeps its place: trees of routines wait for themselves.",
        caught_by="no_place_is_idle_while_an_offer_waits",
        edits=(
            Edit(
                module=SEATS,
                old="    def _lend(self) -> None:\n        self._nested += 1\n        self._settle()\n",
                new="    def _lend(self) -> None:\n        pass\n",
            ),
            Edit(
                module=SEATS,
                old="        self._nested -= 1\n        self._settle()\n",
                new="        pass\n",
            ),
        ),
    ),
    Mutant(
        name="place-is-lost-with-the-caller",
        broken="The place of a body whose caller has gone is never given back.",
        caught_by="nothing_is_left",
        edits=(
            Edit(
                module="wool.worker.runner",
                old="            if state.seat is not None:\n"
                "                state.seat.rest()\n"
                "            if state.owed and not state.abandoned:\n",
                new="            if state.seat is not None and not state.abandoned:\n"
                "                state.seat.rest()\n"
                "            if state.owed and not state.abandoned:\n",
            ),
        ),
    ),
    Mutant(
        name="failed-connect-keeps-what-it-counted",
        broken="A call that waits for a worker which cannot be reached counts as under way there for ever.",
        caught_by="nothing_is_left",
        edits=(
            Edit(
                module=PROXY,
                old="        for call in waiting:\n            self._unbind(call)\n            self._bind(call)\n",
                new="        for call in waiting:\n            call.link = None\n            self._bind(call)\n",
            ),
        ),
    ),
    Mutant(
        name="withdrawn-is-let-in-for-ever",
        broken="An offer that was accepted and then withdrawn keeps its place at the door.",
        caught_by="no_place_is_idle_while_an_offer_waits",
        edits=(
            Edit(
                module="wool.worker.door",
                old="            served.counted = False\n            self.changed(-1, -1)\n",
                new="            served.counted = False\n",
            ),
        ),
    ),
    Mutant(
        name="hook-is-not-heard",
        broken="What the admission hook rejects is taken all the same.",
        caught_by="no_more_under_way_than_are_admitted",
        edits=(Edit(module=ADMISSION, old="        if reason is None:\n", new="        if not fault:\n"),),
    ),
    Mutant(
        name="hook-is-not-told-of-who-comes-before",
        broken="Of tasks that are offered at once, the admission hook hears as if each were the only one.",
        caught_by="no_more_under_way_than_are_admitted",
        edits=(
            Edit(
                module=ADMISSION,
                old="            in_flight=started + len(self._unstarted),\n",
                new="            in_flight=started,\n",
            ),
        ),
    ),
)
