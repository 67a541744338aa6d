"""Callbacks cross the bridge in order and once, from any thread, and none is left behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable

import pytest

from support.one_loop import LoopMailbox, until
from wool.bridge import (
    BATCH,
    CROWD_SHARE,
    HOLD_SECONDS,
    QUIET_SECONDS,
    IoLoopDied,
    IoThread,
    Mailbox,
    MailboxLike,
    run_on,
)


@pytest.fixture
def io() -> IoThread:
    return IoThread()


# ---- mailboxes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Mailbox, LoopMailbox])
async def test_posted_from_the_loop_itself_it_runs_soon_in_order_and_never_here(kind: type[Mailbox]) -> None:
    loop = asyncio.get_running_loop()
    ran: list[int] = []
    mailbox = kind(loop)
    for poster in (mailbox, mailbox.batched(loop)):
        for number in range(3 * BATCH):
            poster.post(ran.append, number)
        assert ran == []
        await until(lambda: len(ran) == 3 * BATCH)
        assert ran == list(range(3 * BATCH))
        ran.clear()


async def test_what_a_callback_posts_comes_after_what_was_posted_before() -> None:
    loop = asyncio.get_running_loop()
    for kind in (Mailbox, LoopMailbox):
        ran: list[str] = []
        mailbox: MailboxLike = kind(loop)

        def first(ran: list[str] = ran, mailbox: MailboxLike = mailbox) -> None:
            ran.append("first")
            mailbox.post(ran.append, "third")

        mailbox.post(first)
        mailbox.post(ran.append, "second")
        await until(lambda ran=ran: len(ran) == 3)
        assert ran == ["first", "second", "third"]


async def test_a_callback_that_posts_for_ever_lets_the_loop_do_other_things() -> None:
    mailbox = Mailbox(asyncio.get_running_loop())
    going = True

    def again() -> None:
        if going:
            mailbox.post(again)

    again()
    for _ in range(20):
        await asyncio.sleep(0)
    going = False
    await asyncio.sleep(0.01)


async def test_posted_from_many_threads_each_threads_order_is_kept_and_nothing_is_lost() -> None:
    mailbox = Mailbox(asyncio.get_running_loop())
    ran: list[tuple[int, int]] = []
    threads = 4
    each = 5000

    def work(thread: int) -> None:
        for number in range(each):
            mailbox.post(ran.append, (thread, number))

    working = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    for thread in working:
        thread.start()
    await until(lambda: len(ran) == threads * each, seconds=20)
    for thread in working:
        thread.join()
    for number in range(threads):
        assert [found for thread, found in ran if thread == number] == list(range(each))


async def test_batches_and_single_posts_from_other_threads_are_all_delivered() -> None:
    here = asyncio.get_running_loop()
    io = IoThread()
    there = io.acquire()
    try:
        to, back = Mailbox(there), Mailbox(here)
        batch = to.batched(here)
        ran: list[int] = []
        for round_ in range(200):
            for number in range(round_ % 7):
                batch.post(lambda number=number: back.post(ran.append, number))
            to.post(lambda: back.post(ran.append, -1))
            await asyncio.sleep(0)
        await until(lambda: len(ran) == sum(round_ % 7 + 1 for round_ in range(200)))
    finally:
        await io.release()


async def test_a_callback_that_fails_is_told_and_holds_up_nobody() -> None:
    loop = asyncio.get_running_loop()
    problems: list[dict[str, object]] = []
    loop.set_exception_handler(lambda loop, context: problems.append(context))
    mailbox = Mailbox(loop)
    ran: list[str] = []

    def fail() -> None:
        raise LookupError("no")

    mailbox.post(fail)
    mailbox.post(ran.append, "behind it")
    await until(lambda: ran)
    assert isinstance(problems[0]["exception"], LookupError)


def test_a_callback_that_ends_the_program_leaves_what_is_behind_it_for_the_next_look() -> None:
    loop = asyncio.new_event_loop()
    mailbox = Mailbox(loop)
    ran: list[str] = []

    def leave() -> None:
        raise SystemExit

    mailbox.post(leave)
    mailbox.post(ran.append, "behind it")
    try:
        with pytest.raises(SystemExit):
            loop.run_until_complete(asyncio.sleep(1))
        loop.run_until_complete(asyncio.sleep(0.01))
        assert ran == ["behind it"]
    finally:
        loop.close()


def test_posted_to_a_closed_loop_it_is_dropped_and_not_kept() -> None:
    loop = asyncio.new_event_loop()
    mailbox = Mailbox(loop)
    loop.close()
    for _ in range(5):
        mailbox.post(print)
    other = asyncio.new_event_loop()
    batch = mailbox.batched(other)

    async def post() -> None:
        for _ in range(2 * BATCH):
            batch.post(print)
        await asyncio.sleep(0.01)

    other.run_until_complete(post())
    other.close()
    assert len(mailbox._queue) == 0


def test_a_mailbox_does_not_keep_its_loop_alive() -> None:
    loop = asyncio.new_event_loop()
    mailbox = Mailbox(loop)
    batch = mailbox.batched(loop)
    loop.close()
    gone = weakref.ref(loop)
    del loop
    gc.collect()
    assert gone() is None
    mailbox.post(print)
    assert len(mailbox._queue) == 0
    del batch


async def test_a_mailbox_held_back_delivers_what_it_held_in_order() -> None:
    mailbox = LoopMailbox(asyncio.get_running_loop())
    ran: list[int] = []
    mailbox.post(ran.append, 0)
    mailbox.hold()
    mailbox.post(ran.append, 1)
    await asyncio.sleep(0.01)
    assert ran == []
    mailbox.release()
    mailbox.post(ran.append, 2)
    await until(lambda: len(ran) == 3)
    assert ran == [0, 1, 2]


class CountedMailbox(Mailbox):
    """Counts how often its loop is woken."""

    __slots__ = ("wakes",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.wakes = 0

    def wake(self) -> None:
        self.wakes += 1
        super().wake()


def blocked_until(condition: Callable[[], object], seconds: float = 5.0) -> bool:
    """Wait without letting this thread's loop run, as a callback that computes does."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.0002)
    return bool(condition())


async def test_what_a_busy_loop_has_held_back_arrives_although_the_loop_does_not_get_to_say_so(io: IoThread) -> None:
    there = CountedMailbox(io.acquire())
    try:
        batch = there.batched(asyncio.get_running_loop(), crowd=lambda: 1_000_000)
        ran: list[int] = []
        for number in range(20):
            batch.post(ran.append, number)
            assert blocked_until(lambda number=number: number in ran), f"post {number} waits for this callback's end"
        assert ran == list(range(20))
        assert there.wakes < 20, "every post has woken the other side: nothing was held back"
    finally:
        await io.release()


class StillLoop:
    """A posting loop whose clock stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.soon: list[Callable[[], object]] = []

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.soon.append(callback)


async def test_a_lone_post_wakes_the_other_side_at_once(io: IoThread) -> None:
    there, here = CountedMailbox(io.acquire()), StillLoop()
    try:
        batch = there.batched(here)  # type: ignore[arg-type]
        for wakes in range(1, 5):
            batch.post(int)
            assert there.wakes == wakes
            assert blocked_until(lambda: not there._queue)
            here.now += 2 * QUIET_SECONDS
    finally:
        await io.release()


async def test_posts_in_quick_succession_wait_until_the_loop_has_run_what_is_ready(io: IoThread) -> None:
    there, here = CountedMailbox(io.acquire()), StillLoop()
    try:
        batch = there.batched(here)  # type: ignore[arg-type]
        batch.post(int)
        assert blocked_until(lambda: not there._queue)
        batch.post(int)
        batch.post(int)
        assert (there.wakes, len(here.soon)) == (1, 1)
        here.soon.pop()()
        assert there.wakes == 2
    finally:
        await io.release()


async def test_posts_of_a_crowd_wait_for_a_share_of_it_but_not_for_long(io: IoThread) -> None:
    there, here = CountedMailbox(io.acquire()), StillLoop()
    crowd = 3 * CROWD_SHARE
    try:
        batch = there.batched(here, crowd=lambda: crowd)  # type: ignore[arg-type]
        batch.post(int)
        assert blocked_until(lambda: not there._queue)
        here.now += 2 * QUIET_SECONDS
        for posts in range(1, 4):
            assert there.wakes == 1, f"{posts - 1} results have not waited for the fourth of forty-eight"
            batch.post(int)
        batch.post(int)
        assert there.wakes == 2
        assert blocked_until(lambda: not there._queue)
        here.now += 2 * HOLD_SECONDS
        batch.post(int)
        assert there.wakes == 3, "held for longer than HOLD_SECONDS"
    finally:
        await io.release()


# ---- the I/O thread ----------------------------------------------------------------------------------


async def test_the_first_starts_the_io_thread_and_the_last_ends_it(io: IoThread) -> None:
    before = threading.active_count()
    loop = io.acquire()
    assert io.acquire() is loop
    assert loop.is_running()
    assert threading.active_count() == before + 1
    await io.release()
    assert loop.is_running()
    await io.release()
    assert loop.is_closed()
    assert threading.active_count() == before


async def test_after_the_last_has_gone_the_next_gets_a_new_loop(io: IoThread) -> None:
    first = io.acquire()
    await io.release()
    second = io.acquire()
    assert second is not first
    await io.release()


def test_two_threads_that_start_it_together_share_one_loop(io: IoThread) -> None:
    loops: list[asyncio.AbstractEventLoop] = []
    ready = threading.Barrier(4)

    def acquire() -> None:
        ready.wait()
        loops.append(io.acquire())

    threads = [threading.Thread(target=acquire) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(loop) for loop in loops}) == 1

    async def release() -> None:
        for _ in loops:
            await io.release()

    asyncio.run(release())
    assert loops[0].is_closed()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_io_loop_that_ends_by_itself_is_told(caplog: pytest.LogCaptureFixture) -> None:
    deaths: list[BaseException | None] = []
    io = IoThread(on_death=deaths.append)
    loop = io.acquire()
    thread = io._thread
    assert thread is not None
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    assert deaths == [None]
    asyncio.run(io.release())


async def test_work_on_a_loop_that_ends_by_itself_fails_and_the_next_gets_another(io: IoThread) -> None:
    here, there = asyncio.get_running_loop(), io.acquire()

    async def work() -> None:
        await asyncio.sleep(3600)

    started = asyncio.create_task(run_on(Mailbox(there), Mailbox(here), work, "work"))
    await asyncio.sleep(0.01)
    there.call_soon_threadsafe(there.stop)
    late = [asyncio.create_task(run_on(Mailbox(there), Mailbox(here), work, "work")) for _ in range(20)]
    for waiting in (started, *late):
        with pytest.raises(IoLoopDied):
            await waiting
    with pytest.raises(IoLoopDied):
        await run_on(Mailbox(there), Mailbox(here), work, "work")
    another = io.acquire()
    assert another is not there
    await io.release()
    await io.release()
    assert another.is_closed()


def test_a_task_that_does_not_end_with_its_loop_is_waited_for_a_while_and_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("wool.bridge.WIND_UP_SECONDS", 0.05)
    loop, cancels, enough = asyncio.new_event_loop(), list[float](), asyncio.Event()

    async def stubborn() -> None:
        while not enough.is_set():
            try:
                await enough.wait()
            except asyncio.CancelledError:
                cancels.append(loop.time())

    task = loop.create_task(stubborn())
    loop.run_until_complete(asyncio.sleep(0))
    IoThread._wind_up(loop, "it broke")
    assert loop.time() - cancels[0] >= 0.05
    assert not task.done()
    enough.set()
    loop.run_until_complete(task)
    loop.close()


def test_what_is_posted_to_a_closed_loop_is_told_to_its_owner() -> None:
    class Owner:
        def __init__(self) -> None:
            self.told: list[int] = []

        def work(self, number: int) -> None:
            raise AssertionError

        def undeliverable(self, method: Callable[..., object], args: tuple[int]) -> None:
            assert method == self.work
            self.told.extend(args)

    loop = asyncio.new_event_loop()
    mailbox, owner = Mailbox(loop), Owner()
    mailbox.post(owner.work, 1)
    mailbox.post(owner.work, 2)
    loop.close()
    mailbox.drop()
    assert owner.told == [1, 2]
    mailbox.post(owner.work, 3)
    mailbox.post(owner.told.append, 4)
    assert owner.told == [1, 2, 3]


# ---- work on another loop ----------------------------------------------------------------------------


async def test_work_on_the_other_loop_returns_its_result_here(io: IoThread) -> None:
    here, there = asyncio.get_running_loop(), io.acquire()

    async def work() -> object:
        assert asyncio.get_running_loop() is there
        await asyncio.sleep(0)
        return "result"

    try:
        assert await run_on(Mailbox(there), Mailbox(here), work, "work") == "result"
    finally:
        await io.release()


async def test_work_that_fails_there_fails_here(io: IoThread) -> None:
    here, there = asyncio.get_running_loop(), io.acquire()

    async def work() -> None:
        raise LookupError("there")

    try:
        with pytest.raises(LookupError, match="there"):
            await run_on(Mailbox(there), Mailbox(here), work, "work")
    finally:
        await io.release()


async def test_cancelling_cancels_the_work_and_waits_until_it_has_cleaned_up(io: IoThread) -> None:
    here, there = asyncio.get_running_loop(), io.acquire()
    story: list[str] = []
    begun = threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            story.append("cleaned up")

    try:
        task = asyncio.ensure_future(run_on(Mailbox(there), Mailbox(here), work, "work"))
        await until(begun.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert story == ["cleaned up"]
    finally:
        await io.release()


async def test_work_cancelled_before_it_began_never_begins(io: IoThread) -> None:
    here = asyncio.get_running_loop()
    there = LoopMailbox(here)
    there.hold()
    begun: list[bool] = []

    async def work() -> None:
        begun.append(True)

    task = asyncio.ensure_future(run_on(there, LoopMailbox(here), work, "work"))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    there.release()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert begun == []


def test_an_io_loop_ends_after_what_was_given_up_has_ended() -> None:
    """gRPC tells a call's end a moment after it was cancelled; told to a closed loop, its descriptors stay."""
    ended = threading.Event()

    async def late() -> None:
        await asyncio.sleep(0.05)
        ended.set()

    async def borrow() -> None:
        host = IoThread()
        loop = host.acquire()
        asyncio.run_coroutine_threadsafe(begin(), loop).result()
        await host.release()

    tasks: list[asyncio.Task[None]] = []

    async def begin() -> None:
        tasks.append(asyncio.get_running_loop().create_task(late()))

    asyncio.run(borrow())
    assert ended.is_set()
