"""What holds for every test: nothing is left behind, and Hypothesis is told how hard to try."""

from __future__ import annotations

import os

from hypothesis import settings

pytest_plugins = ["pytester", "support.leaks"]

# In CI the same examples every time: a failure there belongs to the change, not to the dice.
settings.register_profile("ci", derandomize=True, database=None, deadline=None, print_blob=True)
settings.register_profile("dev", deadline=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
