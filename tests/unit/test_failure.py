"""An exception arrives as itself: type, arguments, attributes, chain, notes, groups, traceback and origin."""

from __future__ import annotations

import asyncio
import copyreg
import dataclasses
import importlib
import json
import pickle
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.two_processes import run_caller
from wool.errors import NoWorkersAvailable, RemoteError, SerializationError, WorkerLost
from wool.failure import Origin, TaskException, as_outcome, capture, origin, rebuild, travels_as_cause
from wool.limits import KIB, MOST_FRAMES_SHOWN, MOST_LABEL_CHARACTERS, MOST_LINKS_SHOWN, Limits
from wool.remote_traceback import outline_exception, print_outline
from wool.serialization import Payload

HERE = Origin("uid-1", "host-1", 11, "task-1")
THERE = Origin("uid-2", "host-2", 22, "task-2")


def travelled(exc: BaseException, here: Origin | None = HERE, limits: Limits | None = None) -> Any:
    """Return ``exc`` as it arrives in the process next to this one."""
    return rebuild(capture(exc, here=here, limits=limits or Limits()))


def raised(exc: BaseException) -> BaseException:
    """Return ``exc`` with a traceback."""
    try:
        raise exc
    except BaseException as caught:
        return caught


def provoked(action: Callable[[], object]) -> BaseException:
    """Return what ``action`` raises."""
    try:
        action()
    except BaseException as caught:
        return caught
    raise AssertionError("nothing was raised")


def printed(exc: BaseException) -> str:
    return "".join(traceback.format_exception(exc))


# --- The exception itself ------------------------------------------------------------------------------

# No None of its own: an OSError of None tells it from nothing, which cannot be read from outside.
arguments = st.booleans() | st.integers() | st.text() | st.binary() | st.lists(st.integers())
exception_types = st.sampled_from(
    [
        *(ValueError, KeyError, RuntimeError, OSError, FileNotFoundError, ImportError, StopIteration, SystemExit),
        *(AttributeError, NameError, KeyboardInterrupt, asyncio.CancelledError, LookupError, MemoryError, SyntaxError),
    ]
)


@given(
    exception_types,
    st.lists(arguments, max_size=4),
    st.dictionaries(st.text().filter(lambda name: not name.startswith("__")), arguments, max_size=3),
    st.lists(st.text(), max_size=2),
)
def test_type_arguments_attributes_and_notes_come_back(
    cls: Any, args: list[Any], attributes: dict[str, Any], notes: list[str]
) -> None:
    try:
        exc = cls(*args)
    except TypeError:
        return  # SyntaxError wants its second argument in a form.
    exc.__dict__.update(attributes)
    for note in notes:
        exc.add_note(note)
    back = travelled(exc)
    assert type(back) is type(exc)
    assert back.args == exc.args
    assert back.__dict__ == exc.__dict__
    assert str(back) == str(exc)


def _tree(parts: list[Exception], message: str, cause: Any, context: Any, hide: bool) -> Exception:
    exc = ExceptionGroup(message, parts) if parts else RuntimeError(message)
    exc.__cause__, exc.__context__, exc.__suppress_context__ = cause, context, hide
    return exc


trees = st.recursive(
    st.builds(ValueError, st.text()),
    lambda inner: st.builds(
        _tree,
        st.lists(inner, max_size=3),
        st.text(),
        st.none() | inner,
        st.none() | inner,
        st.booleans(),
    ),
    max_leaves=12,
)


def shape(exc: BaseException | None) -> object:
    if exc is None:
        return None
    parts = [*map(shape, exc.exceptions)] if isinstance(exc, BaseExceptionGroup) else None
    return type(exc), str(exc), parts, shape(exc.__cause__), shape(exc.__context__), exc.__suppress_context__


@given(trees)
def test_chains_and_groups_come_back_with_their_shape(exc: Exception) -> None:
    assert shape(travelled(exc)) == shape(exc)


NATIVE = [
    lambda: Path("/no/such/file").read_text(),
    lambda: (_ for _ in ()).throw(OSError(13, "denied", "from", None, "to")),
    b"\xff".decode,
    lambda: "\xff".encode("ascii"),
    lambda: (_ for _ in ()).throw(UnicodeTranslateError("abc", 1, 2, "why")),
    lambda: compile("a b", "file.py", "exec"),
    lambda: compile("  a\n b", "file.py", "exec"),
    lambda: __import__("no_such_module"),
    lambda: (_ for _ in ()).throw(ImportError("why", name="a", path="/b")),
    lambda: (3).no_such_attribute,  # type: ignore[attr-defined]
    lambda: no_such_name,  # type: ignore[name-defined]  # noqa: F821
    lambda: {}["key"],
    lambda: list[int]()[1],
    lambda: next(iter(())),
    lambda: sys.exit("code"),
    lambda: json.loads("{"),
    lambda: subprocess.run(["false"], check=True),
    lambda: (_ for _ in ()).throw(BlockingIOError(11, "again", 7)),
    lambda: (_ for _ in ()).throw(asyncio.IncompleteReadError(b"part", 9)),
    lambda: (_ for _ in ()).throw(asyncio.CancelledError("why")),
    lambda: (_ for _ in ()).throw(subprocess.TimeoutExpired("cmd", 3)),
]
NATIVE_SLOTS = (
    *("errno", "strerror", "filename", "filename2", "characters_written", "encoding", "object", "start", "end"),
    *("reason", "msg", "lineno", "offset", "text", "end_lineno", "end_offset", "name", "path", "value", "code"),
)


@pytest.mark.parametrize("action", NATIVE)
def test_what_python_raises_comes_back_in_full(action: Callable[[], object]) -> None:
    exc = provoked(action)
    back = travelled(exc)
    assert type(back) is type(exc)
    assert str(back) == str(exc)
    assert back.args == exc.args
    for name in NATIVE_SLOTS:
        assert getattr(back, name, None) == getattr(exc, name, None), name


def test_the_object_of_an_attribute_error_stays_where_it_is() -> None:
    assert travelled(provoked(lambda: threading.Lock().nothing)).obj is None  # type: ignore[attr-defined]


class Awkward(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class KeywordOnly(Exception):
    def __init__(self, *, reason: str) -> None:
        super().__init__(f"because {reason}")
        self.reason = reason


class NoArguments(Exception):
    def __init__(self) -> None:
        super().__init__("a", "b")


class InNew(Exception):
    def __new__(cls, needed: int) -> Self:
        made = super().__new__(cls, needed)
        made.made_with = needed
        return made

    made_with: int


class Slotted(Exception):
    __slots__ = ("_hidden", "unset", "x")

    def __init__(self, x: int) -> None:
        self.x = x
        self._hidden = x + 1


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    x: int
    items: list[int]


class OwnOSError(OSError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "own", path)
        self.extra = path


class ReadOnly(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("no")


@pytest.mark.parametrize(
    "exc",
    [
        Awkward(3, "text"),
        KeywordOnly(reason="x"),
        NoArguments(),
        InNew(4),
        OwnOSError("p"),
        ReadOnly("x"),
        Frozen(1, [2]),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_an_awkward_signature_is_no_obstacle(exc: BaseException) -> None:
    back = travelled(exc)
    assert type(back) is type(exc)
    assert back.args == exc.args
    assert back.__dict__ == exc.__dict__
    assert str(back) == str(exc)


def test_slots_come_back_and_stay_unset_if_they_were() -> None:
    back = travelled(Slotted(3))
    assert (back.x, back._hidden, hasattr(back, "unset")) == (3, 4, False)


class Reduced(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__("both")
        self.both = (first, second)
        self.restored = False

    def __reduce__(self) -> Any:
        return _restore, self.both


def _restore(first: int, second: int) -> Reduced:
    made = Reduced(first, second)
    made.restored = True
    return made


def test_a_class_that_says_how_to_pickle_it_is_heard() -> None:
    exc = Reduced(1, 2)
    exc.add_note("noted")
    back = travelled(exc)
    assert (back.both, back.restored, back.__notes__) == ((1, 2), True, ["noted"])


class ByRegistry(Exception):
    pass


def test_a_class_in_the_pickle_registry_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(copyreg.dispatch_table, ByRegistry, lambda exc: (ByRegistry, ("by registry",)))
    assert travelled(ByRegistry("plain")).args == ("by registry",)


class ReduceRaises(Exception):
    def __reduce__(self) -> Any:
        raise SystemExit("in reduce")


class ReduceToAnother(Exception):
    def __reduce__(self) -> Any:
        return ValueError, ("another",)


class ReduceFailsOnLoad(Exception):
    def __reduce__(self) -> Any:
        return int, ("no number",)


class SetStateRaises(Exception):
    def __setstate__(self, state: object) -> None:
        raise SystemExit("in setstate")


@pytest.mark.parametrize("cls", [ReduceRaises, ReduceToAnother, ReduceFailsOnLoad, SetStateRaises])
def test_a_class_that_pickles_wrongly_is_taken_apart(cls: type[Exception]) -> None:
    exc = cls("text", 3)
    exc.extra = [1]  # type: ignore[attr-defined]
    back = travelled(exc)
    assert type(back) is cls
    assert back.args == ("text", 3)
    assert back.extra == [1]


def test_one_argument_or_attribute_that_cannot_travel_is_replaced_alone() -> None:
    exc = ValueError("text", threading.Lock(), 3)
    exc.lock, exc.kept = threading.Lock(), {"a": 1}  # type: ignore[attr-defined]
    back = travelled(exc)
    assert type(back) is ValueError
    assert (back.args[0], back.args[2], back.kept) == ("text", 3, {"a": 1})
    assert "lock" in back.args[1]
    assert "not picklable" in back.lock


class LoadsBadly:
    def __reduce__(self) -> Any:
        return int, ("no number",)


def test_one_argument_that_cannot_be_loaded_is_replaced_alone() -> None:
    back = travelled(ValueError("text", LoadsBadly()))
    assert back.args[0] == "text"
    assert "LoadsBadly" in back.args[1]
    assert "no number" in back.args[1]


def test_what_was_one_object_is_one_object() -> None:
    shared = [1]
    exc = ValueError(shared)
    exc.shared = shared  # type: ignore[attr-defined]
    exc.itself = exc  # type: ignore[attr-defined]
    exc.__cause__ = exc.inner = KeyError("inner")  # type: ignore[attr-defined]
    back = travelled(exc)
    assert back.args[0] is back.shared
    assert back.itself is back
    assert back.inner is back.__cause__


class Hostile(Exception):
    def __str__(self) -> str:
        raise SystemExit("in str")

    __repr__ = __str__
    __eq__ = __hash__ = None  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        raise SystemExit("in getattribute")


def test_a_hostile_exception_travels_all_the_same() -> None:
    exc = Hostile(threading.Lock())
    back = travelled(exc)
    assert type(back) is Hostile
    assert "str() raised" in TaskException.from_exception(exc).message


class HostileRepr:
    def __repr__(self) -> str:
        raise KeyboardInterrupt

    def __reduce__(self) -> Any:
        raise KeyboardInterrupt


def test_an_argument_without_repr_travels_as_a_text() -> None:
    back = travelled(ValueError(HostileRepr()))
    assert "HostileRepr" in back.args[0]


# --- Chains, groups, cycles ----------------------------------------------------------------------------


def test_a_cycle_in_the_chain_comes_back_as_a_cycle() -> None:
    first, second = ValueError("first"), KeyError("second")
    first.__context__, second.__context__ = second, first
    first.__cause__ = first
    back = travelled(first)
    assert back.__context__.__context__ is back
    assert back.__cause__ is back
    group = ExceptionGroup("group", [first])
    first.__cause__ = group
    back = travelled(first)
    assert back.__cause__.exceptions[0] is back


class OwnGroup(ExceptionGroup[Exception]):
    def __new__(cls, code: int, parts: list[Exception]) -> Self:
        made = super().__new__(cls, f"code {code}", parts)
        made.code = code
        return made

    code: int

    def __init__(self, code: int, parts: list[Exception]) -> None: ...


def test_a_group_comes_back_with_each_exception_in_full() -> None:
    inner = raised(Awkward(3, "inner"))
    inner.__cause__ = KeyError("cause")
    inner.add_note("noted")
    back = travelled(raised(OwnGroup(7, [inner, ExceptionGroup("deep", [ValueError(1)])])))  # type: ignore[list-item]
    assert type(back) is OwnGroup
    assert (back.message, back.code) == ("code 7", 7)
    first, deep = back.exceptions
    assert (type(first), first.code, first.__notes__) == (Awkward, 3, ["noted"])
    assert type(first.__cause__) is KeyError
    assert "in raised" in printed(first)
    assert deep.exceptions[0].args == (1,)


class CodedGroup(ExceptionGroup[Exception]):
    def __new__(cls, message: str, exceptions: list[Exception], code: int) -> Self:
        self = super().__new__(cls, message, exceptions)
        self.code = code
        return self


def test_a_group_keeps_the_arguments_that_its_class_takes_or_somebody_has_given_it() -> None:
    coded = travelled(CodedGroup("coded", [ValueError(1), KeyError(2)], 7))
    assert isinstance(coded, CodedGroup)
    assert (coded.message, coded.code) == ("coded", 7)
    assert coded.args == ("coded", list(coded.exceptions), 7)
    assert coded.args[1][0] is coded.exceptions[0]
    changed = ExceptionGroup("before", (ValueError(1),))
    changed.args = ("after", 7)
    back = travelled(changed)
    assert isinstance(back, ExceptionGroup)
    assert (back.message, back.args, repr(back.exceptions)) == ("before", ("after", 7), "(ValueError(1),)")


def test_a_base_exception_group_stays_one() -> None:
    back = travelled(BaseExceptionGroup("base", [KeyboardInterrupt(), ValueError()]))
    assert type(back) is BaseExceptionGroup
    assert [*map(type, back.exceptions)] == [KeyboardInterrupt, ValueError]


def test_groups_nest_deeper_than_the_stack() -> None:
    exc: Exception = ValueError("deep")
    for _ in range(3000):
        exc = ExceptionGroup("level", [exc])
    back: Any = travelled(exc, limits=Limits(exceptions=10_000))
    for _ in range(3000):
        (back,) = back.exceptions
    assert back.args == ("deep",)


def test_a_long_chain_keeps_its_nearest_end_and_says_what_is_missing() -> None:
    exc = ValueError("oldest")
    for number in range(50):
        new = ValueError(number)
        new.__context__ = exc
        exc = new
    back = travelled(exc, limits=Limits(exceptions=10))
    for number in range(49, 39, -1):
        assert back.args == (number,)
        back = back.__context__
    assert type(back) is RemoteError
    assert "ValueError: 39" in str(back)
    assert back.__context__ is None


def test_a_large_group_keeps_what_the_limit_allows_and_counts_the_rest() -> None:
    back = travelled(
        ExceptionGroup("many", [ValueError(number) for number in range(100)]), limits=Limits(exceptions=10)
    )
    *kept, last = back.exceptions
    assert [exc.args[0] for exc in kept] == list(range(9))
    assert "91 more" in str(last)


# --- Traceback and origin ------------------------------------------------------------------------------


def test_the_remote_frames_are_in_the_traceback() -> None:
    back = raised(travelled(provoked(lambda: json.loads("{"))))
    frames = traceback.extract_tb(back.__traceback__)
    names = [frame.name for frame in frames]
    assert names[0] == "raised"
    assert names[-1] == "raw_decode"
    local = traceback.extract_tb(provoked(lambda: json.loads("{")).__traceback__)
    assert [(f.filename, f.lineno, f.name) for f in frames[-3:]] == [(f.filename, f.lineno, f.name) for f in local[-3:]]
    assert "^" not in printed(back).split("task task-1")[1].split("JSONDecodeError")[0]


def test_the_origin_is_read_from_the_traceback_and_nothing_is_added() -> None:
    exc = raised(ValueError("x"))
    assert origin(exc) is None
    back = travelled(exc)
    assert origin(back) == HERE
    assert vars(back) == {}
    assert "uid-1" in printed(back)
    assert "host-1" in printed(back)


def test_an_exception_that_was_never_raised_has_an_origin_too() -> None:
    assert origin(travelled(ValueError())) == HERE


def test_without_an_origin_the_frames_are_as_they_were() -> None:
    exc = raised(ValueError())
    back = travelled(exc, None)
    assert origin(back) is None
    assert len(traceback.extract_tb(back.__traceback__)) == 1
    assert travelled(ValueError(), None).__traceback__ is None


def test_across_hops_the_innermost_origin_is_kept() -> None:
    back = travelled(raised(travelled(raised(ValueError()), THERE)), HERE)
    assert origin(back) == THERE
    text = printed(back)
    assert text.index("uid-1") < text.index("uid-2")


def test_what_is_no_exception_has_no_origin_and_is_named() -> None:
    with pytest.raises(TypeError, match="takes an exception, got int: 3"):
        origin(3)  # type: ignore[arg-type]


def test_a_long_traceback_loses_its_oldest_frames_but_not_its_origin() -> None:
    def recurse(depth: int) -> None:
        if depth:
            recurse(depth - 1)
        raise travelled(raised(ValueError("deep")), THERE)

    exc = provoked(lambda: recurse(200))
    for limit in (1, 500, 5000, 64 * KIB):
        payload = capture(exc, here=HERE, limits=Limits(traceback_bytes=limit))
        assert payload.size < limit + 2000
        back = rebuild(payload)
        assert origin(back) == THERE
        frames = traceback.extract_tb(back.__traceback__)
        assert frames[-1].name == "raised"
        if limit < 5000:
            assert any("older frames left out" in frame.filename for frame in frames[1:3])


def test_of_a_long_traceback_chain_and_group_the_text_has_as_much_as_a_person_reads() -> None:
    def deep(depth: int) -> None:
        if depth:
            deep(depth - 1)
        raise ExceptionGroup("many", [ValueError(f"of a group {number}") for number in range(2 * MOST_LINKS_SHOWN)])

    exc: BaseException = provoked(lambda: deep(2 * MOST_FRAMES_SHOWN))
    (frames,) = (piece for piece in outline_exception(exc, 16 * KIB) if isinstance(piece, tuple))
    assert len(frames) == MOST_FRAMES_SHOWN
    text = print_outline(outline_exception(exc, 16 * KIB), 16 * KIB)
    assert text.count("ValueError: of a group") == MOST_LINKS_SHOWN
    assert f"... and {MOST_LINKS_SHOWN} more" in text
    for number in range(2 * MOST_LINKS_SHOWN):
        following = ValueError(f"of a chain {number}")
        following.__cause__ = exc
        exc = following
    text = print_outline(outline_exception(exc, 16 * KIB), 16 * KIB)
    assert text.count("ValueError: of a chain") == MOST_LINKS_SHOWN


def test_a_name_that_no_person_reads_to_its_end_is_cut() -> None:
    name = "f" * (MOST_LABEL_CHARACTERS + 1)
    namespace: dict[str, Callable[[], None]] = {}
    exec(f"def {name}(): raise ValueError('deep')", namespace)
    back = rebuild(capture(provoked(namespace[name]), here=HERE, limits=Limits()))
    told = traceback.extract_tb(back.__traceback__)[-1].name
    assert told == f"{name[:-1]}... ({MOST_LABEL_CHARACTERS + 1} characters)"


def test_frames_that_were_cut_off_do_not_take_the_innermost_origin_along() -> None:
    def deep(depth: int) -> None:
        if depth:
            deep(depth - 1)
        raise ValueError

    back = travelled(travelled(provoked(lambda: deep(100)), THERE), HERE, Limits(traceback_bytes=300))
    assert origin(back) == THERE


def test_a_rebuilt_exception_prints_when_nobody_catches_it(tmp_path: Path) -> None:
    output = run_caller("def work(): raise ValueError('boom')\nworker.call(work)", tmp_path, succeeds=False)
    assert "ValueError: boom" in output
    assert "worker-uid on some-host" in output
    assert "in work" in output


# --- Limits and stand-ins ------------------------------------------------------------------------------


def test_a_huge_exception_is_cut_to_the_limit() -> None:
    limits = Limits(payload_bytes=10 * KIB)
    for exc in (ValueError("x" * 10**6), ValueError(["x"] * 10**5), ValueError(*range(10**5)), KeyError("y" * 10**6)):
        exc.add_note("z" * 10**6)
        payload = capture(raised(exc), here=HERE, limits=limits)
        assert payload.size <= limits.payload_bytes
        back = rebuild(payload)
        assert origin(back) == HERE
        assert type(exc).__name__ in repr(back)


def test_a_huge_container_is_not_written_out_to_be_described() -> None:
    class Expensive(list[int]):
        def __iter__(self) -> Any:
            raise AssertionError

    text = TaskException.from_exception(ValueError([0] * 10**7)).message
    assert len(text) < 1000


def unpicklable_exception() -> BaseException:
    lock = threading.Lock()

    class Unpicklable(Exception):
        held = lock

    exc = Unpicklable("text")
    exc.__cause__ = KeyError("cause")
    return raised(exc)


def test_a_class_that_cannot_travel_arrives_as_a_remote_error_that_tells_all() -> None:
    back = travelled(unpicklable_exception())
    assert type(back) is RemoteError
    assert back.executed == "yes"
    for part in ("Unpicklable: text", "lock", "Remote traceback", "in raised"):
        assert part in str(back)
    assert type(back.__cause__) is KeyError
    assert origin(back) == HERE
    assert as_outcome(back) is back


def test_a_class_that_cannot_be_loaded_arrives_as_a_remote_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "soon_gone.py").write_text("class Lost(Exception): pass")
    with monkeypatch.context() as context:
        context.syspath_prepend(tmp_path)
        module = importlib.import_module("soon_gone")
        payload = capture(ExceptionGroup("group", [module.Lost("text")]), here=HERE)
    monkeypatch.delitem(sys.modules, "soon_gone")
    (back,) = rebuild(payload).exceptions  # type: ignore[attr-defined]
    assert type(back) is RemoteError
    assert "soon_gone.Lost: text" in str(back)
    assert "No module named 'soon_gone'" in str(back)


def test_nothing_is_loaded_before_it_is_rebuilt(capsys: pytest.CaptureFixture[str]) -> None:
    class Loud:
        def __reduce__(self) -> Any:
            return print, ("loaded",)

    payload = capture(ValueError(Loud()), here=HERE)
    assert capsys.readouterr().out == ""
    rebuild(payload)
    assert capsys.readouterr().out == "loaded\n"


@given(st.binary() | st.builds(pickle.dumps, arguments | st.tuples(arguments, arguments)))
def test_what_no_capture_made_is_rebuilt_as_a_remote_error(stream: bytes) -> None:
    back = rebuild(Payload((stream,)))
    assert type(back) is RemoteError
    assert as_outcome(back) is back


def test_a_capture_near_the_end_of_the_stack_does_not_raise() -> None:
    exc = raised(ValueError("text"))

    def sink() -> Payload:
        try:
            return sink()
        except RecursionError:
            return capture(exc, here=HERE)

    assert "text" in str(rebuild(sink()))


def test_rebuilding_leaves_a_keyboard_interrupt_alone() -> None:
    class Interrupts:
        def __reduce__(self) -> Any:
            return _interrupt, ()

    with pytest.raises(KeyboardInterrupt):
        travelled(ValueError(Interrupts()))


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_a_captured_exception_is_not_kept_alive() -> None:
    exc = Awkward(1, "x")
    capture(exc, here=HERE)
    gone = weakref.ref(exc)
    del exc
    assert gone() is None


# --- Outcomes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "exc",
    [
        NoWorkersAvailable("none", {"w": ValueError("why")}),
        WorkerLost("lost"),
        SerializationError("no", executed="no"),
        RemoteError("inner"),
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_what_would_be_misread_arrives_as_the_cause_of_a_remote_error(exc: BaseException) -> None:
    assert travels_as_cause(exc)
    back = travelled(raised(exc))
    outcome = as_outcome(back)
    assert type(outcome) is RemoteError
    assert outcome.executed == "yes"
    assert outcome.__cause__ is back
    assert type(back) is type(exc)
    assert vars(back).keys() == vars(exc).keys()
    assert origin(outcome) == HERE
    assert type(exc).__name__ in str(outcome)


@pytest.mark.parametrize("exc", [ValueError(), asyncio.CancelledError(), BaseException(), StopAsyncIteration()])
def test_any_other_exception_is_the_outcome_itself(exc: BaseException) -> None:
    assert not travels_as_cause(exc)
    assert as_outcome(exc) is exc


def test_an_exception_as_text_names_type_message_chain_and_frames() -> None:
    exc = raised(ValueError("text"))
    exc.__cause__ = raised(KeyError("cause"))
    exc.add_note("noted")
    described = TaskException.from_exception(exc)
    assert described.type == "builtins.ValueError"
    assert described.message == "text"
    for part in ("KeyError: 'cause'\n\nThe above", "direct cause", "ValueError: text\nnoted", "in raised"):
        assert part in described.traceback


def test_an_exception_as_text_agrees_with_python_on_a_plain_one() -> None:
    def action() -> None:
        raise ValueError("text") from None

    exc = provoked(action)
    assert TaskException.from_exception(exc).traceback == printed(exc)


def test_an_exception_thrown_into_what_has_not_begun_has_a_text() -> None:
    def never() -> Iterator[None]:
        yield

    generator = never()
    exc = provoked(lambda: generator.throw(ValueError("thrown in")))
    assert exc.__traceback__ is not None
    text = TaskException.from_exception(exc).traceback
    assert "in never" in text
    assert text.endswith("ValueError: thrown in\n")


def test_an_exception_as_text_is_bounded_also_for_cycles_and_groups() -> None:
    exc = raised(ExceptionGroup("x" * 10**6, [ValueError(number) for number in range(1000)]))
    exc.__cause__ = exc
    described = TaskException.from_exception(exc)
    assert len(described.message) < 20 * KIB
    assert len(described.traceback) < 20 * KIB


# --- Two processes -------------------------------------------------------------------------------------


def test_an_exception_class_of_main_keeps_its_slots(tmp_path: Path) -> None:
    run_caller(
        """
class Slots(Exception):
    __slots__ = ("x", "__hidden", "unset")
    def __init__(self, x):
        self.x = self.__hidden = x
    def parts(self): return self.x, self.__hidden, hasattr(self, "unset")

class Weak(Exception):
    __slots__ = ("x", "__weakref__")

class Derived(Slots):
    def __init__(self, x, y):
        super().__init__(x)
        self.y = y

def work(kind):
    if kind == "slots":
        raise Slots(3)
    if kind == "derived":
        raise Derived(1, 2)
    error = Weak("a")
    error.x = 4
    raise error

for _ in range(2):
    for kind in ("slots", "weak", "derived"):
        try:
            worker.call(work, kind)
        except Derived as error:
            assert error.parts() == (1, 1, False) and vars(error) == {"y": 2} and error.args == (1, 2)
        except Slots as error:
            assert error.parts() == (3, 3, False) and vars(error) == {} and error.args == (3,)
        except Weak as error:
            assert error.x == 4 and vars(error) == {} and error.args == ("a",)
        else:
            raise AssertionError(kind)
""",
        tmp_path,
    )


def test_an_exception_class_of_main_comes_back_as_the_callers_own(tmp_path: Path) -> None:
    run_caller(
        """
import traceback
from wool.failure import origin

class Problem(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code

class Detail:
    def __init__(self, x): self.x = x

def work():
    try:
        raise KeyError("inner")
    except KeyError as error:
        problem = Problem(Detail(3), "outer")
        problem.add_note("noted")
        raise problem from error

try:
    worker.call(work)
except Problem as error:
    assert type(error.code) is Detail and error.code.x == 3
    assert error.args == ("outer",) and error.__notes__ == ["noted"]
    assert type(error.__cause__) is KeyError and error.__context__ is error.__cause__
    assert origin(error).worker == "worker-uid" and origin(error).pid == worker.process.pid
    text = "".join(traceback.format_exception(error))
    assert "in work" in text and "raise problem from error" in text, text
else:
    raise AssertionError

def local():
    class Inner(Exception): pass
    raise ExceptionGroup("group", [Problem(1, "a"), Inner("b")])
try:
    worker.call(local)
except* Problem as group:
    assert group.exceptions[0].code == 1
except* Exception as group:
    assert type(group.exceptions[0]).__name__ == "Inner"
""",
        tmp_path,
    )


def test_a_class_that_only_the_worker_has_arrives_as_a_remote_error(tmp_path: Path) -> None:
    run_caller(
        """
from wool.errors import RemoteError
def work():
    import pathlib, sys
    folder = pathlib.Path(__file__).parent / "there"
    folder.mkdir()
    (folder / "only_there.py").write_text("class Odd(Exception): pass")
    sys.path.insert(0, str(folder))
    import only_there
    raise only_there.Odd("text")
try:
    worker.call(work)
except RemoteError as error:
    assert "only_there.Odd: text" in str(error) and "in work" in str(error), error
else:
    raise AssertionError
""",
        tmp_path,
    )
