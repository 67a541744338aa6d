"""What a call is told that ends on the caller's own side: the exception, in words that name what was tried.

It makes exceptions of what the proxy knows, and must never change anything of that, nor decide whether a call ends.
"""

from __future__ import annotations

import asyncio

from wool.call import Answer, PlacedCall
from wool.discovery.base import Sought
from wool.errors import (
    DispatchTimeout,
    NoWorkersAvailable,
    RpcError,
    SerializationError,
    TaskInterrupted,
    TransientRpcError,
    WorkerLost,
)
from wool.limits import MOST_CHARACTERS
from wool.link import Link
from wool.links import Links
from wool.protocol.caller import End, Outcome, State
from wool.protocol.frames import Result, ResultKind
from wool.remote_traceback import message_of
from wool.serialization import Payload


def local_answer(call: PlacedCall, outcome: Outcome, view: Links, what: Sought, closing: str | None) -> Answer:
    """Return what a call is told that ends as its own machine says."""
    if outcome is Outcome.TIMEOUT:
        return Answer(None, error=timed_out(call, view, what, closing))
    if outcome is Outcome.CANCELLED:
        return Answer(None, error=asyncio.CancelledError())
    if outcome is Outcome.INTERRUPTED:
        return Answer(None, error=interrupted(call, closing))
    return Answer(None, error=lost(call))


def not_placed(call: PlacedCall, view: Links, what: Sought, closing: str | None) -> NoWorkersAvailable:
    """Nobody is left to try."""
    reasons = reasons_of(call, view, closing)
    if closing is not None:
        error = NoWorkersAvailable(f"{call.task} was not placed: {closing}", reasons)
    else:
        troubles = what.troubles()
        said = [text for text in troubles if "looked up" in text] if reasons else ["none is known", *troubles]
        broken = view.ended_with
        if broken is not None:
            said.append(str(broken) if type(broken) is EOFError else f"discovery failed: {in_words(broken)}")
        words = "; ".join(said)
        error = NoWorkersAvailable(f"no worker of {what} took {call.task}:{words and ' ' + words}", reasons)
    error.__cause__ = view.ended_with
    return error


def timed_out(call: PlacedCall, view: Links, what: Sought, closing: str | None) -> DispatchTimeout:
    """Nobody has accepted in time."""
    reasons = reasons_of(call, view, closing)
    words = f"no worker of {what} accepted {call.task} within {call.dispatch_timeout} s (dispatch_timeout)"
    return DispatchTimeout(words if reasons else "; ".join((f"{words}: none was found", *what.troubles())), reasons)


def interrupted(call: PlacedCall, closing: str | None) -> TaskInterrupted:
    """The pool was closed, or the worker's drain time was over."""
    why = " by its worker's operator" if closing is None else f": {closing}"
    return TaskInterrupted(f"{call.task} was interrupted{why}")


def too_late(call: PlacedCall, closing: str | None) -> Answer:
    """The proxy is closed: what is told a call that comes now, or a step of a generator."""
    if call.machine.state is State.QUEUED:
        call.machine.exhausted()
        return Answer(None, error=NoWorkersAvailable(f"{call.task} was not placed: {closing}"))
    for instruction in call.machine.step():
        if isinstance(instruction, End) and instruction.outcome is Outcome.INTERRUPTED:
            return Answer(None, error=interrupted(call, closing))
    return Answer(None, error=lost(call))


def cut_off(call: PlacedCall, why: str) -> Answer | None:
    """The I/O loop has ended by itself. Returned is what a call is told that still waits for an answer."""
    machine = call.machine
    if machine.state is State.QUEUED:
        return too_late(call, why)
    if machine.state is State.OFFERED:
        machine.cancel()
        return Answer(None, error=NoWorkersAvailable(f"{call.task} was not placed: {why}"))
    if machine.state is State.STARTED or machine.state is State.CANCELLING:
        for instruction in machine.lost(call.connection):
            if isinstance(instruction, End):
                return Answer(
                    None, error=lost(call) if instruction.outcome is Outcome.LOST else asyncio.CancelledError()
                )
    return None


def told(call: PlacedCall, result: Result, payload: Payload) -> Answer:
    """What the worker says of the end."""
    if result.kind is not ResultKind.UNBEGUN:
        return Answer(result.kind, payload, result.echo, cancels=result.cancels)
    link = call.link
    uid = link.uid if isinstance(link, Link) else "?"
    why = "its operator ended the task before the body began"
    # It was started, so nobody else is asked; but nobody has run it, and nobody will.
    error = NoWorkersAvailable(f"worker {uid[:8]} did not begin {call.task}", {uid: TransientRpcError(why)})
    return Answer(None, error=error, cancels=result.cancels)


def lost(call: PlacedCall) -> WorkerLost:
    """The session ended after the start."""
    link = call.link
    uid = link.uid[:8] if isinstance(link, Link) else "?"
    error = WorkerLost(f"worker {uid} was lost after {call.task} was started: it may have run")
    error.__cause__ = link.reason if isinstance(link, Link) else None
    return error


def too_large(call: PlacedCall, what: str, size: int, limit: int, executed: str) -> SerializationError:
    """What would have to travel is over the limit."""
    return SerializationError(
        f"{what} of {call.task} take {size} bytes pickled, the limit is {limit} (payload_bytes): "
        "pass a reference to the data, or send it in pieces with a generator",
        executed="yes" if executed == "yes" else "no",
    )


def reasons_of(call: PlacedCall, view: Links, closing: str | None) -> dict[str, RpcError]:
    """Return why each worker, by uid or address, does not have the task."""
    reasons: dict[str, RpcError] = {**view.gone, **dict(view.outside.reasons())}
    for link in view.links.values():
        if link.draining:
            reasons[link.uid] = TransientRpcError("the worker is draining")
        elif link.reason is not None:
            reasons[link.uid] = link.reason
        elif closing is None:
            reasons[link.uid] = TransientRpcError(_standing(call, link))
    reasons.update(call.tried or {})
    return reasons


def _standing(call: PlacedCall, link: Link) -> str:
    """Say why a worker that has refused nothing does not have the task."""
    if call.link is not link:
        return "the task was not offered to it: the load balancer did not name it"
    if call.parked:
        return "no place there became free (max_concurrency)"
    if call.connection is not None:  # The machine has withdrawn the offer: the call is over.
        return "it has not answered the offer"
    return "there was no room in its window" if link.connection is not None else "its session was not open yet"


def in_words(error: BaseException) -> str:
    """Name the class too: the text alone is often none. Never raises: the error is a user's, and so is its text."""
    name, words = type(error).__name__, message_of(error, MOST_CHARACTERS)
    return f"{name}: {words}" if words else f"{name} (without a message)"
