"""A notebook that nbval reruns is as deaf to the user's IPython as one that `fourfold.book.execute` runs.

Of a cell that fails the JUnit file has what it said and says now. Files with the longest tests come first, so
that at the end no core waits for another.
"""

import os
import tempfile
from pathlib import Path

import pytest
from nbval.plugin import IPyNbCell

HERE = Path(__file__).parent
FIRST = ("tests/robust", "tests/test_processors.py", "tests/recorded/test_mutation.py", "notebooks")


def pytest_configure(config):
    """Give the kernels an IPython folder of their own."""
    own = tempfile.TemporaryDirectory(prefix="ipython-")
    config.add_cleanup(own.cleanup)
    os.environ["IPYTHONDIR"] = own.name
    os.environ.pop("PYTHONSTARTUP", None)


def pytest_collection_modifyitems(items):
    """Sort what takes minutes to the front; of a file, and of the rest, the order stays."""

    def behind(item) -> bool:
        return not any(item.path.is_relative_to(HERE / name) for name in FIRST)

    items.sort(key=behind)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item, call):
    """Note what a notebook's cell says otherwise; `fourfold.recorded.drift` collects it."""
    if call.when == "call" and call.excinfo and isinstance(item, IPyNbCell):
        from fourfold.recorded import drift

        told = drift.note(item.path.stem, item.cell.source, item.cell.outputs, item.test_outputs or ())
        item.user_properties.append(("differs", told))
