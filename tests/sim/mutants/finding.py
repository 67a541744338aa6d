"""Bugs of finding workers beyond one machine, and of whom a pool takes of them: D and L."""

from __future__ import annotations

from sim.mutants.mutant import Edit, Mutant

LINKS, SIGHTINGS, LOOKUPS = "wool.links", "wool.discovery.sightings", "wool.discovery.lookups"
STATIC = "wool.discovery.static"

KNOWN_HOLDS_LONGEST = (
    Edit(
        module=LOOKUPS,
        old="        entry.addresses = answer.addresses[: limits.addresses]\n        entry.failures = 0\n",
        new="        known = bool(entry.addresses) and answer.addresses == entry.addresses\n"
        "        entry.addresses = answer.addresses[: limits.addresses]\n"
        "        entry.failures = 0\n",
    ),
    Edit(
        module=LOOKUPS,
        old="limits.lookup_least_seconds), limits.lookup_most_seconds)\n",
        new="limits.lookup_most_seconds if known else 0.0), limits.lookup_most_seconds)\n",
    ),
)
"""An answer that says what was known already is used for as long as any may be."""

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
                old="return self._terms.lease is not None and not self._terms.is_own(key)",
                new="return self._terms.lease is not None",
            ),
            Edit(
                module=LINKS,
                old="        is_own = self._terms.is_own\n",
                new="        is_own = frozenset[str]().__contains__\n",
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
        fault="lost-goodbye",
        way="lan",
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
    Mutant(
        name="withdrawn-counts-as-published",
        broken="A worker that has said goodbye is taken to be announced still, and never announced again.",
        caught_by="view_becomes_truth",
        fault="hello-flap",
        way="lan",
        edits=(
            Edit(
                module="wool.discovery.lan",
                old="                await network.withdraw(self._published.pop(metadata.uid))\n",
                new="                await network.withdraw(self._published[metadata.uid])\n",
            ),
            Edit(
                module="wool.discovery.lan",
                old='                raise ValueError(f"{who} is published already")\n',
                new="                return\n",
            ),
        ),
    ),
    Mutant(
        name="asked-in-vain-is-given-up",
        broken="A worker that did not answer three questions is never asked again, when a split is over.",
        caught_by="view_becomes_truth",
        fault="segment-split",
        way="lan",
        edits=(
            Edit(
                module=SIGHTINGS,
                old="                instance.ask_at = now + min(first * 2.0 ** min(instance.asked, 30), most)\n",
                new="                instance.ask_at = now + (min(first * 2.0**instance.asked, most) "
                "if instance.asked < 2 else 1e6)\n",
            ),
        ),
    ),
    # ---- names that come and go, that are told differently, and whose answers are old ----
    Mutant(
        name="named-again-stays-out",
        broken="An address that a name server named no more, and names again, is left out.",
        caught_by="names_become_addresses",
        fault="zone-flap",
        way="dns",
        edits=(
            Edit(
                module=LOOKUPS,
                old="    failures: int = 0\n",
                new="    failures: int = 0\n    gone: frozenset[str] = frozenset()\n",
            ),
            Edit(
                module=LOOKUPS,
                old="        entry.addresses = answer.addresses[: limits.addresses]\n",
                new="        before = frozenset(entry.addresses)\n"
                "        entry.addresses = tuple(each for each in answer.addresses if each not in entry.gone)\n"
                "        entry.gone |= before - frozenset(entry.addresses)\n",
            ),
        ),
    ),
    Mutant(
        name="the-lesser-answer-holds-longest",
        broken="An answer with fewer addresses than the one before is not asked for again when its time is over.",
        caught_by="names_become_addresses",
        fault="answer-split",
        way="dns",
        edits=(
            Edit(
                module=LOOKUPS,
                old="        entry.addresses = answer.addresses[: limits.addresses]\n        entry.failures = 0\n",
                new="        fewer = len(answer.addresses) < len(entry.addresses)\n"
                "        entry.addresses = answer.addresses[: limits.addresses]\n"
                "        entry.failures = 0\n",
            ),
            Edit(
                module=LOOKUPS,
                old="limits.lookup_least_seconds), limits.lookup_most_seconds)\n",
                new="limits.lookup_most_seconds if fewer else 0.0), limits.lookup_most_seconds)\n",
            ),
        ),
    ),
    Mutant(
        name="old-news-holds-longest",
        broken="An answer that says what was known already is not asked for again when its time is over.",
        caught_by="names_become_addresses",
        fault="answer-stale",
        way="dns",
        edits=KNOWN_HOLDS_LONGEST,
    ),
    Mutant(
        name="an-old-address-holds-longest",
        broken="A host that is where it was known to be is not looked up again in time.",
        caught_by="names_become_addresses",
        fault="answer-stale",
        way="static",
        edits=KNOWN_HOLDS_LONGEST,
    ),
    Mutant(
        name="unknown-host-is-nobody",
        broken="A host name that the system does not know for a while takes its worker away.",
        caught_by="the_healthy_stay",
        fault="zone-flap",
        way="static",
        edits=(
            Edit(
                module=STATIC,
                old="            raise LookupFailed(error.strerror or str(error)) from error\n",
                new="            assert error is not None\n            return Answer(addresses=(), seconds=1.0)\n",
            ),
        ),
    ),
    Mutant(
        name="failed-name-is-given-up",
        broken="A host name that one caller's system does not know at first is never looked up again.",
        caught_by="names_become_addresses",
        fault="answer-split",
        way="static",
        edits=(
            Edit(
                module=LOOKUPS,
                old="        entry.due = now + wait\n",
                new="        entry.due = now + wait * 1e6\n",
            ),
        ),
    ),
    # ---- a view that has just begun ----
    Mutant(
        name="view-just-begun-is-whole",
        broken="A view of the network that has just begun is taken for whole: nobody else will be heard.",
        caught_by="a_view_is_whole_before_it_is_believed",
        way="lan",
        edits=(
            Edit(
                module="wool.discovery.lan",
                old="        return asyncio.get_running_loop().time() < self._heard_all_at\n",
                new="        return asyncio.get_running_loop().time() < 0 * self._heard_all_at\n",
            ),
        ),
    ),
    Mutant(
        name="names-not-heard-of-are-nobody",
        broken="A host name that has had no answer yet is taken to lead nowhere.",
        caught_by="a_view_is_whole_before_it_is_believed",
        way="static",
        edits=(
            Edit(
                module="wool.discovery.following",
                old="        return self._progress is not None and bool(self._progress.unheard)\n",
                new="        return self._progress is not None and not self._progress.names\n",
            ),
        ),
    ),
    # ---- a rolling restart ----
    Mutant(
        name="hellos-are-not-heard",
        broken="Who comes up is known only when everybody is asked: a rolling restart is faster.",
        caught_by="a_rolling_restart_fails_nobody",
        fault="rolling-restart",
        way="lan",
        edits=(
            Edit(
                module=SIGHTINGS,
                old='        elif key.endswith(f".{SERVICE}"):\n',
                new='        elif key.endswith(f".{SERVICE}") and '
                "now < self._browse_at - self._limits.lan_browse_seconds + 0.2:\n",
            ),
        ),
    ),
    Mutant(
        name="answers-hold-for-ever",
        broken="What a name server said is used as long as any answer may be, whatever its time to live.",
        caught_by="names_become_addresses",
        fault="rolling-restart",
        way="dns",
        edits=(
            Edit(
                module=LOOKUPS,
                old="now + min(max(answer.seconds, limits.lookup_least_seconds), limits.lookup_most_seconds)",
                new="now + limits.lookup_most_seconds if answer.addresses else now + answer.seconds",
            ),
        ),
    ),
    Mutant(
        name="a-host-is-looked-up-once",
        broken="A host name is looked up once: a worker whose host gets another address is not found there.",
        caught_by="names_become_addresses",
        fault="rolling-restart",
        way="static",
        edits=(
            Edit(
                module=STATIC,
                old="seconds=self._limits.static_lookup_seconds)",
                new="seconds=1e9 * self._limits.static_lookup_seconds)",
            ),
        ),
    ),
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
