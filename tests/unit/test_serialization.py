"""What travels arrives: values with their types, classes as the caller's own, definitions as they are now."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import datetime
import decimal
import functools
import gc
import importlib
import json
import math
import pickle
import sys
import threading
import types
import weakref
from collections.abc import Callable
from pathlib import Path
from pickle import PickleBuffer
from typing import Any

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wool.definition as definition_module
from support.two_processes import routine, run_caller
from wool import serialization
from wool.definition import define, load_definition, unpicklable_part
from wool.limits import MOST_BUFFERS, MOST_WRAPPERS
from wool.references import Reference, find_reference
from wool.serialization import (
    LARGE_BYTES,
    ROUTINE_ATTRIBUTE,
    Payload,
    culprit,
    dumps,
    dumps_inline,
    loads,
    set_routine_rebuilder,
)

LARGE = LARGE_BYTES


@pytest.fixture(autouse=True)
def _fake_routines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialization, "_routine_rebuilder", routine)


def travelled(value: object) -> Any:
    """Return ``value`` as it arrives after its parts were received in chunks."""
    payload = dumps(value)
    return loads(Payload(tuple(chunks(bytes(part)) for part in payload.parts)))  # type: ignore[arg-type]


def chunks(part: bytes, size: int = 1000) -> list[bytes]:
    return [part[start : start + size] for start in range(0, len(part), size)]


def script_module(source: str, name: str = "__main__") -> dict[str, Any]:
    """Run ``source`` as a module that nobody can import."""
    namespace: dict[str, Any] = {"__name__": name, "routine": routine}
    exec(source, namespace)
    return namespace


# --- Payload -------------------------------------------------------------------------------------------


def test_a_payload_knows_its_sizes_before_it_is_joined() -> None:
    payload = Payload((b"abc", memoryview(b"defg"), [b"h", b"ij"]))
    assert payload.sizes == (3, 4, 3)
    assert payload.size == 10


def test_a_payload_is_immutable_and_its_repr_shows_no_content() -> None:
    payload = dumps("a secret")
    with pytest.raises(AttributeError):
        payload.parts = ()  # type: ignore[misc]
    assert "secret" not in repr(payload)


# --- Values --------------------------------------------------------------------------------------------

atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    st.text(),
    st.text(alphabet=st.characters(codec=None)),
    st.binary(),
    st.decimals(allow_nan=False),
    st.datetimes(),
    st.uuids(),
    st.just(...),
    st.sampled_from([int, math.sqrt, json.dumps, datetime.datetime, asyncio.sleep, type(None)]),
)
values = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner),
        st.tuples(inner, inner),
        st.dictionaries(st.text(), inner),
        st.binary().map(bytearray),
        st.frozensets(st.integers()),
        st.dictionaries(st.integers(), inner).map(collections.OrderedDict),
        st.lists(inner).map(collections.deque),
    ),
    max_leaves=20,
)


@given(values)
def test_any_value_comes_back_equal_and_of_the_same_type(value: object) -> None:
    back = travelled(value)
    assert back == value
    assert type(back) is type(value)


@given(st.lists(values).map(tuple), st.dictionaries(st.text(), values))
def test_any_arguments_come_back_equal(args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    back = travelled((args, kwargs))
    assert back == (args, kwargs)
    assert [*map(type, back[0])] == [*map(type, args)]


large_kinds = st.sampled_from([bytes, bytearray, memoryview, lambda data: memoryview(bytearray(data))])
large = st.builds(
    lambda kind, fill, extra: kind(bytes([fill]) * (LARGE + extra)),
    large_kinds,
    st.integers(0, 255),
    st.integers(-1, 1),
)


@given(st.lists(large | atoms, max_size=4).map(tuple), st.dictionaries(st.text(), large | atoms, max_size=3))
def test_large_and_small_buffers_come_back_with_type_and_mutability(args: Any, kwargs: Any) -> None:
    back = travelled((args, kwargs))
    assert back == (args, kwargs)
    for sent, got in zip((*args, *kwargs.values()), (*back[0], *back[1].values()), strict=True):
        assert type(got) is type(sent)
        if isinstance(sent, memoryview):
            assert got.readonly == sent.readonly


@pytest.mark.parametrize("kind", [bytes, memoryview, lambda data: memoryview(data)[1:]])
def test_large_bytes_and_views_of_them_travel_as_their_own_part_without_being_copied(kind: Any) -> None:
    data = b"x" * (LARGE + 1)
    value = kind(data)
    for payload in (dumps(value), dumps(((value,), {})), dumps(((), {"key": value}))):
        stream, buffer = payload.parts
        assert len(stream) < 300
        assert buffer == value
        while isinstance(buffer, memoryview):
            buffer = buffer.obj  # type: ignore[assignment]
        assert buffer is data


class Array:
    """Pickles like a numpy array: its data by `pickle.PickleBuffer`."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: int) -> Any:
        return Array, (pickle.PickleBuffer(self.data),)


@pytest.mark.parametrize(
    "buffer",
    [
        lambda data: data,
        memoryview,
        lambda data: memoryview(data).toreadonly(),
        lambda data: memoryview(data).cast("B", (2, LARGE // 2)),
        Array,
        lambda data: Array(memoryview(data).toreadonly()),
    ],
)
@pytest.mark.parametrize("place", [lambda x: x, lambda x: ((x,), {}), lambda x: ((), {"key": x}), lambda x: [x]])
def test_a_buffer_that_changes_after_the_call_arrives_as_it_was(buffer: Any, place: Any) -> None:
    data = bytearray(b"x" * LARGE)
    payload = dumps(place(buffer(data)))
    assert [len(part) for part in payload.parts[1:]] in ([LARGE], [])
    data[:] = b"y" * LARGE
    gc.collect()
    data.append(0)  # It is not held either.
    arrived: Any = loads(payload)
    while type(arrived) not in (bytearray, memoryview, Array):
        arrived = next(iter(arrived.values() if isinstance(arrived, dict) else filter(None, arrived)))
    assert bytes(arrived.data if isinstance(arrived, Array) else arrived) == b"x" * LARGE


def test_large_bytes_are_not_copied_when_they_arrive_whole() -> None:
    value = b"x" * LARGE
    assert loads(dumps(value)) is value


def test_what_arrives_is_not_the_buffer_that_was_sent() -> None:
    value = bytearray(LARGE)
    back = loads(dumps(value))
    assert isinstance(back, bytearray)
    back[0] = 1
    back.append(2)
    assert value == bytearray(LARGE)


@pytest.mark.parametrize("writable", [True, False])
def test_a_multidimensional_view_keeps_its_shape_and_format(writable: bool) -> None:
    data = bytes(range(48))
    view = memoryview(bytearray(data) if writable else data).cast("i", (3, 4))
    back = travelled(((view,), {}))[0][0]
    assert (back.shape, back.format, back.readonly) == ((3, 4), "i", not writable)
    assert back.tolist() == view.tolist()


def test_a_view_with_gaps_arrives_as_what_it_shows() -> None:
    view = memoryview(b"x" * LARGE * 3)[::3]
    assert travelled(view) == view
    assert travelled(memoryview(bytearray(b"abcdef"))[::2]).tolist() == [97, 99, 101]


def test_an_empty_view_arrives() -> None:
    assert travelled(memoryview(b"")) == memoryview(b"")


@pytest.mark.parametrize("size", [10, LARGE])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_an_array_travels_by_its_buffer_wherever_it_stands_and_stays_writable(size: int, kind: Any) -> None:
    payload = dumps({"deep": [Array(kind(size))]})
    assert len(payload.parts) == (1 if size < LARGE else 2)
    back = travelled({"deep": [Array(kind(size))]})["deep"][0].data
    assert type(back) is kind
    assert back == kind(size)


def test_a_payload_that_lost_its_stream_is_refused() -> None:
    with pytest.raises(pickle.UnpicklingError):
        loads(Payload((b"", b"buffer", b"buffer")))


def test_a_cycle_arrives_as_a_cycle() -> None:
    value: list[Any] = [1]
    value.append(value)
    back = travelled(value)
    assert back[1] is back


def test_what_is_importable_travels_without_cloudpickle() -> None:
    value = [datetime.datetime.now(), decimal.Decimal(1), Array, asyncio.sleep, json.JSONDecodeError("a", "b", 0)]
    assert b"cloudpickle" not in dumps_inline(value)


def test_the_large_arguments_are_counted_in_the_size() -> None:
    assert dumps(((b"x" * LARGE,), {})).size > LARGE


# --- Errors --------------------------------------------------------------------------------------------


class Stubborn:
    def __reduce__(self) -> Any:
        raise ValueError("not me")


def test_the_error_of_what_cannot_be_pickled_is_the_original_one() -> None:
    with pytest.raises(ValueError, match="not me") as caught:
        dumps(((Stubborn(),), {}))
    assert caught.value.__context__ is None
    with pytest.raises(TypeError, match="lock"):
        dumps(((threading.Lock(),), {}))


def test_the_error_is_the_original_one_next_to_what_travels_by_value() -> None:
    with pytest.raises(ValueError, match="not me"):
        dumps(((lambda: 1, Stubborn()), {}))


def test_the_argument_to_blame_is_named() -> None:
    assert culprit((1, 2), {"key": threading.Lock()}) == "argument 'key', of type _thread.lock"
    assert culprit((1, Stubborn()), {}) == f"argument 1, of type {__name__}.Stubborn"
    assert culprit((1,), {"key": 2}) is None


# --- By value, in one process --------------------------------------------------------------------------


def test_a_local_function_and_a_lambda_travel() -> None:
    offset = 40
    assert travelled(lambda x: x + offset)(2) == 42


@pytest.mark.parametrize(
    "source",
    [
        "def work(): return SCHEME({})",
        "def work():\n    def inner(): return SCHEME({})\n    return inner()",
        "def work(): return [SCHEME(environ) for environ in [{}]][0]",
        "def work():\n    class Inner:\n        def get(self): return SCHEME({})\n    return Inner().get()",
        "def make(wsgiref):\n    def work(): return (lambda: SCHEME({}))()\n    return work\nwork = make(wsgiref)",
    ],
)
def test_a_submodule_that_is_used_anywhere_in_a_function_is_imported_with_it(source: str, tmp_path: Path) -> None:
    # A package whose submodule no worker has imported.
    source = source.replace("SCHEME", "wsgiref.util.guess_scheme")
    run_caller(f"import wsgiref.util\n{source}\nassert worker.call(work) == 'http'", tmp_path)


def test_code_that_travels_by_value_keeps_the_file_and_line_it_was_written_in() -> None:
    def outer() -> Any:
        def inner() -> None: ...

        return inner

    there = travelled(outer)
    for here, arrived in ((outer, there), (outer(), there())):
        assert arrived.__code__.co_filename == __file__
        assert arrived.__code__.co_firstlineno == here.__code__.co_firstlineno


def test_an_instance_of_a_local_class_comes_back_as_an_instance_of_that_very_class() -> None:
    @dataclasses.dataclass
    class Local:
        x: int

    back = travelled(((Local(3), Local), {}))
    assert back == ((Local(3), Local), {})


def test_a_class_is_not_overwritten_by_what_comes_back() -> None:
    class Counter:
        count = 0

        def method(self) -> None: ...

    method = Counter.method
    sent = dumps(Counter())
    Counter.count = 5
    assert isinstance(loads(sent), Counter)
    assert Counter.count == 5
    assert Counter.method is method


def test_a_module_registered_by_value_travels_by_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "registered_by_value_here.py").write_text("class Thing: pass\ndef function(): return Thing")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("registered_by_value_here")
    try:
        assert b"cloudpickle" not in dumps_inline(module.Thing())
        assert not define(module.function).by_value
        cloudpickle.register_pickle_by_value(module)
        assert b"cloudpickle" in dumps_inline(module.Thing())
        assert b"cloudpickle" in dumps_inline(module.function)
        assert define(module.function).by_value
        cloudpickle.unregister_pickle_by_value(module)
        assert not define(module.function).by_value
    finally:
        del sys.modules[module.__name__]


def test_a_type_variable_of_main_travels_by_value() -> None:
    namespace = script_module("import typing\nT = typing.TypeVar('T')")
    assert b"cloudpickle" in dumps_inline(namespace["T"])


# --- References ----------------------------------------------------------------------------------------


def plain() -> str:
    return "plain"


@routine
def wrapped() -> str:
    """Say it."""
    return "wrapped"


def loud(function: Any) -> Any:
    @functools.wraps(function)
    def outer(*args: Any) -> Any:
        return function(*args).upper()

    return outer


@loud
@routine
def doubly_wrapped() -> str:
    return "doubly"


@routine
@loud
def wraps_a_wrapper() -> str:
    return "inner"


class Methods:
    @routine
    def method(self) -> str:
        return "method"

    @staticmethod
    @routine
    def static() -> str:
        return "static"

    @classmethod
    @routine
    def of_class(cls) -> str:
        return cls.__name__

    class Inner:
        @routine
        def method(self) -> str:
            return "inner method"


def raw(wrapper: Any) -> Any:
    return getattr(wrapper, ROUTINE_ATTRIBUTE).function


REACHABLE = [
    plain,
    raw(wrapped),
    raw(doubly_wrapped),
    raw(wraps_a_wrapper),
    raw(Methods.method),
    raw(Methods.static),
    raw(Methods.of_class),
    raw(Methods.Inner.method),
]


@pytest.mark.parametrize("function", REACHABLE, ids=lambda function: function.__qualname__)
def test_a_raw_function_that_can_be_reached_by_import_travels_by_reference(function: Any) -> None:
    definition = define(function)
    assert not definition.by_value
    assert definition.name == f"{__name__}:{function.__qualname__}"
    assert load_definition(definition.blob) is function
    assert define(function) is definition
    assert travelled(function) is function


@pytest.mark.parametrize("wrapper", [wrapped, Methods.method, Methods.static, Methods.of_class.__func__])
def test_a_routine_that_can_be_imported_arrives_as_itself(wrapper: Any) -> None:
    assert travelled(wrapper) is wrapper
    assert travelled([wrapper, lambda: 1])[0] is wrapper


def test_a_function_that_was_replaced_in_its_module_travels_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    original = plain
    assert not define(original).by_value
    monkeypatch.setattr(sys.modules[__name__], "plain", lambda: "another")
    assert define(original).by_value
    monkeypatch.undo()
    assert not define(original).by_value


def test_a_reference_to_what_is_not_there_says_so() -> None:
    blob = define(plain).blob
    with pytest.raises(AttributeError, match="nothing_here"):
        load_definition(blob.replace(b"plain", b"nothing_here"))
    with pytest.raises(ModuleNotFoundError):
        load_definition(blob.replace(__name__.encode(), b"no.such.module"))


@pytest.mark.parametrize("blob", [b"", b"?", b"v" + pickle.dumps(3)])
def test_what_is_not_a_definition_is_refused(blob: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError):
        load_definition(blob)


def test_looking_for_a_reference_invokes_no_descriptor() -> None:
    class Trap:
        def __get__(self, *_: object) -> None:
            raise AssertionError("invoked")

    def victim() -> None: ...

    victim.__qualname__ = "Methods.trap"
    Methods.trap = Trap()  # type: ignore[attr-defined]
    try:
        assert find_reference(victim) is None
    finally:
        del Methods.trap  # type: ignore[attr-defined]


def test_wrappers_that_go_in_a_circle_end() -> None:
    def lost() -> None: ...

    lost.__qualname__ = "circle"
    circle: Any = types.SimpleNamespace()
    circle.__wrapped__ = circle
    sys.modules[__name__].circle = circle  # type: ignore[attr-defined]
    try:
        assert find_reference(lost) is None
    finally:
        del sys.modules[__name__].circle  # type: ignore[attr-defined]


@pytest.mark.parametrize(("wrappers", "is_found"), [(MOST_WRAPPERS - 1, True), (MOST_WRAPPERS, False)])
def test_more_wrappers_than_anybody_writes_are_not_taken_off(wrappers: int, is_found: bool) -> None:
    def inner() -> None: ...

    inner.__qualname__ = "beneath"
    outer: Any = inner
    for _ in range(wrappers):
        outer = types.SimpleNamespace(__wrapped__=outer)
    sys.modules[__name__].beneath = outer  # type: ignore[attr-defined]
    try:
        assert find_reference(inner) == (Reference(__name__, "beneath", wrappers) if is_found else None)
    finally:
        del sys.modules[__name__].beneath  # type: ignore[attr-defined]


def test_a_reference_counts_the_wrappers_to_take_off() -> None:
    assert find_reference(raw(wrapped)) == Reference(__name__, "wrapped", 1)
    assert find_reference(plain) == Reference(__name__, "plain", 0)


# --- Definitions by value ------------------------------------------------------------------------------

UNCHANGED = [
    "def f(): return 1",
    "import json, math\ndef f(x: int, *, y: int = 3) -> int: return json.dumps(math.pi)",
    "X = 3\ndef g(): return X\ndef f(): return g()",
    "@routine\ndef g(): return f()\ndef f(): return g()",
    "@routine\ndef f(): return f()\nf = f.__wool_routine__.function",
    "def make(n):\n    def f(): return n\n    return f\nf = make((1, 'a', None))",
    "import logging\nlog = logging.getLogger('x')\ndef f(): log.info('x')",
    "import typing\ndef f(x: list[int] | None, y: typing.Optional[str]) -> None: ...",
    "import xml.dom\ndef f(): return xml.dom",
]


def defined(source: str) -> tuple[Any, dict[str, Any]]:
    namespace = script_module(source)
    return namespace["f"], namespace


@pytest.mark.parametrize("source", UNCHANGED)
def test_a_definition_that_provably_did_not_change_is_not_pickled_again(source: str) -> None:
    function, _ = defined(source)
    first = define(function)
    assert first.by_value
    assert define(function) is first


@pytest.mark.parametrize(
    ("source", "change"),
    [
        ("X = 3\ndef f(): return X", "X = 4"),
        ("def f(): return X", "X = 4"),
        ("X = 3\ndef f(): return X", "del X"),
        ("X = 3\ndef g(): return X\ndef f(): return g()", "X = 4"),
        ("X = 3\ndef f():\n    def inner(): return X\n    return inner", "X = 4"),
        ("def g(): return 1\ndef f(): return g()", "g = lambda: 2"),
        ("@routine\ndef g(): return 1\ndef f(): return g()", "@routine\ndef g(): return 2"),
        ("def f(x=1): return x", "f.__defaults__ = (2,)"),
        ("def f(*, x=1): return x", "f.__kwdefaults__['x'] = 2"),
        ("def f(x): return x", "f.__kwdefaults__ = {'x': 2}"),
        ("def f(x: int): return x", "f.__annotations__['x'] = str"),
        ("def f(): return 1", "f.attribute = 1"),
        ("def f(): return 1", "f.__code__ = (lambda: 2).__code__"),
        ("def f(): return 1", "f.__doc__ = 'new'"),
        ("X = []\ndef f(): return X", "X.append(1)"),
        ("X = ([],)\ndef f(): return X", "X[0].append(1)"),
        ("def f(x=[]): return x", "f.__defaults__[0].append(1)"),
        ("class C: pass\ndef f(): return C", "C.attribute = 1"),
        ("import xml\ndef f(): return xml.dom", "import sys, xml.sax.xmlreader as m\nsys.modules['xml.dom'] = m"),
        ("def deco(g):\n    def w(): return g()\n    return w\nX = 1\n@deco\ndef f(): return X", "X = 2"),
    ],
)
def test_a_change_of_a_definition_is_noticed(source: str, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "xml.dom", raising=False)
    function, namespace = defined(source)
    first = define(function)
    exec(change, namespace)
    second = define(function)
    assert second.digest != first.digest
    assert second.blob != first.blob


def test_a_changed_closure_is_noticed() -> None:
    def make() -> tuple[Callable[[], int], Callable[[int], None]]:
        value = 1

        def get() -> int:
            return value

        def put(new: int) -> None:
            nonlocal value
            value = new

        return get, put

    get, put = make()
    first = define(get)  # type: ignore[arg-type]
    assert define(get) is first  # type: ignore[arg-type]
    put(2)
    assert load_definition(define(get).blob)() == 2  # type: ignore[arg-type]


def test_a_decorator_around_a_routine_is_part_of_the_definition() -> None:
    function, namespace = defined(
        "import functools\n"
        "def deco(g):\n"
        "    @functools.wraps(g)\n"
        "    def w(): return g() + X\n"
        "    return w\n"
        "X = 1\n"
        "@deco\n"
        "@routine\n"
        "def g(): return 1\n"
        "def f(): return g()\n"
    )
    assert load_definition(define(function).blob)() == 2
    namespace["X"] = 10
    assert load_definition(define(function).blob)() == 11


@given(st.lists(st.tuples(st.sampled_from("XYZ"), st.integers(0, 3) | st.just([])), max_size=12))
def test_a_definition_is_never_older_than_its_globals(changes: list[tuple[str, Any]]) -> None:
    function, namespace = defined("X = Y = 0\ndef g(): return Y\ndef f(): return X, g(), globals().get('Z')\n")
    namespace["f"].__code__ = function.__code__
    for name, value in changes:
        namespace[name] = value
        loaded = load_definition(define(function).blob)
        assert loaded()[:2] == (namespace["X"], namespace["Y"])


def test_each_load_by_value_has_globals_of_its_own() -> None:
    function, _ = defined("X = 1\ndef f():\n    global X\n    X += 1\n    return X")
    blob = define(function).blob
    assert [load_definition(blob)() for _ in range(3)] == [2, 2, 2]


def test_what_is_remembered_of_a_function_does_not_keep_it_alive() -> None:
    function, namespace = defined("@routine\ndef g(): return f()\ndef f(): return g()\n")
    define(function)
    from support import two_processes

    two_processes._wrappers.pop(raw(namespace["g"]))
    gone = weakref.ref(function)
    namespace.clear()
    del function, namespace
    gc.collect()
    assert gone() is None


def test_of_more_buffers_than_travel_beside_a_value_the_others_go_in_band(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialization, "LARGE_BYTES", 1)
    value = [PickleBuffer(bytearray(b"%d" % number)) for number in range(MOST_BUFFERS + 10)]
    payload = serialization.dumps(value)
    assert len(payload.parts) == 1 + MOST_BUFFERS
    assert serialization.loads(payload) == [b"%d" % number for number in range(MOST_BUFFERS + 10)]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(definition_module, "KNOWN_DEFINITIONS", 3)
    functions = [defined("def f(): return 1")[0] for _ in range(10)]
    for function in functions:
        define(function)
    assert len(definition_module._known) <= 3


def test_the_names_of_a_routine_survive_recursion() -> None:
    _, namespace = defined("@routine\ndef f():\n    'Say.'\n    return f\ndef other(): return f")
    back = travelled(namespace["f"])
    assert (back.__name__, back.__doc__, back.__module__) == ("f", "Say.", "__main__")
    assert back() is back


def test_without_a_routine_module_a_routine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialization, "_routine_rebuilder", serialization._no_rebuilder)
    namespace = script_module("def f(): pass")
    payload = dumps(routine(namespace["f"]))
    with pytest.raises(RuntimeError, match=r"wool\.routine"):
        loads(payload)
    set_routine_rebuilder(routine)
    assert callable(loads(payload))


LOCK = "import threading, functools\nlock = threading.Lock()\n"


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("def f(): return lock", "its global 'lock', of type _thread.lock"),
        ("def g(): return f(), lock\ndef f(): return g()", "its global 'g', its global 'lock', of type _thread.lock"),
        ("@routine\ndef g(): return lock\ndef f(): return g()", "its global 'g', its global 'lock', of type _thread"),
        ("def f(x=lock): return x", "a default of its parameters, of type _thread.lock"),
        ("def make(x):\n def f(): return x\n return f\nf = make(lock)", "variable 'x' of its closure, of type _thread"),
        ("def f(): return [lambda: items]\nitems = [1, [lock]]", "its global 'items', of type builtins.list"),
        (
            (
                "class C:\n __slots__ = ('x',)\n def m(self): return C\n @property\n def p(self): return C\n"
                " @staticmethod\n def s(): return C\n @functools.cached_property\n def c(self): return lock\n"
                "def f(): return C"
            ),
            "its global 'C', its attribute 'c', its global 'lock', of type _thread.lock",
        ),
        (
            "class C:\n def m(self): return C\n kept = lock\ndef f(): return C",
            "'C', its attribute 'kept', of type _thre",
        ),
        ("def g(): return h\ndef h(): return g\ndef f(z=lock): return g", "a default of its parameters, of type _thre"),
    ],
)
def test_what_keeps_a_definition_from_being_pickled_is_named(source: str, named: str) -> None:
    function, _ = defined(LOCK + source)
    with pytest.raises(TypeError, match="lock"):
        define(function)
    assert named in unpicklable_part(function)


# --- Two processes -------------------------------------------------------------------------------------


def test_classes_of_main_come_back_as_the_callers_own(tmp_path: Path) -> None:
    run_caller(
        """
import dataclasses, enum, typing, abc

@dataclasses.dataclass
class Point:
    x: int
    y: int = 0
    def double(self): return Point(self.x * SCALE, self.y * SCALE)

@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    x: int

class Color(enum.Enum):
    RED = 1
    @property
    def other(self): return Color.RED

class Base(abc.ABC):
    @abc.abstractmethod
    def speak(self): ...

class Derived(Base):
    def speak(self): return super().speak, "derived"

class Pair(typing.NamedTuple):
    a: int
    b: Point

SCALE = 2
double, scale = Point.double, SCALE

def work(point, color, slotted):
    SCALE
    return point.double(), color, Slotted(slotted.x + 1), Derived(), Pair(1, point), Point, [Color.RED]

for _ in range(3):
    point, color, slotted, derived, pair, cls, colors = worker.call(work, Point(1, 2), Color.RED, slotted=Slotted(1))
    assert type(point) is Point and point == Point(2, 4)
    assert color is Color.RED and colors == [Color.RED]
    assert type(slotted) is Slotted and slotted.x == 2
    assert type(derived) is Derived and derived.speak()[1] == "derived"
    assert type(pair) is Pair and type(pair.b) is Point
    assert cls is Point
    assert Point.double is double, "the caller's class was written to"
    SCALE += 1
    assert point.double().x == 2 * SCALE, "a method of the caller's class sees stale globals"
    SCALE -= 1
""",
        tmp_path,
    )


def test_a_class_of_main_is_made_once_and_whoever_registers_subclasses_hears_of_no_other(tmp_path: Path) -> None:
    run_caller(
        """
import enum

registered = {}
class Plugin:
    def __init_subclass__(cls): registered[cls.__name__] = cls
class Registering(type):
    def __init__(cls, name, bases, namespace, **options): registered[name] = cls
class First(Plugin):
    def run(self): return "first"
class Second(metaclass=Registering):
    def run(self): return "second"
class Third(enum.Enum):
    ONE = 1

def work(*plugins):
    assert [registered[type(plugin).__name__] for plugin in plugins] == [type(plugin) for plugin in plugins]
    return *plugins, *(registered[type(plugin).__name__]().run() for plugin in plugins), Third.ONE

for _ in range(3):
    first, second, *ran, third = worker.call(work, First(), Second())
    assert (type(first), type(second), third) == (First, Second, Third.ONE)
    assert ran == ["first", "second"], ran
    assert registered == {"First": First, "Second": Second}, "the caller's registry was written to"
    assert Plugin.__subclasses__() == [First]
""",
        tmp_path,
    )


def test_a_class_of_main_travels_whatever_its_base_wants_of_subclasses(tmp_path: Path) -> None:
    run_caller(
        """
class Base:
    made = {}
    def __init_subclass__(cls, *, key, **more):
        super().__init_subclass__(**more)
        cls.key = key
        Base.made[cls.name] = cls

class Sub(Base, key="k"):
    name = "sub"

def work(sub):
    class Own(Base, key="own"):
        name = "mine"
    assert Base.made["sub"] is Sub is type(sub) and Base.made["mine"] is Own and Own.key == "own"
    return sub, sub.key, Own()

for _ in range(2):
    sub, key, own = worker.call(work, Sub())
    assert type(sub) is Sub and key == "k" and type(own).key == "own" and isinstance(own, Base)
    assert Base.made == {"sub": Sub}
    class Another(Base, key="another"): name = "another"
    assert Base.made.pop("another") is Another
""",
        tmp_path,
    )


def test_enums_of_main_keep_their_aliases_and_what_their_members_were_given(tmp_path: Path) -> None:
    run_caller(
        """
import enum

class Planet(enum.Enum):
    EARTH = (5.97e24, 6.37e6)
    WORLD = EARTH
    MARS = (6.42e23, 3.39e6)
    def __init__(self, mass, radius): self.mass, self.radius = mass, radius
    @property
    def density(self): return self.mass / self.radius ** 3

class Numbered(enum.Enum):
    ONE = "first"
    TWO = "second"
    def __new__(cls, label):
        member = object.__new__(cls)
        member._value_, member.label = len(cls.__members__) + 1, label
        return member

class Right(enum.IntFlag):
    READ = 1
    WRITE = 2
    BOTH = READ | WRITE

def facts(*members):
    return [
        [list(type(member).__members__), list(type(member)), member.name, member.value] for member in members
    ], Planet.WORLD, Right.BOTH, Planet.MARS.density, Numbered.TWO.label, Numbered(2), Right(3).name

members = Planet.EARTH, Planet.MARS, Numbered.TWO, Right.BOTH, Right.READ
for _ in range(2):
    assert worker.call(facts, *members) == facts(*members)
assert worker.call(facts, *members)[1] is Planet.EARTH
Planet.MARS.mass *= 2
assert worker.call(facts, *members) == facts(*members)
""",
        tmp_path,
    )


def test_typed_dicts_of_main_that_extend_others_travel(tmp_path: Path) -> None:
    run_caller(
        """
import typing

class One(typing.TypedDict):
    a: int
class Two(One, total=False):
    b: str
class Three(Two):
    c: float
Called = typing.TypedDict("Called", {"a": int})

def work(three: Three, called: Called) -> Two:
    return Two, Three, Called, sorted(Three.__required_keys__), sorted(Three.__optional_keys__), Two(**three)

two, three, called, required, optional, made = worker.call(work, Three(a=1, c=2.0), Called(a=1))
assert (two, three, called) == (Two, Three, Called)
assert (required, optional, made) == (["a", "c"], ["b"], {"a": 1, "c": 2.0})
""",
        tmp_path,
    )


def test_classes_of_main_keep_their_full_names(tmp_path: Path) -> None:
    run_caller(
        """
import abc, dataclasses, enum, typing

class Outer:
    @dataclasses.dataclass
    class Data:
        x: int
    class Abstract(abc.ABC): ...
    class Color(enum.Enum):
        RED = 1
    class Pair(typing.NamedTuple):
        a: int
    class Slotted:
        __slots__ = ("x",)
    class Box(typing.Generic[typing.TypeVar("T")]): ...
    class Error(Exception): ...

names = lambda: [cls.__qualname__ for cls in vars(Outer).values() if isinstance(cls, type)]

def work(data):
    class Local(Exception): ...
    return repr(data), names(), Local()

text, found, error = worker.call(work, Outer.Data(1))
assert text == "Outer.Data(x=1)"
assert sorted(found) == sorted(names()), found
assert type(error).__qualname__ == "work.<locals>.Local"
""",
        tmp_path,
    )


def test_slotted_classes_of_main_keep_their_slots_there_and_back(tmp_path: Path) -> None:
    run_caller(
        """
import collections, dataclasses, enum, typing

@dataclasses.dataclass(slots=True)
class Data:
    a: int
    b: list = dataclasses.field(default_factory=list)

@dataclasses.dataclass(slots=True, frozen=True, weakref_slot=True)
class Frozen:
    a: int

class Plain:
    __slots__ = ("x", "__hidden", "unset")
    def __init__(self, x): self.x = self.__hidden = x
    def parts(self): return self.x, self.__hidden, hasattr(self, "unset")

class Open(Plain):
    pass

class Closed(Plain):
    __slots__ = "y"

class Documented:
    __slots__ = {"x": "what it is", "__dict__": "more"}

T = typing.TypeVar("T")
class Box(typing.Generic[T]):
    __slots__ = ["x"]

class Listed(list):
    __slots__ = ("tag",)

class Pair(typing.NamedTuple):
    a: int
    b: Plain

class Triple(collections.namedtuple("Triple", "a b c")):
    __slots__ = ()

@dataclasses.dataclass(slots=True)
class Mixin:
    x: int

class Member(Mixin, enum.Enum):
    ONE = 1

def work(data, frozen, plain, opened, closed, documented, box, listed, pair, triple):
    assert not hasattr(plain, "__dict__") and not hasattr(closed, "__dict__") and not hasattr(triple, "__dict__")
    assert closed.parts() == (5, 5, False) and plain.parts() == (3, 3, False)
    data.b.append(data.a)
    closed.y += 1
    try:
        plain.z = 1
    except AttributeError:
        return data, frozen, plain, opened, closed, documented, box, listed, pair, triple, Data(9), Member.ONE.value

for _ in range(2):
    plain, opened, closed, documented, box, listed = Plain(3), Open(4), Closed(5), Documented(), Box[int](), Listed([1])
    opened.z = 6
    closed.y = 7
    documented.x = documented.z = 8
    box.x = listed.tag = 9
    sent = [Data(1), Frozen(2), plain, opened, closed, documented, box, listed, Pair(1, plain), Triple(1, 2, 3)]
    back = worker.call(work, *sent)
    assert [type(thing) for thing in back[:-2]] == [type(thing) for thing in sent]
    assert back[0] == Data(1, [1]) and back[1] == Frozen(2) and back[-2] == Data(9)
    assert back[2].parts() == (3, 3, False) and (back[3].parts(), back[3].z) == ((4, 4, False), 6)
    assert (back[4].x, back[4].y) == (5, 8) and (back[5].x, back[5].z) == (8, 8)
    assert back[6].x == 9 and (back[7], back[7].tag) == ([1], 9)
    assert back[8].b is back[2] and back[9] == (1, 2, 3)
""",
        tmp_path,
    )


def test_cached_and_dispatching_functions_of_main_travel(tmp_path: Path) -> None:
    run_caller(
        """
import functools

@functools.cache
def fib(n):
    "Add."
    return n if n < 2 else fib(n - 1) + fib(n - 2)
fib.note = "kept"

@functools.lru_cache(maxsize=7, typed=True)
def square(n): return n * n

@functools.singledispatch
def show(x):
    "Show."
    return "any"
@show.register
def _(x: int): return "int"
@show.register
def _(x: list): return [show(item) for item in x]

class Thing:
    def __init__(self, n): self.n = n
    @functools.lru_cache
    def cached(self): return self.n
    @functools.cached_property
    def kept(self): return [self.n]
    @functools.singledispatchmethod
    def show(self, x): return "any", self.n
    @show.register
    def _(self, x: int): return "int", self.n
    @functools.singledispatchmethod
    @classmethod
    def made(cls, x): return cls(x)

def work(thing):
    return (
        (fib(30), fib.__name__, fib.__qualname__, fib.__module__, fib.__doc__, fib.note, fib.__wrapped__.__name__),
        (square(3), square.cache_parameters()),
        (show(""), show(1), show([2, ""]), show.__name__, show.__doc__),
        (thing.cached(), thing.kept, thing.kept is thing.kept, thing.show(""), thing.show(1), Thing.made(5).n),
    )

found = worker.call(work, Thing(4))
assert found[0] == (832040, "fib", "fib", "__main__", "Add.", "kept", "fib"), found
assert found[1] == (9, {"maxsize": 7, "typed": True}), found
assert found[2] == ("any", "int", ["int", "any"], "show", "Show."), found
assert found[3] == (4, [4], True, ("any", 4), ("int", 4), 5), found

square(2)
back = worker.call(lambda f: (f(4), f), square)
assert back[0] == 16 and back[1](5) == 25
""",
        tmp_path,
    )


def test_a_cached_function_of_a_module_travels_by_reference_and_keeps_its_cache(tmp_path: Path) -> None:
    run_caller(
        """
import cached
def work(f): return f(1), f.cache_info().misses
assert worker.call(work, cached.square) == (1, 1)
assert worker.call(work, cached.square) == (1, 1)
assert worker.call(lambda: cached.square.cache_info().hits) == 1
assert worker.call(lambda f: f(3), cached.other) == 4
assert worker.call(lambda x: cached.show(x), 3) == "int"
assert worker.call(lambda f: f is cached.show, cached.show)
""",
        tmp_path,
        {
            "cached": """
import functools
@functools.cache
def square(n): return n * n
def next_to(n): return n + 1
other = functools.lru_cache(next_to)
@functools.singledispatch
def show(x): return "any"
@show.register
def _(x: int): return "int"
"""
        },
    )


def test_types_of_main_that_are_no_classes_travel(tmp_path: Path) -> None:
    run_caller(
        """
import typing

UserId = typing.NewType("UserId", int)
P = typing.ParamSpec("P")
Ts = typing.TypeVarTuple("Ts")
T = typing.TypeVar("T", bound=int)

class Call(typing.Generic[P, T]):
    def __init__(self, function: typing.Callable[P, T]): self.function = function
    def run(self, *args: P.args, **kwargs: P.kwargs) -> T: return self.function(*args, **kwargs)

class Row(typing.Generic[*Ts]):
    def __init__(self, *cells: *Ts): self.cells = cells

def work(user: UserId, call: Call[[int], int], row: Row[int, str]) -> tuple[UserId, P, tuple[*Ts]]:
    names = [thing.__name__ for thing in (UserId, P, Ts, T)]
    return UserId(user + 1), call.run(2), row.cells, UserId.__supertype__, names, [UserId, P, Ts]

found = worker.call(work, UserId(1), Call(lambda x: x * 2), Row(1, "a"))
assert found[:5] == (2, 4, (1, "a"), int, ["UserId", "P", "Ts", "T"]), found
assert [thing.__module__ for thing in found[5]] == ["__main__"] * 3
assert worker.call(lambda row: row, Row(1)).__class__ is Row
""",
        tmp_path,
    )


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the statement is new in Python 3.12")
def test_type_aliases_and_type_parameters_of_main_travel(tmp_path: Path) -> None:
    run_caller(
        """
import typing
type Pairs[T] = list[tuple[T, T]]
type Json = dict[str, Json] | list[Json] | str | None

class Box[T: int]:
    def __init__(self, x: T): self.x = x
    def map[**P, U](self, f, *args: P.args, **kwargs: P.kwargs) -> U: return f(self.x, *args, **kwargs)

def work[T, *Ts](box: Box[T], pairs: Pairs[int], value: Json) -> tuple[T, *Ts]:
    return box.map(lambda x, y: x + y, 2), Pairs.__name__, Json, Pairs

found = worker.call(work, Box(1), [(1, 2)], {"a": None})
assert found[:2] == (3, "Pairs"), found
json, pairs = found[2:]
assert json.__name__ == "Json" and json.__module__ == "__main__"
assert typing.get_args(json.__value__)[0] == dict[str, json]
assert pairs.__value__ == list[tuple[pairs.__type_params__[0], pairs.__type_params__[0]]]
assert pairs.__module__ == "__main__"
assert type(worker.call(lambda box: box, Box(1))) is Box
""",
        tmp_path,
    )


def test_what_is_known_by_its_name_in_main_alone_fails_at_the_caller_with_the_remedy(tmp_path: Path) -> None:
    run_caller(
        """
import pickle
class Missing:
    def __reduce__(self): return "MISSING"
MISSING = Missing()
for attempt in (lambda: worker.call(lambda x: x, MISSING), lambda: worker.call(lambda: MISSING)):
    try:
        attempt()
    except pickle.PicklingError as error:
        assert "'MISSING'" in str(error) and "Missing" in str(error), error
        assert "define it in a module that workers can import" in str(error), error
    else:
        raise AssertionError
""",
        tmp_path,
    )


def test_a_changed_global_of_main_is_seen_by_the_next_call_and_writes_are_not_kept(tmp_path: Path) -> None:
    run_caller(
        """
X = 1
seen = []
def work():
    global X
    X += 1
    seen.append(X)
    return X, seen
assert worker.call(work) == (2, [2])
assert worker.call(work) == (2, [2])
X = 10
assert worker.call(work) == (11, [11])
assert seen == []
""",
        tmp_path,
    )


def test_routines_of_main_travel_with_all_that_they_refer_to(tmp_path: Path) -> None:
    run_caller(
        """
import asyncio

@routine
async def factorial(n):
    "Multiply."
    return 1 if n == 0 else n * await factorial(n - 1)

@routine
async def even(n):
    return True if n == 0 else await odd(n - 1)

@routine
async def odd(n):
    return False if n == 0 else await even(n - 1)

def make():
    @routine
    async def down(n):
        return 0 if n == 0 else await down(n - 1)
    return down

class Base:
    async def name(self): return "base"

class Thing(Base):
    @routine
    async def name(self):
        return "thing of " + await super().name()
    @staticmethod
    @routine
    async def static(): return await Thing().name()
    @classmethod
    @routine
    async def of_class(cls): return cls.__name__, await cls.static()

assert worker.call(factorial, 5) == 120
assert worker.call(even, 5) is False
assert worker.call(make(), 3) == 0
assert worker.call(Thing.name, Thing()) == "thing of base"
assert worker.call(Thing.static) == "thing of base"
assert worker.call(Thing.of_class.__func__, Thing) == ("Thing", "thing of base")

async def runs_a_routine(r, n):
    result = await r(n)
    return result, r.calls, r.__name__, r.__doc__
assert worker.call(runs_a_routine, factorial, 3) == (6, 4, "factorial", "Multiply.")
assert worker.call(runs_a_routine, even, 4) == (True, 3, "even", None)
""",
        tmp_path,
    )


def test_routines_of_a_module_travel_by_reference_also_as_methods(tmp_path: Path) -> None:
    output = run_caller(
        """
import things
from wool.definition import define
assert not define(things.work.__wool_routine__.function).by_value
assert worker.call(things.work, things.Thing(2)) == 2
assert worker.call(things.Thing.of_class.__func__, things.Thing) == "Thing"
assert worker.call(things.count) == 1
assert worker.call(things.count) == 2, "a module keeps its globals, as locally"
print("done")
""",
        tmp_path,
        {
            "things": """
from support.two_processes import routine
counter = 0
class Thing:
    def __init__(self, x): self.x = x
    @classmethod
    @routine
    async def of_class(cls): return cls.__name__
@routine
async def work(thing): return thing.x
@routine
def count():
    global counter
    counter += 1
    return counter
"""
        },
    )
    assert output == "done\n"


def test_large_buffers_cross_processes(tmp_path: Path) -> None:
    run_caller(
        """
def work(a, b, c):
    b[0] = 1
    return bytearray(a), type(a), type(b), type(c), c.readonly, bytes(b[:2])
size = 10 ** 6
assert worker.call(work, bytes(size), bytearray(size), memoryview(bytearray(size))) == (
    bytearray(size), bytes, bytearray, memoryview, False, b"\\1\\0")
""",
        tmp_path,
    )


def test_a_reference_that_the_worker_cannot_import_fails_there(tmp_path: Path) -> None:
    run_caller(
        """
import os, shutil
import gone
worker.call(lambda f: f(), gone.work)
worker.__exit__()
worker = Worker()
os.remove(gone.__file__)
shutil.rmtree(os.path.join(os.path.dirname(gone.__file__), "__pycache__"), ignore_errors=True)
try:
    worker.call(gone.work)
except ModuleNotFoundError as error:
    assert error.name == "gone"
else:
    raise AssertionError
""",
        tmp_path,
        {"gone": "def work(): pass"},
    )


def test_a_module_that_only_the_caller_knows_travels_by_value(tmp_path: Path) -> None:
    (tmp_path / "off").mkdir()
    (tmp_path / "off" / "plug.py").write_text(
        """
import dataclasses, enum, functools, typing
SCALE = 2
class Color(enum.Enum):
    RED = 1
@dataclasses.dataclass(slots=True)
class Point:
    x: int
class Failure(Exception):
    pass
@functools.cache
def scaled(x): return x * SCALE
UserId = typing.NewType("UserId", int)
def work(point: Point, user: UserId):
    if not point.x:
        raise Failure("nothing")
    return Point(scaled(point.x)), Color.RED, work, UserId
"""
    )
    run_caller(
        """
import importlib.util, pathlib, sys
path = pathlib.Path(__file__).parent / "off" / "plug.py"
spec = importlib.util.spec_from_file_location("plug", path)
plug = sys.modules["plug"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plug)

for _ in range(2):
    point, color, work, user = worker.call(plug.work, plug.Point(2), plug.UserId(1))
    assert type(point) is plug.Point and point.x == 4 and color is plug.Color.RED
    assert work(plug.Point(1), 1)[0].x == 2 and user.__name__ == "UserId"
    plug.SCALE = 3
    assert worker.call(plug.work, plug.Point(2), 1)[0].x == 6
    plug.SCALE = 2
    try:
        worker.call(plug.work, plug.Point(0), 1)
    except plug.Failure as error:
        assert error.args == ("nothing",)
    assert worker.call(lambda: (plug.scaled(4), plug.__name__, plug.Point(3)))[:2] == (8, "plug")
""",
        tmp_path,
    )
