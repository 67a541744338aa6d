"""Virtual time, and who runs next: one scheduler for all event loops of a simulated cluster.

Why it exists: asyncio on a real loop repeats nothing. Here a run is a function of its plan.

What it owns: the clock, the one queue of what is ready, the timers, and the loops, two per simulated process
(the user's and the I/O loop) plus the world's own. Inside a loop order is first in, first out, as in asyncio;
between loops the plan chooses, by holding a loop back. A loop that is held (stalled, paused) keeps what is
ready for later; one that is dead keeps it for ever, so that nothing of a crashed process runs any more, not
even a ``finally``.

What it must never do: read a clock, draw a random number, iterate over a set, or touch a thread. What a
simulated program may not touch either raises `EscapedSimulation`.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import sys
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextvars import copy_context
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar, TypeVarTuple, cast

from wool.sim.fence import FENCE, EscapedSimulation, SimulationError
from wool.sim.suspended import end_coroutine, end_generator, where

if TYPE_CHECKING:
    _Handle = asyncio.TimerHandle
else:
    _Handle = object

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")

STEP_SECONDS = 1e-6
"""What one callback takes in virtual time, so that a busy loop moves the clock."""

_BURST = range(64)

MOST_STEPS = 20_000_000
"""A run that takes more spins."""


class Deadlock(SimulationError):
    """Nothing is ready and no timer is set, and the run has not ended. Says where every task waits."""


class Livelock(SimulationError):
    """The run does not end: it took too many steps, or too much virtual time."""


class SimHandle(_Handle):
    """A callback in a loop's queue. Leaner than asyncio's: to users of the loop it is one, and that is all."""

    __slots__ = ("call", "due", "loop", "surroundings")

    # One is made for each step, and in two of three steps nothing is dearer.
    def __init__(self, loop: SimLoop, call: tuple[Any, ...], surroundings: contextvars.Context) -> None:
        self.loop: SimLoop = loop
        self.call: tuple[Any, ...] | None = call
        """What to call, and its arguments; None once it is cancelled."""
        self.surroundings: contextvars.Context = surroundings
        self.due: float
        """Of a timer."""

    @property
    def gone(self) -> bool:
        """It was cancelled."""
        return self.call is None

    @property
    def callback(self) -> Callable[..., object] | None:
        """What it calls."""
        return None if self.call is None else self.call[0]

    def cancel(self) -> None:
        """Never run it."""
        self.call = None

    def cancelled(self) -> bool:
        """Whether it will never run."""
        return self.call is None

    def when(self) -> float:
        """Return when it is due."""
        return self.due

    def __repr__(self) -> str:
        return f"<SimHandle of {self.loop.name} {self.callback or 'cancelled'}>"

    def __hash__(self) -> int:
        return id(self)


def _nothing() -> None: ...


class SimFuture(asyncio.Future[_T]):
    """A future whose hash is a sequence number, given when first asked for: sets of them have one order."""

    __slots__ = ("_sequence",)

    def __hash__(self) -> int:
        try:
            return self._sequence
        except AttributeError:
            self._sequence: int = cast("SimLoop", self.get_loop()).world.next_hash()
            return self._sequence


class SimTask(asyncio.Task[_T]):
    """A task whose hash is a sequence number: a `TaskGroup` cancels its children in one order."""

    __slots__ = ("_sequence",)

    def __init__(
        self,
        work: Coroutine[Any, Any, _T] | Generator[Any, None, _T],
        *,
        loop: SimLoop,
        name: str | None,
        context: contextvars.Context | None,
    ) -> None:
        # Before asyncio registers it in a set.
        self._sequence: int = loop.world.next_hash()
        super().__init__(work, loop=loop, name=name or f"task {self._sequence}", context=context)
        loop.begun.append(weakref.ref(self))

    def __hash__(self) -> int:
        return self._sequence

    def forget(self) -> None:
        """Say nothing when it is destroyed while it waits: its process has crashed, or the world has ended."""
        self._log_destroy_pending = False


class LoopOwner(Protocol):
    """The simulated process that a loop belongs to."""

    @property
    def name(self) -> str:
        """The incarnation: ``w1#0``."""
        ...

    @property
    def label(self) -> str:
        """The process that it is an incarnation of: ``w1``."""
        ...

    @property
    def dead(self) -> bool:
        """Whether it has crashed or exited: it has no effect any more."""
        ...

    def seam(self) -> bool:
        """The process reaches through a seam, where a crash may strike it. False: it is dead, nothing happens."""
        ...

    def failed(self, loop: SimLoop, context: dict[str, Any]) -> None:
        """Something reached the exception handler of ``loop``."""
        ...


class SimLoop(asyncio.AbstractEventLoop):
    """One thread's event loop. What it does not implement raises `NotImplementedError`."""

    def __init__(self, world: World, name: str, owner: LoopOwner | None) -> None:
        self.world = world
        self.name = name
        self.owner = owner
        self.held: bool = False
        """It does not run now: what is ready goes into `parked`."""
        self.dead: bool = False
        self.parked: deque[SimHandle] = deque()
        self.crawl_seconds: float = 0.0
        """What each of its steps takes longer."""
        self.begun: list[weakref.ref[SimTask[Any]]] = []
        """Every task, oldest first."""
        self._holds = 0
        self._append = world.ready.append
        self._wakeups = 0
        if not TYPE_CHECKING:
            # Called for every wait of every task: this way it is made without a frame of Python.
            self.create_future = functools.partial(SimFuture, loop=self)
        self.lead: float = 0.0
        """The step under way has let so much time pass without waiting: what it does happens so much later."""

    def __repr__(self) -> str:
        state = "dead" if self.dead else "held" if self.held else "running"
        return f"<SimLoop {self.name} {state}>"

    # ---- what asyncio asks ----

    def time(self) -> float:
        """Return virtual seconds since the world began."""
        return self.world.now + self.lead

    if TYPE_CHECKING:

        def get_debug(self) -> bool:
            """Never in debug mode."""
            ...
    else:
        # Every future and task asks: `bool()` is False, without a frame of Python.
        get_debug = bool

    def set_debug(self, enabled: bool) -> None:
        """Refused: it would read the clock."""
        raise EscapedSimulation("a simulated loop has no debug mode")

    def is_running(self) -> bool:
        """Whether it may run what it is given."""
        return not self.dead

    def is_closed(self) -> bool:
        """A simulated loop does not close before the world does."""
        return False

    def call_soon(
        self, callback: Callable[[*_Args], object], *args: *_Args, context: contextvars.Context | None = None
    ) -> SimHandle:
        """Run ``callback(*args)`` after all that this loop has to run already."""
        handle = SimHandle(self, (callback, *args), copy_context() if context is None else context)
        self._append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*_Args], object], *args: *_Args, context: contextvars.Context | None = None
    ) -> SimHandle:
        """As `call_soon`, from another loop: later by what the plan's noise makes of it."""
        world = self.world
        running = world.current
        delay = 0.0
        if running is not None and running.owner is not None:
            if not running.owner.seam():
                return SimHandle(self, (_nothing,), copy_context())
            delay = running.lead
        if world.jitter is not None:
            self._wakeups += 1
            delay += world.jitter(self.name, self._wakeups)
        handle = SimHandle(self, (callback, *args), copy_context() if context is None else context)
        if delay > 0:
            handle.due = when = world.now + delay
            world.timer_number = number = world.timer_number + 1
            heappush(world.timers, (when, number, handle))
        else:
            self._append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[*_Args], object],
        *args: *_Args,
        context: contextvars.Context | None = None,
    ) -> SimHandle:
        """Run it ``delay`` seconds from now."""
        handle = SimHandle(self, (callback, *args), copy_context() if context is None else context)
        world = self.world
        handle.due = when = world.now + self.lead + delay
        world.timer_number = number = world.timer_number + 1
        heappush(world.timers, (when, number, handle))
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Args], object],
        *args: *_Args,
        context: contextvars.Context | None = None,
    ) -> SimHandle:
        """Run it at ``when``."""
        handle = SimHandle(self, (callback, *args), copy_context() if context is None else context)
        handle.due = when
        world = self.world
        world.timer_number = number = world.timer_number + 1
        heappush(world.timers, (when, number, handle))
        return handle

    def create_future(self) -> SimFuture[Any]:
        """Return a future of this loop."""
        return SimFuture(loop=self)

    def create_task(
        self,
        coro: Coroutine[Any, Any, _T] | Generator[Any, None, _T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> SimTask[_T]:
        """Start a task of this loop."""
        task = SimTask(coro, loop=self, name=name, context=context)
        if self.world.ended:
            # A `finally` that is run because its world ends: what it begins does not run.
            task.forget()
            coro.close()
        return task

    def get_task_factory(self) -> None:
        """There is none."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Tell the process that this loop belongs to."""
        if self.owner is not None and not self.dead:
            self.owner.failed(self, context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """See `call_exception_handler`."""
        self.call_exception_handler(context)

    async def shutdown_asyncgens(self) -> None:
        """There is nothing to do: the world closes what is left."""

    def run_in_executor(self, executor: object, func: object, *args: object) -> NoReturn:
        """Refused: there are no threads."""
        raise EscapedSimulation(f"{self.name} would start a thread for {func!r}: run_in_executor")

    # ---- what the simulator asks ----

    def hold(self) -> None:
        """Run nothing until as many `release` have come."""
        self._holds += 1
        self.held = True

    def release(self) -> None:
        """Go on, first with what has waited."""
        self._holds -= 1
        if self._holds > 0 or self.dead:
            return
        self.held = False
        parked, self.parked = self.parked, deque()
        # Before what has become ready for this loop since, and is in the queue behind what is running.
        mine = [handle for handle in self.world.ready if handle.loop is self]
        if mine:
            others = [handle for handle in self.world.ready if handle.loop is not self]
            self.world.ready.clear()
            self.world.ready.extend(others)
            parked.extend(mine)
        self.world.ready.extend(parked)

    def hold_for(self, seconds: float) -> None:
        """Run nothing for so long."""
        self.hold()
        self.world.loop.call_at(self.world.now + seconds, self.release)

    def block(self, seconds: float) -> None:
        """The step under way takes so much longer, as far as anybody can tell: its effects come later."""
        self.lead += seconds
        self.hold()
        self.world.loop.call_at(self.world.now + self.lead, self._unblock)

    def _unblock(self) -> None:
        self.lead = 0.0
        self.release()

    def kill(self) -> None:
        """Never run anything again. What is suspended stays as it is, referenced from `parked`."""
        self.dead = self.held = True

    def tasks(self) -> list[SimTask[Any]]:
        """Return the tasks that have not ended, oldest first."""
        # Not asyncio's own register, which holds those of all loops, in no order.
        tasks = [task for begun in self.begun if (task := begun()) is not None and not task.done()]
        self.begun = [weakref.ref(task) for task in tasks]
        return tasks

    def disconnect(self) -> None:
        """Ignore everything from now on: the world has ended."""
        self.dead = self.held = True
        self._append = _ignore
        self.parked.clear()


def _ignore(handle: SimHandle) -> None:
    handle.cancel()


class World:
    """A cluster's time and its loops."""

    def __init__(self, *, jitter: Callable[[str, int], float] | None = None) -> None:
        self.now: float = 0.0
        self.ready: deque[SimHandle] = deque()
        self.timers: list[tuple[float, int, SimHandle]] = []
        self.timer_number: int = 0
        self.jitter = jitter
        """Seconds by which a wake-up between threads comes later, from the loop's name and the wake-up's ordinal."""
        self.steps: int = 0
        self.loops: list[SimLoop] = []
        self.kept: list[object] = []
        """What must not be destroyed before the verdict: dropped references would run ``finally``."""
        self._hashes = 0
        self._generators: dict[int, SimLoop] = {}
        self.current: SimLoop | None = None
        """Whose step is under way."""
        self.ended: bool = False
        self.loop: SimLoop = self.new_loop("world", None)

    def __repr__(self) -> str:
        return f"<World at {self.now:.6f} s, {len(self.loops)} loops, {self.steps} steps>"

    def next_hash(self) -> int:
        """Return what the next task or future is known by in sets."""
        self._hashes += 1
        return self._hashes

    def new_loop(self, name: str, owner: LoopOwner | None) -> SimLoop:
        """Return a new loop in this world."""
        # The stubs call abstract what raises NotImplementedError, which is what is wanted here.
        make: Any = SimLoop
        loop: SimLoop = make(self, name, owner)
        self.loops.append(loop)
        return loop

    def run(self, until: Callable[[], bool], *, most_seconds: float, most_steps: int = MOST_STEPS) -> None:
        """Run until the condition holds. Raises `Deadlock` or `Livelock`, and what a callback of the world raises."""
        before = asyncio._get_running_loop()
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=self._first_iteration, finalizer=self._finalize)
        FENCE.enter()
        try:
            self._run(until, most_seconds, self.steps + most_steps)
            if FENCE.escaped is not None:
                # Whoever tried may have swallowed it.
                raise EscapedSimulation(FENCE.escaped)
        finally:
            FENCE.leave()
            sys.set_asyncgen_hooks(*hooks)
            self.current = None
            asyncio._set_running_loop(before)

    def idle_until(self, when: float) -> bool:
        """Whether nothing is left to be run that is due by then."""
        timers = self.timers
        if self.now >= when:
            return True
        while timers and timers[0][2].call is None:
            heappop(timers)
        return not self.ready and (not timers or timers[0][0] > when)

    def _run(self, until: Callable[[], bool], most_seconds: float, most_steps: int) -> None:
        ready, timers = self.ready, self.timers
        popleft, set_running_loop = ready.popleft, asyncio._set_running_loop
        current: SimLoop | None = None
        steps = self.steps
        now = self.now
        try:
            while not until():
                # A burst between two looks at the condition: it is asked often enough.
                for _ in _BURST:
                    if ready:
                        if timers and timers[0][0] <= now:
                            self._fire(now)
                    elif until():
                        return
                    else:
                        self.now = now = self._wait(now, most_seconds)
                    handle = popleft()
                    call = handle.call
                    if call is None:
                        continue
                    loop = handle.loop
                    if loop.held:
                        loop.parked.append(handle)
                        continue
                    if loop is not current:
                        set_running_loop(loop)
                        self.current = current = loop
                    steps += 1
                    self.now = now = now + STEP_SECONDS
                    if loop.crawl_seconds:
                        loop.hold_for(loop.crawl_seconds)
                    try:
                        handle.surroundings.run(*call)
                    except KeyboardInterrupt:
                        raise
                    except BaseException as error:
                        if loop.owner is None:
                            raise
                        loop.call_exception_handler({"message": f"in {call[0]!r}", "exception": error})
                if steps > most_steps:
                    raise Livelock(f"the run has not ended after {steps} steps\n{self.report()}")
                if len(timers) > 256 and self.timer_number % 64 == 0:
                    self._sweep()
        finally:
            self.steps = steps

    def _fire(self, now: float) -> None:
        """Let all that is due become ready, in the order of its times."""
        timers, append = self.timers, self.ready.append
        while timers and timers[0][0] <= now:
            timer = heappop(timers)[2]
            if timer.call is not None:
                append(timer)

    def _wait(self, now: float, most_seconds: float) -> float:
        """Nothing is ready: let time pass until something is, and return what time it is then."""
        timers = self.timers
        while timers:
            when, _, timer = heappop(timers)
            if timer.call is None:
                continue
            if when > now:
                self.now = now = when
                if when > most_seconds:
                    raise Livelock(f"the run has not ended after {most_seconds} s\n{self.report()}")
            self.ready.append(timer)
            if timers and timers[0][0] <= now:
                self._fire(now)
            return now
        raise Deadlock(f"nothing is ready and no timer is set at {self.now:.6f} s\n{self.report()}")

    def _sweep(self) -> None:
        timers = self.timers
        alive = [entry for entry in timers if entry[2].call is not None]
        if len(alive) < len(timers) // 2:
            timers[:] = alive
            heapify(timers)

    # ---- async generators: whose loop closes one that is collected ----

    def _first_iteration(self, generator: AsyncGenerator[Any, Any]) -> None:
        if self.current is not None:
            self._generators[id(generator)] = self.current

    def _finalize(self, generator: AsyncGenerator[Any, Any]) -> None:
        loop = self._generators.pop(id(generator), None)
        if loop is None or loop.dead or self.ended:
            self.kept.append(generator)
            return
        loop.call_soon(_close_generator, loop, generator)

    # ---- the end ----

    def report(self) -> str:
        """Say where every task of every loop waits."""
        lines: list[str] = []
        for loop in self.loops:
            state = "dead" if loop.dead else "held" if loop.held else ""
            name = f"{loop.name} ({state})" if state else loop.name
            lines.extend(f"  {name}: {task.get_name()}: {where(task)}" for task in loop.tasks())
        return "\n".join(lines) or "  no task is left"

    def dismantle(self) -> None:
        """End everything that is suspended, unheard, so that nothing reaches another run."""
        self.ended = True
        before = asyncio._get_running_loop()
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=None, finalizer=end_generator)
        tasks = [task for loop in self.loops for task in loop.tasks()]
        for task in tasks:
            task.forget()
        for loop in self.loops:
            loop.disconnect()
        self.ready.clear()
        self.timers.clear()
        try:
            asyncio._set_running_loop(self.loop)
            for task in tasks:
                end_coroutine(cast("Coroutine[Any, Any, Any]", task.get_coro()))
            for kept in self.kept:
                if inspect.isasyncgen(kept):
                    end_generator(kept)
            self.kept.clear()
        finally:
            asyncio._set_running_loop(before)
            sys.set_asyncgen_hooks(*hooks)


def _close_generator(loop: SimLoop, generator: AsyncGenerator[Any, Any]) -> None:
    # Nobody awaits it: what its `finally` raises is heard by nobody, as in asyncio, and no leak of wool's.
    loop.create_task(generator.aclose(), name="closing a collected generator").add_done_callback(_retrieve)


def _retrieve(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
