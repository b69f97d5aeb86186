"""The records of the comparing pages, as their tests read them."""

from functools import cache
from typing import Any

import pytest

from fourfold.recorded import benchmark


@cache
def loaded(name: str) -> dict[str, Any]:
    """The record of ``benchmarks/<name>.py``; a test fails that needs one which was not made."""
    record = benchmark.load(name)
    if record is None:
        pytest.fail(f"the page needs its records: run benchmarks/{name}.py")
    return record
