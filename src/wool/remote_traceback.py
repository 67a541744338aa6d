"""Tracebacks that cross processes, the place that they name, and the text of an exception.

Why it exists: an exception that comes back should show where it was raised, and say on which worker. Both are
kept in the traceback itself, whose frames are made here to carry a file, a line and a name but no code and no
variables; so nothing is added to the exception, and ``raise``, ``traceback`` and debuggers need no help.

It owns `Origin` and the form of a recorded frame. It must never run user code other than ``__str__`` and
``__repr__`` of an exception and of its arguments, and never let these raise into its caller.
"""

from __future__ import annotations

import contextlib
import linecache
import reprlib
import traceback
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from types import CodeType, FrameType, TracebackType
from typing import Any, NamedTuple, TypeAlias, cast

from wool.limits import MOST_FRAMES_SHOWN, MOST_LABEL_CHARACTERS, MOST_LINKS_SHOWN

FRAME_BYTES = 24
"""What a recorded frame is reckoned to take beyond its texts."""

# Of an exception, past any property, ``__getattribute__`` or ``__setattr__`` of the user's class.
ARGS: Any = BaseException.__dict__["args"]
TRACEBACK: Any = BaseException.__dict__["__traceback__"]
CAUSE: Any = BaseException.__dict__["__cause__"]
CONTEXT: Any = BaseException.__dict__["__context__"]
SUPPRESS_CONTEXT: Any = BaseException.__dict__["__suppress_context__"]
ATTRIBUTES: Any = BaseException.__dict__["__dict__"]
MEMBERS: Any = BaseExceptionGroup.__dict__["exceptions"]

_ORIGIN = "__wool_origin__"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an exception came from: the worker, and the task that it ran."""

    worker: str
    """The worker's uid."""
    host: str
    pid: int
    task: str
    """The task's id."""


class FrameRecord(NamedTuple):
    """One frame on its way. ``origin`` is set on the frame that stands for the border of a worker."""

    filename: str
    name: str
    line: int
    module: str
    origin: tuple[str, str, int, str] | None = None


def origin(exc: BaseException) -> Origin | None:
    """Return where ``exc`` was raised, if that was on a worker; across several hops, the innermost.

    Raises `TypeError` for what is no exception.
    """
    if not isinstance(exc, BaseException):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"wool.origin takes an exception, got {type(exc).__qualname__}: {exc!r:.100}")
    found: Origin | None = None
    tb: TracebackType | None = TRACEBACK.__get__(exc)
    while tb is not None:
        found = _origin_of(tb.tb_frame) or found
        tb = tb.tb_next
    return found


def _origin_of(frame: FrameType) -> Origin | None:
    marker = frame.f_globals.get(_ORIGIN)
    return marker if type(marker) is Origin else None


def border(here: Origin) -> FrameRecord:
    """Return the frame that stands for the border of the worker ``here``."""
    worker, host, task = cut(here.worker, MOST_LABEL_CHARACTERS), cut(here.host, MOST_LABEL_CHARACTERS), cut(here.task)
    filename = f"<worker {worker} on {host}, pid {here.pid}>"
    return FrameRecord(filename, f"task {task}", 1, "", (worker, host, here.pid, task))


def record_traceback(tb: TracebackType | None, *, here: Origin | None, limit_bytes: int) -> list[FrameRecord]:
    """Return the frames of ``tb``, outermost first, below the border of ``here``.

    Beyond ``limit_bytes`` the outermost are left out, but never the innermost border.
    """
    links: list[TracebackType] = []
    while tb is not None:
        links.append(tb)
        tb = tb.tb_next
    texts: dict[str, str] = {}
    kept: list[FrameRecord] = []
    left, size = len(links), 0
    for link in reversed(links):
        record = _record(link, texts)
        size += FRAME_BYTES + sum(len(texts.setdefault(text, text)) for text in record[:2] if text not in texts)
        if size > limit_bytes and kept:
            break
        kept.append(FrameRecord(texts[record.filename], texts[record.name], *record[2:]))
        left -= 1
    if left:
        kept.append(FrameRecord(f"<{left} older frames left out>", "...", 1, ""))
        if not any(record.origin for record in kept):
            marked = next((link for link in links[left - 1 :: -1] if _origin_of(link.tb_frame)), None)
            kept += [_record(marked, texts)] if marked else []
    if here is not None:
        kept.append(border(here))
    kept.reverse()
    return kept


def _record(link: TracebackType, texts: dict[str, str]) -> FrameRecord:
    code = link.tb_frame.f_code
    module = link.tb_frame.f_globals.get("__name__")
    marker = _origin_of(link.tb_frame)
    return FrameRecord(
        cut(code.co_filename, MOST_LABEL_CHARACTERS),
        cut(code.co_name, MOST_LABEL_CHARACTERS),
        link.tb_lineno or 1,
        cut(module, MOST_LABEL_CHARACTERS) if type(module) is str else "",
        (marker.worker, marker.host, marker.pid, marker.task) if marker else None,
    )


class _Unwound(Exception):
    """Raised to get hold of a frame."""


_STUB = compile("raise _Unwound", "<remote>", "exec")
_NO_INSTRUCTION = -1
"""So that nothing is underlined: the columns would be those of the stub."""


def build_traceback(records: Sequence[FrameRecord]) -> TracebackType | None:
    """Return a traceback with these frames, outermost first; None if there are none."""
    built: TracebackType | None = None
    for record in reversed(records):
        line = max(int(record.line), 1)
        built = TracebackType(built, _frame(record, line), _NO_INSTRUCTION, line)
    return built


@lru_cache(maxsize=256)
def _stub(filename: str, name: str, line: int) -> CodeType:
    return _STUB.replace(co_filename=filename, co_name=name, co_qualname=name, co_firstlineno=line)


def _frame(record: FrameRecord, line: int) -> FrameType:
    code = _stub(record.filename, record.name, line)
    scope: dict[str, object] = {"__name__": record.module, "_Unwound": _Unwound}
    if record.origin is not None:
        scope[_ORIGIN] = Origin(*record.origin)
    try:
        exec(code, scope)
    except _Unwound as unwound:
        del scope["_Unwound"]
        link = unwound.__traceback__
        while link is not None and link.tb_next is not None:
            link = link.tb_next
        assert link is not None
        return link.tb_frame
    raise AssertionError("the stub did not raise")


def format_records(records: Iterable[FrameRecord]) -> str:
    """Return recorded frames as a traceback's text."""
    summaries = [traceback.FrameSummary(record.filename, record.line, record.name) for record in records]
    return "".join(traceback.format_list(summaries[-MOST_FRAMES_SHOWN:]))


# --- Texts ---------------------------------------------------------------------------------------------


def cut(text: str, limit: int = MOST_LABEL_CHARACTERS) -> str:
    """Return ``text`` in at most ``limit`` characters, and a few that say how many there were."""
    if type(text) is not str:
        text = str.__str__(text)  # A subclass may lie about its length.
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


class _BoundedRepr(reprlib.Repr):
    """``repr`` that neither walks large containers nor copies large strings."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxtuple = self.maxlist = self.maxarray = self.maxdict = 32
        self.maxset = self.maxfrozenset = self.maxdeque = 32
        self.maxstring = self.maxother = MOST_LABEL_CHARACTERS
        self.maxlong = 400


_repr = _BoundedRepr()


def bounded_repr(value: object) -> str:
    """Return ``repr(value)``, bounded, or that there is none. Never raises."""
    try:
        return cut(_repr.repr(value))
    except BaseException as error:  # Whatever the user's __repr__ raises: it must not hide the exception.
        return f"<{type_name(type(value))} whose repr() raised {type_name(type(error))}>"


def type_name(cls: type) -> str:
    """Return ``module.qualname``. Never raises."""
    try:
        return cut(f"{cls.__module__}.{cls.__qualname__}")
    except BaseException:  # A metaclass may do anything.
        return cut(type.__dict__["__name__"].__get__(cls))


_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes})


def message_of(exc: BaseException, limit: int) -> str:
    """Return ``str(exc)`` in at most about ``limit`` characters, or that there is none. Never raises."""
    try:
        args: tuple[object, ...] = ARGS.__get__(exc)
        if type(exc).__str__ is BaseException.__str__ and not _ATOMS.issuperset(map(type, args)):
            return cut(bounded_repr(args[0] if len(args) == 1 else args), limit)
        return cut(str(exc), limit)
    except BaseException as error:  # Whatever the user's __str__ raises: it must not hide the exception.
        return f"<str() raised {type_name(type(error))}>"


class FrameLine(NamedTuple):
    """What is printed of one frame, without the frame. Columns as in `traceback.FrameSummary`."""

    filename: str
    line: int
    name: str
    end_line: int | None
    column: int | None
    end_column: int | None


Outline: TypeAlias = tuple[str | tuple[FrameLine, ...], ...]
"""An exception as it will be printed: texts, and between them tracebacks whose source has not been looked up."""


def outline_exception(exc: BaseException, limit: int) -> Outline:
    """Return what `print_outline` needs to print ``exc``, and no live object. Never raises.

    A few links of the chain of causes and contexts are kept, and a few exceptions of a group.
    """
    sections: list[list[str | tuple[FrameLine, ...]]] = []
    current = exc
    while len(sections) < MOST_LINKS_SHOWN:
        cause: BaseException | None = CAUSE.__get__(current)
        context: BaseException | None = CONTEXT.__get__(current)
        sections.append(_outline_one(current, limit))
        if cause is not None:
            current, connection = cause, "The above exception was the direct cause of the following exception:"
        elif context is not None and not SUPPRESS_CONTEXT.__get__(current):
            current, connection = context, "During handling of the above exception, another exception occurred:"
        else:
            break
        sections[-1].insert(0, f"\n{connection}\n\n")
    return tuple(piece for section in reversed(sections) for piece in section)


def print_outline(outline: Outline, limit: int) -> str:
    """Return what Python would print, bounded: the end of it if it is longer. Never raises."""
    text = "".join(piece if isinstance(piece, str) else _print_frames(piece) for piece in outline).lstrip("\n")
    return text if len(text) <= limit else f"... ({len(text)} characters)\n{text[-limit:]}"


def _print_frames(frames: tuple[FrameLine, ...]) -> str:
    try:
        summaries = [
            traceback.FrameSummary(
                frame.filename,
                frame.line,
                frame.name,
                end_lineno=frame.end_line,
                colno=frame.column,
                end_colno=frame.end_column,
            )
            for frame in frames
        ]
        return "".join(["Traceback (most recent call last):\n", *traceback.StackSummary.from_list(summaries).format()])
    except Exception:  # The loader of some module may fail to give its source.
        return "Traceback (not readable)\n"


def _outline_one(exc: BaseException, limit: int) -> list[str | tuple[FrameLine, ...]]:
    pieces: list[str | tuple[FrameLine, ...]] = []
    tb: TracebackType | None = TRACEBACK.__get__(exc)
    if tb is not None:
        shown: deque[TracebackType] = deque(maxlen=MOST_FRAMES_SHOWN)
        while tb is not None:
            shown.append(tb)
            tb = tb.tb_next
        pieces.append(tuple(_line_of(link) for link in shown))
    lines = [_headline(exc, limit)]
    if issubclass(type(exc), BaseExceptionGroup):
        members: tuple[BaseException, ...] = MEMBERS.__get__(exc)
        lines += [f"  | {_headline(member, limit)}" for member in members[:MOST_LINKS_SHOWN]]
        if len(members) > MOST_LINKS_SHOWN:
            lines.append(f"  | ... and {len(members) - MOST_LINKS_SHOWN} more\n")
    pieces.append("".join(lines))
    return pieces


def _line_of(link: TracebackType) -> FrameLine:
    frame = link.tb_frame
    code = frame.f_code
    # A module that is no file, of an archive or a notebook, must be asked for its source while it is at hand.
    linecache.lazycache(code.co_filename, frame.f_globals)
    # Before the first instruction stands what was thrown into a generator that has not begun.
    instruction = max(link.tb_lasti, 0) // 2
    _, end_line, column, end_column = _position(code, instruction)
    return FrameLine(code.co_filename, link.tb_lineno, code.co_name, end_line, column, end_column)


_Position: TypeAlias = tuple[int | None, int | None, int | None, int | None]
_positions: OrderedDict[tuple[int, int], tuple[CodeType, _Position]] = OrderedDict()
"""By the id of a code object, which is in the value and so stays alive, and by the instruction."""
POSITIONS = 512
"""Places in code that are remembered: what raises does so again and again, and from few of them."""


def _position(code: CodeType, instruction: int) -> _Position:
    """Return where in the source an instruction is. The table of positions can only be read from its beginning."""
    # Not by the code itself, whose hash and comparison go through all of it.
    key = id(code), instruction
    known = _positions.get(key)
    if known is None:
        found = next(islice(code.co_positions(), instruction, None), (None, None, None, None))
        known = _positions[key] = (code, found)
        while len(_positions) > POSITIONS:
            with contextlib.suppress(KeyError):  # Another thread was first.
                _positions.popitem(last=False)
    return known[1]


def _headline(exc: BaseException, limit: int) -> str:
    name, message = type_name(type(exc)).removeprefix("builtins."), message_of(exc, limit)
    lines = [f"{name}: {message}\n" if message else f"{name}\n"]
    notes: object = ATTRIBUTES.__get__(exc).get("__notes__")
    if isinstance(notes, list):
        shown = cast("list[object]", notes)[:MOST_LINKS_SHOWN]
        lines += [f"{cut(note, limit)}\n" for note in shown if type(note) is str]
    return "".join(lines)
