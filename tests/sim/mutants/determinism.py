"""Bugs that make two runs of one plan differ: not caught by an invariant, but by comparing."""

from __future__ import annotations

from sim.mutants.mutant import DETERMINISM, Edit, Mutant

MUTANTS = (
    Mutant(
        name="set-of-strings",
        broken="Candidates come in the order of a set of strings, which differs from one interpreter to the next.",
        caught_by=DETERMINISM,
        edits=(
            Edit(
                module="wool.proxy",
                old="[link.status for link in self._links.values() if link.usable]",
                new="[self._links[uid].status for uid in set(self._links) if self._links[uid].usable]",
            ),
        ),
    ),
    Mutant(
        name="wall-clock-in-a-decision",
        broken="Which worker is first follows from the time of day.",
        caught_by=DETERMINISM,
        edits=(
            Edit(
                module="wool.balancer",
                old="        first = self._next % len(workers) if workers else 0\n",
                new="        import time\n"
                "\n"
                "        first = time.perf_counter_ns() // 100 % len(workers) if workers else 0\n",
            ),
        ),
    ),
    Mutant(
        name="random-numbers-of-the-system",
        broken="The wait before a worker is tried again varies by a random number of the system's.",
        caught_by=DETERMINISM,
        edits=(
            Edit(
                module="wool.link",
                old="            self._probe = self._loop.call_later(self.backoff, self._probe_now)\n",
                new="            import os\n\n"
                "            wait = self.backoff * (1 + os.urandom(1)[0] / 256)\n"
                "            self._probe = self._loop.call_later(wait, self._probe_now)\n",
            ),
        ),
    ),
    Mutant(
        name="order-of-addresses",
        broken="Candidates come in the order of their addresses in memory.",
        caught_by=DETERMINISM,
        edits=(
            Edit(
                module="wool.proxy",
                old="[link.status for link in self._links.values() if link.usable]",
                new="[link.status for link in sorted(self._links.values(), key=id) if link.usable]",
            ),
        ),
    ),
)
