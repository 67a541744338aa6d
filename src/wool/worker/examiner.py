"""The admission hook: user code that says whether a worker takes a task, run on the routine loop.

Why it exists: a hook may look at whatever bodies leave behind there, and may await it; so it belongs on their loop.
What waits for its word is in `wool.worker.admission`.

What it owns: how a hook comes to a worker, pickled or as a name, and the tasks of async ones. Whatever a hook raises,
the worker lives on, and the task goes elsewhere.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import re
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from wool.bridge import MailboxLike
from wool.harmless import harmless
from wool.limits import MOST_REASON_CHARACTERS
from wool.remote_traceback import message_of
from wool.serialization import dumps_inline, loads_inline
from wool.worker.admission import Admission, TaskOffer
from wool.worker.forks import leave_if_forked
from wool.worker.spec import Unfit

if TYPE_CHECKING:
    from wool.worker.job import Lobby, Served

AdmissionHook: TypeAlias = Callable[[TaskOffer], "bool | str | Awaitable[bool | str]"]
"""Says whether a worker takes a task: True; or False, or why not. A plain function, or an async one."""


def check_admission(hook: object) -> AdmissionHook | None:
    """Return ``hook`` if it may be one, or None. Raises `TypeError`."""
    if hook is not None and not callable(hook):
        raise TypeError(
            f"admission must be a function of a TaskOffer that returns True, False or a reason, got {hook!r:.100}"
        )
    return cast("AdmissionHook | None", hook)


def dump_admission(hook: AdmissionHook | None) -> bytes | None:
    """Pickle a hook for the workers. Raises `ValueError` if that cannot be."""
    try:
        return None if hook is None else dumps_inline(hook)
    except Exception as error:  # The user's own code may raise anything.
        raise ValueError(f"admission={hook!r:.100} cannot be pickled for the workers: {error}") from error


def load_admission(pickled: bytes) -> AdmissionHook:
    """Return what `dump_admission` has pickled. Raises `RuntimeError` if it cannot be loaded here: `Unfit`, if there is
    nothing of that name.
    """
    try:
        hook = loads_inline(pickled)
    except Unfit as error:
        raise Unfit(f"the admission hook cannot be loaded: {error}") from None
    except Exception as error:  # The user's own code may raise anything.
        raise RuntimeError(f"the admission hook cannot be loaded: {type(error).__name__}: {error}") from error
    if not callable(hook):
        raise Unfit(f"the admission hook is no function: {hook!r:.100}")
    return cast("AdmissionHook", hook)


_NAMED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def named_admission(name: object) -> NamedHook:
    """Return the hook of that name, ``module:function``, which is looked up on the workers. Raises `ValueError`."""
    if not isinstance(name, str) or _NAMED.fullmatch(name) is None:
        raise ValueError(f"must be 'module:function', as in 'app.admission:admit', got {name!r:.100}")
    return NamedHook(name)


class NamedHook:
    """A hook that only the workers look up: pickled, it is a name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return _look_up, (self.name,)

    def __call__(self, offer: TaskOffer) -> bool | str | Awaitable[bool | str]:
        """Ask it here."""
        return _look_up(self.name)(offer)


def _look_up(name: str) -> AdmissionHook:
    module, _, function = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # it is there, and what it imports is not
        raise Unfit(f"{type(error).__name__}: {error}") from None
    for part in function.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise Unfit(f"{type(error).__name__}: {error}") from None
    return cast("AdmissionHook", found)


class Examiner:
    """Runs the hook, on the routine loop: in a context of its own, an async one in a task of its own."""

    def __init__(self, hook: AdmissionHook, *, loop: asyncio.AbstractEventLoop, io: MailboxLike) -> None:
        self._hook = hook
        self._loop = loop
        self._io = io
        self._tasks: dict[Served, asyncio.Task[None]] = {}
        self._tell: Callable[[Served, str | None, str], None] | None = None

    def admission(
        self, routines: MailboxLike, *, onward: Callable[[Lobby, Served], None], complain: Callable[..., object]
    ) -> Admission:
        """Make what asks, on the I/O loop. ``routines`` leads here; once."""
        made = Admission(
            examine=lambda served, offer: routines.post(self.examine, served, offer),
            forget=lambda served: routines.post(self.forget, served),
            onward=onward,
            complain=complain,
        )
        self._tell = made.answered
        return made

    def examine(self, served: Served, offer: TaskOffer) -> None:
        """Ask the hook."""
        context = Context()
        try:
            verdict = context.run(self._hook, offer)
        except BaseException as error:  # Whatever a user's function raises, also to end the process.
            leave_if_forked(error)
            self._failed(served, error)
            return
        if inspect.isawaitable(verdict):
            waits = self._wait(served, verdict)
            task = self._loop.create_task(waits, name="wool admission hook", context=context)
            self._tasks[served] = task
            task.add_done_callback(lambda _: self._ended(served, verdict))
        else:
            self._say(served, verdict)

    def forget(self, served: Served) -> None:
        """Nobody wants to know any more."""
        task = self._tasks.get(served)
        if task is not None:
            task.cancel()

    async def close(self, seconds: float) -> None:
        """Cancel what still thinks; return when it has ended, or after ``seconds``."""
        for task in (tasks := list(self._tasks.values())):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)

    async def _wait(self, served: Served, awaitable: Awaitable[bool | str]) -> None:
        try:
            verdict = await awaitable
        except BaseException as error:  # See `examine`. Who has cancelled the hook wants to know nothing any more.
            leave_if_forked(error)
            self._failed(served, error)
        else:
            self._say(served, verdict)

    def _ended(self, served: Served, awaitable: object) -> None:
        del self._tasks[served]
        if isinstance(awaitable, Coroutine):
            awaitable.close()  # cancelled before it began, it would be said never to have been awaited

    def _say(self, served: Served, verdict: object) -> None:
        assert self._tell is not None
        if verdict is True:
            self._io.post(self._tell, served, None, "")
        elif verdict is False or isinstance(verdict, str):
            reason = harmless(str.__str__(verdict), MOST_REASON_CHARACTERS) if isinstance(verdict, str) else ""
            self._io.post(self._tell, served, reason or "the admission hook said no", "")
        else:
            self._failed(served, TypeError(f"it returned {type(verdict).__name__}, not True, False or a reason"))

    def _failed(self, served: Served, error: BaseException) -> None:
        assert self._tell is not None
        fault = harmless(f"{type(error).__name__}: {message_of(error, MOST_REASON_CHARACTERS)}", MOST_REASON_CHARACTERS)
        self._io.post(self._tell, served, f"the admission hook failed: {type(error).__name__}", fault)
