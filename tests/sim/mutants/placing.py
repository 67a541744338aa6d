"""Bugs of placing and of discovery: B and D."""

from __future__ import annotations

from sim.mutants.mutant import Edit, Mutant

PROXY, LINKS, LINK = "wool.proxy", "wool.links", "wool.link"
SERVICE, CONNECTION, FLOW = "wool.worker.service", "wool.connection", "wool.protocol.flow"

MUTANTS = (
    # ---- who is tried ----
    Mutant(
        name="stale-candidates",
        broken="Candidates are looked up once, and a worker that is dropped stays among them.",
        caught_by="candidates_are_in_view",
        edits=(
            Edit(
                module=LINKS,
                old="        self._remember(link.uid, reason)\n        self.changed()\n",
                new="        self._remember(link.uid, reason)\n",
            ),
        ),
    ),
    Mutant(
        name="patience-in-the-wrong-unit",
        broken="A caller has a fiftieth of the patience that it should have, and offers a task around in circles.",
        caught_by="attempts_are_bounded",
        edits=(
            Edit(
                module=PROXY,
                old="(self._loop, limits.patience_seconds, limits, self._impatient)",
                new="(self._loop, limits.patience_seconds / 50, limits, self._impatient)",
            ),
            Edit(
                module=PROXY,
                old="                    call.waits = call.patiences(call.connection.metadata.uid) - 1\n",
                new="                    call.waits = 0\n",
            ),
        ),
    ),
    Mutant(
        name="round-robin-skips-the-last",
        broken="The index of the round robin starts over one worker too early.",
        caught_by="round_robin_is_even",
        edits=(
            Edit(
                module="wool.balancer",
                old="        self._next = first + 1\n",
                new="        self._next = (first + 1) % max(len(workers) - 1, 1)\n",
            ),
        ),
    ),
    Mutant(
        name="round-robin-index-is-raced",
        broken="The round robin writes its index back a moment after it has read it: calls at one time get one worker.",
        caught_by="round_robin_is_even",
        edits=(
            Edit(
                module="wool.balancer",
                old="        self._next = first + 1\n",
                new="        import asyncio\n"
                "\n"
                '        asyncio.get_running_loop().call_soon(setattr, self, "_next", first + 1)\n',
            ),
        ),
    ),
    Mutant(
        name="lock-across-connect",
        broken="While one session is being opened, no call is offered on another: as if a lock were held.",
        caught_by="nobody_waits_for_others",
        edits=(
            Edit(
                module=PROXY,
                old="        if connection is not None and not link.waiting and connection.has_room_for(call):\n",
                new="        if (\n"
                "            connection is not None\n"
                "            and not link.waiting\n"
                "            and connection.has_room_for(call)\n"
                "            and not any(other.state is LinkState.CONNECTING for other in self._links.values())\n"
                "        ):\n",
            ),
            Edit(
                module=PROXY,
                old="        self._drain_waiting(link)\n        self._view.opened(link)\n",
                new="        for other in list(self._links.values()):\n"
                "            self._drain_waiting(other)\n"
                "        self._view.opened(link)\n",
            ),
            Edit(
                module=PROXY,
                old="        self._view.unreachable(link, reason)\n        self._rebind_waiting(link)\n",
                new="        self._view.unreachable(link, reason)\n"
                "        self._rebind_waiting(link)\n"
                "        for other in list(self._links.values()):\n"
                "            self._drain_waiting(other)\n",
            ),
        ),
    ),
    Mutant(
        name="withdrawn-keeps-its-room",
        broken="A caller does not take the room of a withdrawn offer back: the window leaks.",
        caught_by="nobody_waits_for_others",
        edits=(
            Edit(
                module=CONNECTION,
                old="        self.session.say(frames.Withdraw(number))\n        self._settle(number)\n",
                new="        self.session.say(frames.Withdraw(number))\n",
            ),
        ),
    ),
    Mutant(
        name="start-waits-behind-chunks",
        broken="Start leaves when no payload has still to leave, and not before its chunks.",
        caught_by="nothing_small_waits_for_payloads",
        edits=(
            Edit(
                module=FLOW,
                old="        self._large = 0\n",
                new="        self._large = 0\n        self._late: list[tuple[Frame, Payload | None]] = []\n",
            ),
            Edit(
                module=FLOW,
                old="        else:\n            self._control.append((frame, None))\n\n    def drop(",
                new='        elif self._large and type(frame).__name__ == "Start":\n'
                "            self._late.append((frame, None))\n"
                "        else:\n"
                "            self._control.append((frame, None))\n\n    def drop(",
            ),
            Edit(
                module=FLOW,
                old="        return bool(self._control) or (self._large > 0 and self._chunk_ready())\n",
                new="        ready = self._large > 0 and self._chunk_ready()\n"
                "        if not self._large:\n"
                "            self._control.extend(self._late)\n"
                "            self._late.clear()\n"
                "        return bool(self._control) or ready\n",
            ),
        ),
    ),
    Mutant(
        name="transient-fault-evicts",
        broken="A worker that could not be connected to once is never tried again.",
        caught_by="nobody_is_evicted_for_good",
        edits=(
            Edit(
                module=LINK,
                old="        if isinstance(reason, TransientRpcError):\n            self.state = LinkState.CLOSED\n",
                new="        if reason is None:\n            self.state = LinkState.CLOSED\n",
            ),
        ),
    ),
    Mutant(
        name="suspect-for-ever",
        broken="A worker that once did not answer in time, and whose session lives, is tried last for ever.",
        caught_by="nobody_is_evicted_for_good",
        edits=(
            Edit(
                module=LINKS,
                old="            if link.half_open:\n",
                new="            if link.half_open and not link.status.suspect:\n",
            ),
        ),
    ),
    Mutant(
        name="drain-accepts",
        broken="A worker that drains goes on to accept offers.",
        caught_by="draining_takes_nothing",
        edits=(
            Edit(
                module=SERVICE,
                old="        if self.draining:\n            return RejectCode.DRAINING",
                new="        if self.draining and offer is None:\n            return RejectCode.DRAINING",
            ),
            Edit(
                module=PROXY,
                old="        if link is not None and not link.draining:\n            link.draining = True\n",
                new="        if link is not None and connection is None:\n            link.draining = True\n",
            ),
        ),
    ),
    # ---- who is there ----
    Mutant(
        name="no-eviction-ever",
        broken="A caller does not hear that a worker is gone.",
        caught_by="view_becomes_truth",
        edits=(
            Edit(
                module=LINKS,
                old="            self.outside.forget(metadata.uid)\n"
                "            if link is not None:\n"
                "                self._drop(link, ",
                new="            self.outside.forget(metadata.uid)\n"
                "            if link is not None and self._closed:\n"
                "                self._drop(link, ",
            ),
        ),
    ),
    Mutant(
        name="event-lost-between-look-and-wait",
        broken="What changes while the events of a look are told is taken for seen.",
        caught_by="view_becomes_truth",
        edits=(
            Edit(
                module="wool.discovery.local",
                old="                    for event in view.advance(snapshot, live):\n"
                "                        yield event\n",
                new="                    for event in view.advance(snapshot, live):\n"
                "                        yield event\n"
                "                        await asyncio.sleep(self._limits.discovery_poll_seconds / 4)\n"
                "                    seen = membership.generation()\n",
            ),
            Edit(
                module="wool.discovery.local",
                old="                due = overdue or membership.generation() != seen\n",
                new="                due = membership.generation() != seen\n",
            ),
        ),
    ),
    Mutant(
        name="dropped-worker-stays-in-use",
        broken="A worker that was dropped while its session is up is offered tasks all the same.",
        caught_by="nothing_is_offered_to_the_dropped",
        edits=(
            Edit(
                module=LINKS,
                old="        if self.links.get(link.uid) is link:\n            del self.links[link.uid]\n",
                new="        if self.links.get(link.uid) is link:\n"
                "            if link.connection is None:\n"
                "                del self.links[link.uid]\n",
            ),
            Edit(
                module=LINKS,
                old="        link.dropped = True\n        link.reason = reason\n",
                new="        link.dropped = link.connection is None\n        link.reason = reason\n",
            ),
        ),
    ),
    Mutant(
        name="dropped-worker-dropped-again",
        broken="A worker that is dropped stays in the list of workers, and is dropped again.",
        caught_by="events_follow_the_grammar",
        edits=(
            Edit(
                module=LINKS,
                old="        if self.links.get(link.uid) is link:\n            del self.links[link.uid]\n",
                new="        if self.links.get(link.uid) is link:\n",
            ),
        ),
    ),
    Mutant(
        name="dropped-worker-is-resurrected",
        broken="A worker that was dropped while a task was on it is back when its session is lost, and tried again.",
        caught_by="candidates_are_in_view",
        edits=(
            Edit(
                module=PROXY,
                old="        if not link.dropped:\n            link.probe_later()\n",
                new="        if self._closing is None:\n"
                "            link.dropped = False\n"
                "            self._view.links.setdefault(link.uid, link)\n"
                "            link.probe_later()\n",
            ),
        ),
    ),
    Mutant(
        name="incarnation-is-ignored",
        broken="Whoever answers at a worker's address is taken for that worker.",
        caught_by="nothing_is_offered_to_the_dropped",
        edits=(
            Edit(
                module=CONNECTION,
                old="    if expects and metadata.uid != expects:\n",
                new="    if expects and metadata.uid == b'':\n",
            ),
            Edit(
                module=SERVICE,
                old="        if words.expects and words.expects != metadata.uid:\n",
                new="        if words.expects == '-':\n",
            ),
        ),
    ),
)
