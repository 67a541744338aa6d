"""Fixtures of many test files."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.faults import Journal


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """The file in which executions are noted, empty."""
    # Late: this is loaded ahead of all tests, and wool must not be imported ahead of those that watch its import.
    from support.faults import Journal

    return Journal(tmp_path / "journal")


@pytest.fixture
def namespace() -> str:
    """The name of a LocalDiscovery that no other test uses."""
    return f"test-{uuid.uuid4().hex[:8]}"
