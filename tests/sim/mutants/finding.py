"""Bugs of finding workers beyond one machine, and of whom a pool takes of them: D and L."""

from __future__ import annotations

from sim.mutants.mutant import Edit, Mutant

LINKS, SIGHTINGS, LOOKUPS = "wool.links", "wool.discovery.sightings", "wool.discovery.lookups"

MUTANTS = (
    # ---- whom a pool takes ----
    Mutant(
        name="lease-off-by-one",
        broken="A lease has one place more than was said.",
        caught_by="a_lease_is_kept",
        edits=(Edit(module=LINKS, old="if len(holders) >= lease:", new="if len(holders) > lease:"),),
    ),
    Mutant(
        name="tags-do-not-matter",
        broken="A pool takes workers that have not its tags.",
        caught_by="only_the_wanted_are_used",
        edits=(
            Edit(
                module="wool.admission",
                old="        missing = sorted(self.tags - metadata.tags)\n",
                new="        missing = sorted(self.tags - self.tags)\n",
            ),
        ),
    ),
    Mutant(
        name="own-workers-take-places",
        broken="The workers that a pool has started take places of its lease.",
        caught_by="view_becomes_truth",
        edits=(
            Edit(
                module=LINKS,
                old="return self._terms.lease is not None and key not in self._terms.own",
                new="return self._terms.lease is not None",
            ),
            Edit(
                module=LINKS,
                old="        own = self._terms.own\n        return [link for link in self.links.values() if",
                new="        own = frozenset[str]()\n        return [link for link in self.links.values() if",
            ),
        ),
    ),
    Mutant(
        name="ended-stays-published",
        broken="A worker that a pool has published, and that has ended, is not withdrawn.",
        caught_by="view_becomes_truth",
        edits=(
            Edit(
                module="wool.crew",
                old="        metadata = self._announced.pop(uid, None)\n        if metadata is not None:\n",
                new="        metadata = self._announced.pop(uid, None)\n        if metadata is None:\n",
            ),
        ),
    ),
    # ---- addresses ----
    Mutant(
        name="successor-taken-for-predecessor",
        broken="Who answers at an address under another uid is taken for the worker that was there before.",
        caught_by="successors_are_noticed",
        edits=(
            Edit(
                module=LINKS,
                old="        if why is None:\n            self._rename(link, dataclasses",
                new="        if why is None and link.status.metadata.uid:\n"
                "            self._candidates = None\n"
                "        elif why is None:\n"
                "            self._rename(link, dataclasses",
            ),
        ),
    ),
    Mutant(
        name="names-keep-old-addresses",
        broken="An address that a name server names no more stays in use.",
        caught_by="names_become_addresses",
        edits=(
            Edit(
                module=LOOKUPS,
                old="        entry.addresses = answer.addresses[: limits.addresses]\n",
                new="        entry.addresses = tuple(dict.fromkeys((*entry.addresses, *answer.addresses)))\n",
            ),
        ),
    ),
    Mutant(
        name="silence-is-denial",
        broken="A name server that does not answer is taken to have said that nobody is there.",
        caught_by="the_healthy_stay",
        edits=(
            Edit(
                module=LOOKUPS,
                old="        entry.failures += 1\n",
                new="        entry.failures += 1\n        entry.addresses = ()\n",
            ),
        ),
    ),
    # ---- multicast ----
    Mutant(
        name="refresh-comes-too-late",
        broken="What was heard by multicast DNS is asked for again only when its time is over.",
        caught_by="the_healthy_stay",
        edits=(Edit(module=SIGHTINGS, old="_REFRESH = 0.2\n", new="_REFRESH = -0.2\n"),),
    ),
    Mutant(
        name="heard-holds-for-ever",
        broken="A worker that vanished without a word stays in view.",
        caught_by="view_becomes_truth",
        edits=(
            Edit(
                module=SIGHTINGS,
                old="_Held(now, min(record.seconds, self._limits.lan_browse_seconds))",
                new="_Held(now, 1e6)",
            ),
        ),
    ),
    Mutant(
        name="lies-are-believed",
        broken="A record that lies hides a worker for as long as the liar says.",
        caught_by="view_becomes_truth",
        edits=(
            Edit(
                module=SIGHTINGS,
                old="_Held(now, min(record.seconds, self._limits.lan_browse_seconds))",
                new="_Held(now, record.seconds)",
            ),
        ),
    ),
    Mutant(
        name="everybody-is-asked-once",
        broken="Who is there is asked at the start alone: one for whom a liar said goodbye never comes back.",
        caught_by="view_becomes_truth",
        edits=(
            Edit(
                module=SIGHTINGS,
                old="                self._browse_at = now + self._limits.lan_browse_seconds\n",
                new="                self._browse_at = now + 1e6\n",
            ),
            Edit(module=SIGHTINGS, old="_BROWSE_AT_SECONDS = (0.0, 1.0, 3.0)\n", new="_BROWSE_AT_SECONDS = (0.0,)\n"),
        ),
    ),
    # ---- a rolling restart ----
    Mutant(
        name="drain-does-not-wait",
        broken="A worker that is told to stop does not wait for what it runs.",
        caught_by="a_rolling_restart_fails_nobody",
        edits=(
            Edit(
                module="wool.worker.serve",
                old="self.interrupted = await self._service.drain(drain_seconds)",
                new="self.interrupted = await self._service.drain(0.0)",
            ),
        ),
    ),
)
