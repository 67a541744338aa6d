"""Everything that wool itself raises, and what each says about the task.

An outcome exception carries ``executed``: ``"no"`` (the body never began, and never will), ``"yes"``
(it began, and has ended) or ``"unknown"`` (it may have begun). Only ``"no"`` is safe to call again
without thinking; wool never does it for you.

=====================  =========  ==============================================================
exception              executed   whose fault, and what to do
=====================  =========  ==============================================================
`NoWorkersAvailable`   no         nobody could take the task; ``reasons`` says why, per worker
`DispatchTimeout`      no         nobody took it in time; raise ``dispatch_timeout`` or add workers
`SerializationError`   no or yes  what does not travel: make it picklable, importable or smaller
`RemoteError`          yes        the routine raised what must not pass for an outcome of this call
`TaskInterrupted`      yes        an operator ended it; it has ended
`WorkerLost`           unknown    the worker fell silent or broke the protocol after start
=====================  =========  ==============================================================

`RpcError`, `TransientRpcError` and `UnexpectedResponse` never leave a call by themselves: they are
causes, and the reasons inside `NoWorkersAvailable`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

Executed: TypeAlias = Literal["no", "yes", "unknown"]


class WoolError(Exception):
    """Base of wool's own exceptions."""

    executed: Executed = "unknown"
    """Whether the body of the task began to run, as far as anybody can know."""


class NoWorkersAvailable(WoolError):
    """Nobody is left to try. The task never began and never will.

    ``reasons`` maps a worker's uid (or address, where no uid is known) to the exception that says
    why that worker did not take the task; it is empty if no worker was known at all.
    """

    executed: Executed = "no"

    def __init__(self, message: str, reasons: Mapping[str, BaseException] | None = None) -> None:
        super().__init__(message)
        self.reasons: dict[str, BaseException] = dict(reasons or {})

    def __str__(self) -> str:
        message = str(self.args[0]) if self.args else ""
        lines = [f"  {worker}: {type(why).__name__}: {why}" for worker, why in self.reasons.items()]
        return "\n".join([message, *lines])


class DispatchTimeout(NoWorkersAvailable, TimeoutError):
    """No worker took the task within ``dispatch_timeout``. It never began and never will."""


class SerializationError(WoolError):
    """Something that had to travel could not be pickled, loaded, or is over a limit.

    ``executed`` is ``"no"`` for the definition and the arguments, and ``"yes"`` for a result, an item
    or an exception: then the body has run, and only its answer is missing.
    """

    def __init__(self, message: str, *, executed: Executed = "no") -> None:
        super().__init__(message)
        self.executed: Executed = executed


class RemoteError(WoolError, RuntimeError):
    """The routine raised what would be misread as an outcome of this call; ``__cause__`` is it.

    Wool's own outcome exceptions (of a nested call), `SystemExit`, `KeyboardInterrupt` and
    `GeneratorExit` arrive so, as does an exception whose class cannot be rebuilt here. The body ran.
    """

    executed: Executed = "yes"


class TaskInterrupted(WoolError):
    """An operator ended the task: drain time over, or the pool was closed. It ran, and has ended.

    A task whose body had not begun by then ends as `NoWorkersAvailable`, which says so.
    """

    executed: Executed = "yes"


class WorkerLost(WoolError):
    """The worker cannot be heard any more, or broke the protocol, after the task was started.

    The body may be running, may have ended, or may never have begun. Retry is the application's
    decision, since only it knows whether running twice does harm.
    """

    executed: Executed = "unknown"


class RpcError(WoolError):
    """A session could not be opened or broke, and trying that worker again is pointless.

    The other protocol version, another Python, a refused identity. Never an outcome by itself.
    """


class TransientRpcError(RpcError):
    """A session could not be opened or broke, and may work later. Never an outcome by itself."""


class UnexpectedResponse(RpcError):
    """The peer said what the protocol does not allow. Never an outcome by itself."""
