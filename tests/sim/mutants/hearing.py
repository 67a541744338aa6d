"""What is heard where nobody asks for it: discovery at its source, the end of what was let go, and silence."""

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
    Mutant(
        name="collected-is-left-where-it-is",
        broken="A generator that is collected, and not closed, leaves the remote one where it stands.",
        caught_by="a_dropped_generator_is_closed",
        edits=(
            Edit(
                module="wool.routine",
                old="                        kind = StepKind.CLOSE\n",
                new='                        if "collected" in str(asyncio.current_task()):\n'
                "                            stream.suspended = False\n"
                "                            raise\n"
                "                        kind = StepKind.CLOSE\n",
            ),
        ),
    ),
    Mutant(
        name="patience-without-end",
        broken="A caller whose offer is not answered waits as long as the session lasts, and tries nobody else.",
        caught_by="probes_succeed",
        edits=(
            Edit(
                module="wool.proxy",
                old="(self._loop, limits.patience_seconds, limits, self._impatient)",
                new="(self._loop, limits.patience_seconds * 1e6, limits, self._impatient)",
            ),
        ),
    ),
)
