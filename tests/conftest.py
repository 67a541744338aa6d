"""What holds for every test: it leaves nothing behind, it ends, and Hypothesis knows how hard to try."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Generator

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key
from hypothesis import settings

pytest_plugins = ["pytester", "support.fixtures", "support.leaks"]

# In CI the same examples every time: a failure there belongs to the change, not to the dice.
settings.register_profile("ci", derandomize=True, database=None, deadline=None, print_blob=True)
settings.register_profile("dev", deadline=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

TEARDOWN_SECONDS = 120.0
"""After a failure pytest's own watch is off, and pytest-timeout fires only once: a task that ignores its
cancellation would hang the run in the cleanup of the test that failed. Instead: every stack, and the end."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    stderr = item.config.stash.get(fault_handler_stderr_fd_key, None)  # the real one, not the captured
    faulthandler.dump_traceback_later(TEARDOWN_SECONDS, exit=True, file=2 if stderr is None else stderr)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
