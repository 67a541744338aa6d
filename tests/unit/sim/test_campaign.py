"""A campaign: what it runs, what it says, how it ends; on the real simulator, briefly."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import pytest

from wool.sim import __main__ as command_line
from wool.sim import campaign
from wool.sim.__main__ import main
from wool.sim.bodies import Body, Step
from wool.sim.campaign import Found, Tally, fails_alike, failure_of, keep_plan, read_plan, replays, work
from wool.sim.invariants.story import Violation
from wool.sim.invariants.table import INVARIANTS, formula_of, letter_of
from wool.sim.kinds import Fault
from wool.sim.plan import Call, Plan
from wool.sim.progress import Progress, summary
from wool.sim.report import report
from wool.sim.run import run
from wool.sim.speed import Speed, measure

pytestmark = pytest.mark.timeout(180)

SMALL = Plan(
    calls=(
        Call(ordinal=0, at=0.3, body=Body(steps=(Step(op="sleep", seconds=0.1), Step(op="return", number=3)))),
        Call(ordinal=1, at=0.3, body=Body(generator=True, steps=(Step(op="yield", number=1),))),
    ),
    faults=(Fault(kind="crash", target="w0", at=0.35),),
)


def command(*arguments: str) -> tuple[int, str]:
    out = io.StringIO()
    return main(arguments, out), out.getvalue()


def kept(directory: Path, plan: Plan = SMALL) -> Path:
    return keep_plan(plan, directory, "small")


def test_every_invariant_has_its_letter_and_its_formula() -> None:
    assert {letter_of(name) for name in INVARIANTS} == {
        *("S1", "S2", "S3", "S4", "S5", "S6", "S7", "T", "C1", "C2", "C3", "C4", "G", "B", "D", "X", "L", "R", "V")
    }
    status, said = command("--invariants")
    assert status == 0
    assert said.splitlines() == [formula_of(name) for name in INVARIANTS]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--plans", "0"),
        ("--seconds", "-1"),
        ("--jobs", "0"),
        ("--seed", "-5"),
        ("--profile", "always"),
        ("--replay", "no-such-file.json"),
        ("--what",),
    ],
)
def test_arguments_that_make_no_sense_are_status_2(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        command(*arguments)
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err or arguments[-1] in capsys.readouterr().err


def test_a_kept_plan_that_is_no_plan_is_status_2_with_the_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "odd.json"
    file.write_text('{"calls": [{"at": 1}]}')
    with pytest.raises(SystemExit) as caught:
        command("--replay", str(file))
    assert caught.value.code == 2
    assert "odd.json: plan.calls[0]: field 'ordinal' is missing" in capsys.readouterr().err


def test_a_plan_is_kept_and_read(tmp_path: Path) -> None:
    assert read_plan(kept(tmp_path / "new")) == SMALL


def test_a_replay_runs_the_plan_several_times_and_in_fresh_interpreters(tmp_path: Path) -> None:
    status, said = command("--replay", str(kept(tmp_path)))
    assert (status, said) == (0, f"{tmp_path / 'small.json'}: nothing is broken, and every run was the same\n")


def test_every_run_of_a_plan_is_the_same_whatever_the_hash_seed(tmp_path: Path) -> None:
    assert not list(replays(SMALL, kept(tmp_path)))


def test_a_broken_promise_is_status_1_with_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Violation(invariant="S1", task="c0.0", sentence="the body of c0.0 began 2 times", events=(5,))
    monkeypatch.setattr(campaign, "judge_story", lambda story: [broken])
    status, said = command("--replay", str(kept(tmp_path)))
    assert status == 1
    assert "S1 is broken, task c0.0" in said
    assert f"nox -s sim -- --replay {tmp_path / 'small.json'}" in said


def test_kept_plans_are_run_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Violation(invariant="S1", task="c0.0", sentence="the body of c0.0 began 2 times")
    monkeypatch.setattr(campaign, "judge_story", lambda story: [broken])
    kept(tmp_path)
    status, said = command("--seconds", "1", "--corpus", str(tmp_path), "--keep", str(tmp_path / "found"))
    assert status == 1
    assert "S1 is broken" in said and "plans " not in said


def test_a_small_campaign_ends_with_a_table(tmp_path: Path) -> None:
    status, said = command(
        *("--plans", "4", "--jobs", "2", "--seed", "11", "--corpus", str(tmp_path), "--keep", str(tmp_path))
    )
    assert status == 0, said
    assert said.startswith("seed 11, 2 processes, 0 kept plans")
    for row in ("4 (2 hypothesis, 2 volume)", "states reached", "none broken", "wire:"):
        assert row in said, said


@pytest.mark.parametrize("enough", [True, False])
def test_a_long_search_that_never_reached_a_state_has_failed_and_names_it(
    enough: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line, "LONG_PLANS", 4 if enough else 5)
    status, said = command(
        *("--plans", "4", "--jobs", "2", "--seed", "11", "--corpus", str(tmp_path), "--keep", str(tmp_path))
    )
    assert status == enough
    assert ("the search has failed: in 4 plans" in said) == enough
    # Four plans cannot have been everywhere.
    assert ("\n  a worker has forgotten a definition\n" in said) == enough


@pytest.mark.parametrize("mode", ["hypothesis", "volume"])
def test_what_a_search_finds_comes_shrunk(mode: campaign.Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(story: campaign.Story) -> list[Violation]:
        crashes = [fault for fault in story.plan.faults if fault.kind == "crash"]
        calls = [call for call in story.plan.calls if call.body.generator]
        if crashes and calls:
            return [Violation(invariant="S1", task=calls[0].label, sentence="made up")]
        return []

    monkeypatch.setattr(campaign, "judge_story", judge)
    told: list[Tally] = []
    found = work(mode, 3, 400, told.append, lambda: False)
    assert found is not None
    assert [fault.kind for fault in found.plan.faults] == ["crash"]
    assert len(found.plan.calls) == 1
    assert found.necessary == (0,)
    assert sum(tally.plans[mode] for tally in told) > 0
    failure = failure_of(found.plan, first=found.violation)
    assert failure is not None and failure.first.sentence == "made up"


def test_a_kept_plan_that_fails_says_which_of_its_faults_are_necessary(monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(story: campaign.Story) -> list[Violation]:
        kinds = [fault.kind for fault in story.plan.faults]
        return [Violation(invariant="S1", task="", sentence="made up")] if "crash" in kinds else []

    monkeypatch.setattr(campaign, "judge_story", judge)
    faults = (Fault(kind="pause", target="w1", at=0.3), Fault(kind="crash", target="w0", at=0.5))
    failure = failure_of(Plan(faults=faults))
    assert failure is not None
    assert failure.necessary == (1,)
    assert "Necessary: fault 1 (" in report(failure)


def test_a_run_that_is_not_repeated_is_a_violation_that_names_the_event(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Counter[str]()

    def unsteady(plan: Plan) -> object:
        result = real(plan)
        turns["runs"] += 1
        result.history.add(99.0, "", "run.ended", "", "", (("how", "done"), ("words", str(turns["runs"]))))
        return result

    real = campaign.execute
    monkeypatch.setattr(campaign, "execute", unsteady)
    monkeypatch.setattr(campaign, "TWICE_EVERY", 1)
    monkeypatch.setattr(campaign, "SHRINK_RUNS", 20)
    found = work("volume", 1, 5, lambda tally: None, lambda: False)
    assert found is not None
    assert found.violation.invariant == campaign.DETERMINISM
    assert "words=" in found.violation.sentence
    assert fails_alike(found.violation)(SMALL)


def test_progress_is_one_line_on_a_terminal_and_lines_elsewhere() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    tally = Tally(plans=Counter(volume=3), faults=Counter(reset=2, crash=1), states=Counter({"a stall": 1}))
    terminal, file = Terminal(), io.StringIO()
    for out in (terminal, file):
        progress = Progress(out, 60.0, None)
        progress.show(tally)
        progress.show(tally)
        progress.clear()
    assert terminal.getvalue().count("\r") == 3 and "\n" not in terminal.getvalue()
    assert "3 plans" in terminal.getvalue() and "wire 2, process 1, discovery 0" in terminal.getvalue()
    assert file.getvalue() == "", "not more often than every few seconds"


def test_the_summary_names_what_was_not_reached() -> None:
    tally = Tally(plans=Counter(volume=3), busy=Counter(volume=1500), simulated=15.0, states=Counter({"a stall": 1}))
    speed = Speed(callback_seconds=1.5e-6, idle_rate=2e5)
    text = summary(tally, elapsed=2.0, jobs=1, seed=5, kept=0, found=None, speed=speed)
    assert "2.0 through plain random numbers" in text
    assert "idle 200,000 s" in text
    assert "1.5 µs" in text
    assert "10 s a second and core" in text
    assert "never reached:" in text and "a worker is killed" in text
    assert "to shrink                nothing" in text and ", none broken" in text
    assert max(len(line) for line in text.splitlines()) <= 100


def test_the_summary_tells_what_it_took_to_make_a_failing_plan_small() -> None:
    violation = Violation(invariant="S1", task="c0.0", sentence="it began twice")
    found = Found(plan=Plan(), violation=violation, how="by chance", shrink_runs=36, shrink_seconds=1.04)
    speed = Speed(callback_seconds=1.5e-6, idle_rate=2e5)
    text = summary(Tally(), elapsed=2.0, jobs=1, seed=5, kept=0, found=found, speed=speed)
    assert "to shrink                1.0 s, 36 runs" in text and ", 1 broken" in text


def test_how_fast_the_simulator_is_can_be_measured_anywhere() -> None:
    speed = measure()
    assert 0 < speed.callback_seconds < 1e-3
    assert speed.idle_rate > 1


def test_all_kept_plans_hold() -> None:
    corpus = Path(__file__).parents[2] / "sim" / "corpus"
    files = sorted(corpus.glob("*.json"))
    assert files
    for file in files:
        plan = read_plan(file)
        failure = failure_of(plan)
        assert failure is None, f"{file}: {failure.first}"
        assert run(plan).digest() == run(plan).digest()
        assert json.loads(file.read_text()) == plan.to_json()
