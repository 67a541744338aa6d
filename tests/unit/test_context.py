"""Settings by context: for a block and what it calls, and for nobody else."""

from __future__ import annotations

import asyncio
import copy
import math
import pickle
from typing import Any

import cloudpickle
import pytest
from fixtures import make

from wool.context import RuntimeContext, credentials_in_force, dispatch_timeout_seconds, set_dispatch_timeout
from wool.credentials import CredentialFiles, WorkerCredentials
from wool.limits import DEFAULT_LIMITS

DEFAULT = DEFAULT_LIMITS.dispatch_timeout_seconds


@pytest.fixture(scope="module")
def credentials() -> WorkerCredentials:
    return make().credentials("caller")


def test_the_default_is_the_named_limit() -> None:
    assert dispatch_timeout_seconds() == DEFAULT
    with RuntimeContext():
        assert dispatch_timeout_seconds() == DEFAULT


@pytest.mark.parametrize("seconds", [2.5, 1, 0.001, 1e9, math.inf, None])
def test_a_setting_holds_in_its_block_alone(seconds: float | None) -> None:
    with RuntimeContext(dispatch_timeout=seconds) as context:
        assert dispatch_timeout_seconds() == seconds
        assert context.dispatch_timeout == seconds
        assert seconds is None or isinstance(dispatch_timeout_seconds(), float)
    assert dispatch_timeout_seconds() == DEFAULT


@pytest.mark.parametrize("seconds", [0, -1, -0.5, math.nan, True, "5", 1j])
def test_what_is_no_positive_number_of_seconds_is_refused(seconds: Any) -> None:
    with pytest.raises(ValueError, match="dispatch_timeout"):
        RuntimeContext(dispatch_timeout=seconds)


def test_blocks_nest_and_one_context_may_be_entered_twice() -> None:
    context = RuntimeContext(dispatch_timeout=1)
    with context, RuntimeContext(dispatch_timeout=2):
        with context:
            assert dispatch_timeout_seconds() == 1
        assert dispatch_timeout_seconds() == 2
    assert dispatch_timeout_seconds() == DEFAULT


def test_an_exception_ends_the_block() -> None:
    with pytest.raises(LookupError), RuntimeContext(dispatch_timeout=1):
        raise LookupError
    assert dispatch_timeout_seconds() == DEFAULT


async def test_tasks_started_in_a_block_keep_it_and_others_do_not_see_it() -> None:
    inside, outside = asyncio.Event(), asyncio.Event()

    async def look() -> float | None:
        await outside.wait()
        return dispatch_timeout_seconds()

    other = asyncio.create_task(look())
    with RuntimeContext(dispatch_timeout=3):
        mine = asyncio.create_task(look())
    inside.set()
    outside.set()
    assert (await mine, await other) == (3, DEFAULT)


async def test_a_worker_takes_over_the_callers_setting_for_one_body() -> None:
    async def body() -> float | None:
        set_dispatch_timeout(7.0)
        return dispatch_timeout_seconds()

    assert await asyncio.create_task(body()) == 7.0
    assert dispatch_timeout_seconds() == DEFAULT


def test_its_repr_says_what_it_sets() -> None:
    assert repr(RuntimeContext(dispatch_timeout=2)) == "RuntimeContext(dispatch_timeout=2.0)"


def test_credentials_hold_in_their_block_alone(credentials: WorkerCredentials) -> None:
    assert credentials_in_force() is None
    with RuntimeContext(credentials=credentials):
        assert credentials_in_force() is credentials
        with RuntimeContext(credentials=None):
            assert credentials_in_force() is None
        assert credentials_in_force() is credentials
    assert credentials_in_force() is None


def test_what_a_context_leaves_out_stays_as_it_is(credentials: WorkerCredentials) -> None:
    with RuntimeContext(dispatch_timeout=1), RuntimeContext(credentials=credentials) as inner:
        assert (inner.dispatch_timeout, dispatch_timeout_seconds()) == (1, 1)
        with RuntimeContext(dispatch_timeout=2):
            assert credentials_in_force() is credentials
            assert dispatch_timeout_seconds() == 2
        assert dispatch_timeout_seconds() == 1


def test_what_are_no_credentials_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"must be WorkerCredentials or a function that returns them, got 'worker\.pem'"
    ):
        RuntimeContext(credentials="worker.pem")  # type: ignore[arg-type]


@pytest.mark.parametrize("travel", [pickle.dumps, cloudpickle.dumps, copy.deepcopy])
@pytest.mark.parametrize("kind", ["held", "files", "function"])
def test_a_context_with_credentials_does_not_travel(credentials: WorkerCredentials, travel: Any, kind: str) -> None:
    given: Any = {"held": credentials, "files": CredentialFiles(ca_path="ca.pem"), "function": lambda: credentials}
    context = RuntimeContext(credentials=given[kind])
    with pytest.raises(TypeError, match="no key leaves its process"):
        travel(context)
    with context, pytest.raises(TypeError, match="no key leaves its process"):
        travel(lambda: context) if travel is cloudpickle.dumps else travel(context)


def test_a_context_without_credentials_travels_entered_or_not() -> None:
    with RuntimeContext(dispatch_timeout=2) as context:
        assert pickle.loads(pickle.dumps(context)).dispatch_timeout == 2


def test_its_repr_shows_no_key(credentials: WorkerCredentials) -> None:
    assert (
        repr(RuntimeContext(credentials=credentials))
        == "RuntimeContext(credentials=<WorkerCredentials mutual from bytes>)"
    )
