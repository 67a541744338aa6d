"""A history as a sequence diagram: a lane for each incarnation, frames as arrows between them.

`Diagram` is the model: which lanes, which rows. Two pure functions draw it, `as_text` here and, for a
browser, one that takes the same model. It must never decide what matters of a history by itself beyond
the task it is asked about.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from wool.sim.history import Event, History
from wool.sim.invariants.story import caller_of, worker_of
from wool.sim.plan import Plan, top_of

WIDTH = 118
TIME = 11
"""Columns of the time at the left."""
NARROWEST = 16
"""Columns of a lane; with more lanes than fit, those where least happens are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line: something at one lane, or an arrow from one to another."""

    at: float
    lane: int
    words: str
    to: int | None = None
    lost: bool = False
    """An arrow that does not arrive."""
    mark: str = ""
    """``x`` a crash, ``=`` a pause, ``!`` what breaks the invariant."""
    arrives: float | None = None
    wide: bool = False
    """It belongs to no lane: a fault, the healing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """So many events, in so long a time, in which nothing of the task happens."""

    events: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagram:
    """Lanes and rows."""

    lanes: tuple[str, ...]
    rows: tuple[Row | Gap, ...]
    left_out: tuple[str, ...] = ()
    """Incarnations for which there was no room."""


_SAID: dict[str, str] = {
    "call.made": "call",
    "call.cancelled": "CANCEL",
    "call.step": "",
    "call.item": "item",
    "call.ended": "=>",
    "body.began": "BEGINS",
    "body.resumed": "goes on",
    "body.yielded": "yields",
    "body.cancelled": "sees cancel",
    "body.finally": "finally",
    "body.ended": "ends",
    "place.bound": "bound to",
    "view.added": "sees",
    "view.dropped": "drops",
    "probe.made": "probe",
}
_ALWAYS = {
    "node.crashed": "x",
    "node.paused": "=",
    "node.resumed": "=",
    "node.terminated": "=",
    "node.exited": "=",
}
_WIDE = {"fault.injected", "fault.healed", "phase.healed", "run.ended"}


def diagram_of(history: History, plan: Plan, task: str, important: Iterable[int] = ()) -> Diagram:
    """Return the diagram of one task and its family; with no task, of the ``important`` events and the faults."""
    marked = set(important)
    family = _Family(history, task, marked)
    rows: list[Row | Gap] = []
    lanes = _lanes(history, family)
    places = {lane: place for place, lane in enumerate(lanes)}
    arrivals = _arrivals(history)
    skipped, since = 0, 0.0
    for index, event in enumerate(history):
        row = _row(index, event, family, places, arrivals)
        if row is None:
            skipped += 1
            continue
        if skipped > 3 and rows and event.at - since > 0.0005:
            rows.append(Gap(events=skipped, seconds=event.at - since))
        skipped, since = 0, event.at
        rows.append(row if index not in marked else _important(row))
    everybody = [event.node for event in history.of("node.up")]
    return Diagram(
        lanes=tuple(lanes), rows=tuple(rows), left_out=tuple(node for node in everybody if node not in places)
    )


def _important(row: Row) -> Row:
    return Row(
        at=row.at,
        lane=row.lane,
        words=row.words,
        to=row.to,
        lost=row.lost,
        mark=row.mark + "!",
        arrives=row.arrives,
        wide=row.wide,
    )


class _Family:
    """Which events belong to the story that is told."""

    def __init__(self, history: History, task: str, marked: set[int]) -> None:
        self.task = task
        self.marked = marked
        self._owners: dict[str, str] = {}
        self.sessions: set[str] = set()
        for event in history:
            if event.attempt and event.task:
                self._owners.setdefault(event.attempt, event.task)
            if event.attempt and self.is_ours(event):
                self.sessions.add(event.session)

    def label(self, event: Event) -> str:
        return event.task or self._owners.get(event.attempt, "")

    def is_ours(self, event: Event) -> bool:
        label = self.label(event)
        return bool(self.task) and bool(label) and (label == self.task or top_of(label) == top_of(self.task))


def _lanes(history: History, family: _Family) -> list[str]:
    """Return the incarnations to be shown, callers first, those that the task touches before the others."""
    weights: dict[str, int] = {}
    for index, event in enumerate(history):
        if not event.node:
            continue
        weight = 100 if family.is_ours(event) or index in family.marked else 0
        weight += 10 if event.kind in _ALWAYS and event.kind != "node.exited" else 0
        if weight:
            weights[event.node] = weights.get(event.node, 0) + weight
            for node in (caller_of(event.attempt), worker_of(event.attempt)) if event.attempt else ():
                weights[node] = weights.get(node, 0) + 1
    most = (WIDTH - TIME) // NARROWEST
    chosen = sorted(weights, key=lambda node: (-weights[node], node))[:most]
    return sorted(node for node in chosen if node)


def _arrivals(history: History) -> dict[int, tuple[int, float]]:
    """Match what was said with what was heard: streams keep their order, so the n-th is the n-th."""
    open_ones: dict[tuple[str, str, str], list[int]] = {}
    found: dict[int, tuple[int, float]] = {}
    for index, event in enumerate(history):
        if event.kind not in ("wire.said", "wire.heard"):
            continue
        key = (event.attempt, str(event.get("frame")), _sayer(event))
        if event.kind == "wire.said":
            open_ones.setdefault(key, []).append(index)
        elif waiting := open_ones.get(key):
            found[waiting.pop(0)] = (index, event.at)
    return found


def _sayer(event: Event) -> str:
    if event.kind == "wire.said":
        return event.node
    caller, worker = caller_of(event.attempt), worker_of(event.attempt)
    return worker if event.node == caller and caller != worker else caller


def _row(
    index: int, event: Event, family: _Family, places: dict[str, int], arrivals: dict[int, tuple[int, float]]
) -> Row | None:
    if event.kind in _WIDE:
        # Where everything waits is many lines, and has its own place in the report.
        words = " ".join(str(value).partition("\n")[0] for _, value in event.detail if value != "")
        return Row(at=event.at, lane=0, words=f"{event.kind}: {words}" if words else event.kind, wide=True)
    lane = places.get(event.node)
    if lane is None:
        return None
    mark = _ALWAYS.get(event.kind)
    if mark is not None:
        return Row(at=event.at, lane=lane, words=event.kind.partition(".")[2], mark=mark)
    marked = index in family.marked
    if event.kind == "wire.lost" and (event.session in family.sessions or marked):
        return Row(at=event.at, lane=lane, words="session lost", mark="-")
    if not family.is_ours(event) and not marked:
        return None
    if event.kind == "wire.said":
        return _arrow(index, event, lane, places, arrivals)
    if event.kind == "wire.heard":
        # It is the end of an arrow; alone only if it is what breaks the invariant.
        return Row(at=event.at, lane=lane, words=f"heard {event.get('frame')}") if marked else None
    return Row(at=event.at, lane=lane, words=_words(event, family))


def _arrow(index: int, event: Event, lane: int, places: dict[str, int], arrivals: dict[int, tuple[int, float]]) -> Row:
    caller, worker = caller_of(event.attempt), worker_of(event.attempt)
    other = places.get(worker if event.node == caller else caller)
    words = str(event.get("frame"))
    for name in ("result", "kind", "step", "code"):
        if event.get(name):
            words += f" {event.get(name)}"
            break
    words += f" {event.task}" if event.task else ""
    arrival = arrivals.get(index)
    return Row(
        at=event.at,
        lane=lane,
        to=other if other != lane else None,
        words=words,
        lost=arrival is None,
        arrives=None if arrival is None else arrival[1],
    )


def _words(event: Event, family: _Family) -> str:
    said = _SAID.get(event.kind, event.kind)
    values = dict(event.detail)
    match event.kind:
        case "call.ended":
            words = f"=> {values.get('outcome')}"
            if values.get("value") not in (None, ""):
                words += f" {values.get('value')}"
        case "call.step":
            words = f"asks {values.get('step')}"
        case "call.item" | "body.yielded":
            words = f"{said} {values.get('value')}"
        case "body.ended":
            words = f"{said}: {values.get('how')}"
        case "body.resumed":
            words = f"{said}: {values.get('step')}"
        case "place.bound" | "view.added" | "view.dropped":
            words = f"{said} {values.get('worker')}"
        case _:
            words = said
    return f"{words} {event.task}" if event.task and event.task != family.task else words


# ---- as text ----------------------------------------------------------------------------------------


def as_text(diagram: Diagram, width: int = WIDTH) -> str:
    """Draw a diagram with characters, ``width`` columns wide."""
    lanes = max(len(diagram.lanes), 1)
    lane_width = min((width - TIME) // lanes, 34)
    lines = [" " * TIME + "".join(lane.center(lane_width) for lane in diagram.lanes).rstrip()]
    dead: set[int] = set()
    paused: set[int] = set()
    for row in diagram.rows:
        if isinstance(row, Gap):
            lines.append(" " * TIME + f"    … {row.events} events in {row.seconds:.3f} s …")
            continue
        if row.wide:
            lines.append(f"{row.at:10.6f} " + f"─── {row.words} ".ljust(lane_width * lanes, "─")[: width - TIME])
            continue
        if row.words == "paused":
            paused.add(row.lane)
        if row.words == "resumed":
            paused.discard(row.lane)
        cells = _rails(lanes, lane_width, dead, paused)
        if row.to is None:
            _write_note(cells, row, lane_width)
        else:
            _write_arrow(cells, row, lane_width)
        if row.words in ("crashed", "exited"):
            dead.add(row.lane)
        lines.append(f"{row.at:10.6f} " + "".join(cells).rstrip())
    if diagram.left_out:
        lines.append(" " * TIME + f"(not shown: {', '.join(diagram.left_out)})")
    return "\n".join(lines)


def _rails(lanes: int, width: int, dead: set[int], paused: set[int]) -> list[str]:
    cells = [" "] * (lanes * width)
    for lane in range(lanes):
        cells[lane * width + width // 2] = " " if lane in dead else "┊" if lane in paused else "│"
    return cells


def _write_note(cells: list[str], row: Row, width: int) -> None:
    middle = row.lane * width + width // 2
    sign = {"x": "✗", "=": "▒", "-": "┴"}.get(row.mark[:1], "●")
    text = f"{sign} {row.words}" + (" ◀" if "!" in row.mark else "")
    # To the right of its rail if it fits there, over what is to the left if it does not.
    start = max(0, min(middle, len(cells) - len(text)))
    _put(cells, start, text)


def _write_arrow(cells: list[str], row: Row, width: int) -> None:
    assert row.to is not None
    start, end = row.lane * width + width // 2, row.to * width + width // 2
    rightward = end > start
    low, high = min(start, end), max(start, end)
    if row.lost:
        # It gets two thirds of the way.
        reach = low + (high - low) * 2 // 3 if rightward else high - (high - low) * 2 // 3
        low, high = (low, reach) if rightward else (reach, high)
    line = ["─"] * (high - low - 1)
    text = f" {row.words}{' ◀' if '!' in row.mark else ''} "
    if row.arrives is not None and row.arrives - row.at > 0.02:
        text += f"(+{(row.arrives - row.at) * 1000:.0f} ms) "
    if len(text) < len(line) - 1:
        offset = (len(line) - len(text)) // 2
        line[offset : offset + len(text)] = text
    else:
        short = text.strip()[: max(len(line) - 1, 0)]
        line[: len(short)] = short
    _put(cells, low + 1, "".join(line))
    tip = high if rightward else low
    _put(cells, tip, "✗" if row.lost else "▶" if rightward else "◀")


def _put(cells: list[str], start: int, text: str) -> None:
    for offset, character in enumerate(text):
        if 0 <= start + offset < len(cells):
            cells[start + offset] = character
