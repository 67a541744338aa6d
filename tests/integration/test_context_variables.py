"""`wool.ContextVar` over workers: as across a local ``await``, whatever file the variable is in."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

import wool
from support.contexts import Program, outcome, programs
from support.pools import module_loop, no_leaked_tasks, pool  # noqa: F401

pytestmark = [module_loop, pytest.mark.usefixtures("no_leaked_tasks")]

EXAMPLES = int(os.environ.get("WOOL_TEST_EXAMPLES", "40"))

user: wool.ContextVar[str] = wool.ContextVar("user", default="nobody")
trail: wool.ContextVar[list[int]] = wool.ContextVar("trail")


@wool.routine
async def who() -> tuple[str, int]:
    return user.get(), os.getpid()


@wool.routine
async def pass_on(depth: int) -> list[int]:
    """Add this process to the trail, and let the next one do the same."""
    trail.set([*trail.get([]), os.getpid()])
    if depth:
        await pass_on(depth - 1)
    return trail.get()


@wool.routine
async def in_turn(stop: int) -> AsyncIterator[str]:
    for number in range(stop):
        seen = user.get()
        user.set(f"{seen}+{number}")
        yield seen


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(programs)
async def test_no_program_tells_routines_on_workers_from_plain_functions(program: Program) -> None:
    assert await outcome("wool", program) == await outcome("plain", program)


@pytest.mark.smoke
async def test_the_body_sees_what_its_caller_has_set_and_concurrent_calls_do_not_see_each_other() -> None:
    assert (await who())[0] == "nobody"

    async def as_user(name: str) -> str:
        user.set(name)
        return (await who())[0]

    names = [f"user {number}" for number in range(50)]
    assert await asyncio.gather(*(as_user(name) for name in names)) == names
    assert user.get() == "nobody"


@pytest.mark.smoke
async def test_what_nested_bodies_set_comes_back_through_all_of_them() -> None:
    processes = await pass_on(3)
    assert trail.get() == processes and len(processes) == 4
    assert os.getpid() not in processes


async def test_a_generator_and_its_consumer_see_each_other_at_each_item() -> None:
    user.set("a")
    seen = []
    async for item in in_turn(3):
        seen.append((item, user.get()))
        if len(seen) == 2:
            user.set("b")
    assert seen == [("a", "a+0"), ("a+0", "a+0+1"), ("b", "b+2")]


async def test_a_variable_of_a_closure_travels_with_its_function() -> None:
    local: wool.ContextVar[Any] = wool.ContextVar("local", default="unset")

    @wool.routine
    async def swap(value: Any) -> Any:
        before = local.get()
        local.set(value)
        return before

    assert await swap(1) == "unset"
    assert local.get() == 1
    assert await swap(2) == 1
    assert local.get() == 2


def run(script: str, *arguments: str, cwd: Path | None = None) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        input=textwrap.dedent(script),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=cwd,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


MAIN = """
    import asyncio, wool

    language = wool.ContextVar("language", default="en")

    @wool.routine
    async def greet(name):
        said = {"en": "hello", "fr": "salut"}[language.get()] + " " + name
        language.set("en")
        return said

    async def main():
        async with wool.WorkerPool(size=1):
            print(await greet("a"), language.get())
            language.set("fr")
            print(await greet("b"), language.get())

    asyncio.run(main())
"""


async def test_a_variable_of_a_script_travels_with_its_functions(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(textwrap.dedent(MAIN))
    assert run("", str(tmp_path / "script.py")) == "hello a en\nsalut b en\n"
    assert run(MAIN, "-") == "hello a en\nsalut b en\n"


async def test_values_of_modules_that_a_worker_cannot_import_do_not_stop_its_bodies(tmp_path: Path) -> None:
    script = f"""
        import asyncio, sys, wool

        async def main():
            async with wool.WorkerPool(size=1):
                sys.path.insert(0, {str(tmp_path / "here")!r})
                import only_here
                only_here.variable.set(only_here.Value())
                from pathlib import Path

                @wool.routine
                async def work(): return 3

                print(await work(), type(only_here.variable.get()).__name__)

        asyncio.run(main())
    """
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "only_here.py").write_text(
        "import wool\nvariable = wool.ContextVar('variable')\nclass Value: pass\n"
    )
    assert run(script, "-", cwd=tmp_path) == "3 Value\n"
