"""What every test shares: reproducible property tests, one thread, and no silent skip in CI."""

import hypothesis
import torch

from .skips import pytest_make_collect_report, pytest_runtest_makereport

__all__ = ["pytest_make_collect_report", "pytest_runtest_makereport"]

# The same examples on every machine: a red test is then a change of ours, never luck.
hypothesis.settings.register_profile("fourfold", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("fourfold")
torch.set_num_threads(1)
