"""Bugs that leave something behind, or somebody waiting: X and L."""

from __future__ import annotations

from sim.mutants.mutant import Edit, Mutant

PROXY, LINK = "wool.proxy", "wool.link"

MUTANTS = (
    Mutant(
        name="stream-left-by-a-failed-handshake",
        broken="The stream of a handshake that fails is left open.",
        caught_by="nothing_is_left",
        edits=(
            Edit(
                module="wool.connection",
                old="            if stream is not None:\n"
                '                stream.abort("handshake failed")\n'
                "                await stream.close()\n",
                new="",
            ),
        ),
    ),
    Mutant(
        name="probe-timer-is-left",
        broken="The timer that tries a suspect worker again goes on after the exit.",
        caught_by="nothing_is_left",
        edits=(
            Edit(
                module=LINK,
                old="        self.dropped = True\n        self._stop_probing()\n",
                new="        self.dropped = True\n",
            ),
        ),
    ),
    Mutant(
        name="subscription-is-left",
        broken="A subscriber that is cancelled does not leave its namespace.",
        caught_by="nothing_is_left",
        edits=(
            Edit(
                module="wool.discovery.local",
                old="        finally:\n            membership.close()\n",
                new="        finally:\n            membership.check_process()\n",
            ),
        ),
    ),
    Mutant(
        name="failure-is-never-retrieved",
        broken="A worker that cannot be reached leaves its failure in the task that tried, where nobody looks for it.",
        caught_by="nothing_is_left",
        edits=(
            Edit(
                module=LINK,
                old="            self._failed(reason)\n            return\n        except Exception as error:\n",
                new="            self._failed(reason)\n            raise\n        except Exception as error:\n",
            ),
        ),
    ),
    Mutant(
        name="answer-meets-a-cancelled-future",
        broken="An answer that meets a cancellation on the last stretch is set on a future that is done.",
        caught_by="nothing_goes_unhandled",
        edits=(
            Edit(
                module="wool.call",
                old="        if self._answer.done():\n",
                new="        if self._answer.done() and answer is None:\n",
            ),
        ),
    ),
    Mutant(
        name="exit-waits-for-the-worker",
        broken="A proxy that is closed says goodbye to its workers, and waits until each has ended its session.",
        caught_by="exit_ends_in_time",
        fault="freeze",
        edits=(
            Edit(
                module=LINK,
                old="            connection.session.finish(reason)\n"
                "            await asyncio.wait([task], timeout=self._limits.handshake_seconds)\n",
                new="            connection.session.finish(reason)\n            await asyncio.wait([task])\n",
            ),
            Edit(
                module="wool.session",
                old=" what was written, and our own reader with them.\n                    await stream.close()\n",
                new="\n",
            ),
        ),
    ),
    Mutant(
        name="lost-is-told-to-offers-only",
        broken="A session that is lost is told to the calls that were offered, and not to those that were started.",
        caught_by="the_run_ends",
        edits=(
            Edit(
                module=PROXY,
                old="            self._perform(call, call.machine.lost(connection))\n"
                "        self._rebind_waiting(link)\n",
                new="                self._perform(call, call.machine.lost(connection))\n"
                "        self._rebind_waiting(link)\n",
            ),
        ),
    ),
    Mutant(
        name="lost-link-stays-lost",
        broken="A worker whose session was lost counts as connected: what is given to it waits in vain.",
        caught_by="probes_succeed",
        edits=(
            Edit(
                module=LINK,
                old="        self.reason = reason\n"
                "        self.state = LinkState.CLOSED\n"
                "        self.connection = None\n",
                new="        self.reason = reason\n        self.connection = None\n",
            ),
            Edit(
                module=PROXY,
                old="            link.probe_later()\n"
                "            self._view.ask_others(link.uid)\n"
                "        for call in calls:\n",
                new="            self._view.ask_others(link.uid)\n        for call in calls:\n",
            ),
        ),
    ),
)
