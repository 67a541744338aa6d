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
                module="wool.links",
                old="[link.status for link in usable if not link.spare]",
                new="[self.links[uid].status for uid in set(self.links) if self.links[uid] in usable]",
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
        broken="Candidates come in an order that follows from their addresses in memory.",
        caught_by=DETERMINISM,
        edits=(
            Edit(
                module="wool.links",
                old="[link.status for link in usable if not link.spare]",
                # Scrambled, as by a hash table: fresh objects often lie in memory in the order in which they were made.
                new="[\n"
                "                link.status\n"
                "                for link in sorted(usable, key=lambda link: id(link) * 40503 % 2**16)\n"
                "            ]",
            ),
        ),
    ),
)
