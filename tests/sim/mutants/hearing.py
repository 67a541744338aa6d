"""What a discovery says to those who subscribe, before anybody has made anything of it."""

from __future__ import annotations

from sim.mutants.mutant import Edit, Mutant

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        name="added-is-said-twice",
        broken="A subscription says worker-added again of a worker that has been added: whoever hears it swallows it.",
        caught_by="subscriptions_follow_the_grammar",
        edits=(
            Edit(
                module="wool.discovery.view",
                old="            elif before.metadata != new.metadata:\n",
                new="            elif self._cache and len(known) > len(self._known):\n"
                '                others.append(DiscoveryEvent("worker-added", new.metadata))\n'
                "            elif before.metadata != new.metadata:\n",
            ),
        ),
    ),
)
