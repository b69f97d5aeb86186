"""Small books to break, and the record of what was done to them."""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from .namespaces import NoNamespace, namespace
from .small_book import SmallBook, make


class Fault:
    """A row of the fault matrix: what is done to the book and how, and later what came of it."""

    def __init__(self, test: pytest.Item, name: str, how: str):
        self._test = test
        self._row: dict[str, Any] = {"fault": name, "how": how}
        self._keep()

    def measured(
        self,
        *,
        times: int,
        lost: int | None = None,
        repeated: int | None = None,
        said: str = "",
        jobs: Sequence[Mapping[str, str | int]] = (),
    ) -> None:
        """What was measured: call it before the assertions, so that the row of a failed test has it too.

        Args:
            times: how often the fault was made.
            lost: verdicts that are missing or not those of an undisturbed build; None where there are none.
            repeated: chapters that had to run once more because of the fault; None if that says nothing here.
            said: what the build says of the fault, in its own words.
            jobs: what a cluster ran for the build: rows of `cluster.Cluster.jobs`.
        """
        self._row |= {"times": times, "lost": lost, "repeated": repeated, "said": said}
        if jobs:
            self._row["jobs"] = jobs
        self._keep()

    def _keep(self) -> None:
        # As record_property does, which warns of strict readers of JUnit files.
        self._test.user_properties.append(("fault", json.dumps(self._row, ensure_ascii=False)))


@pytest.fixture
def fault(request) -> Callable[[str, str], Fault]:
    """Opens the test's row of the fault matrix: ``fault(name, how)``, before anything can be skipped."""
    return lambda name, how: Fault(request.node, name, how)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> tuple[SmallBook, float]:
    """A small book that was built undisturbed, and the seconds that took. Nothing writes into it.

    Processes that share out the tests have one between them, and wait for who builds it.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    root, took = shared / "reference" / "book", shared / "reference.seconds"
    with (shared / "reference.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not took.exists():
            shutil.rmtree(root.parent, ignore_errors=True)
            start = time.monotonic()
            make(root).build()
            took.write_text(str(time.monotonic() - start))
    return SmallBook(root), float(took.read_text())


@pytest.fixture(scope="session")
def reference(undisturbed) -> SmallBook:
    """The small book that was built undisturbed; ``copy`` it to write into it."""
    return undisturbed[0]


@pytest.fixture
def fresh(tmp_path) -> SmallBook:
    """A small book that was never built."""
    return make(tmp_path / "book")


@pytest.fixture
def built(reference, tmp_path) -> SmallBook:
    """A copy of the undisturbed book."""
    return reference.copy(tmp_path / "book")


@pytest.fixture
def enter() -> Iterator[Callable[..., tuple[str, ...]]]:
    """Opens a namespace, ``enter("mount")`` or ``enter("net")``; skips where the kernel gives none."""
    opened = []

    def inside(kind: str) -> tuple[str, ...]:
        try:
            holder, command = namespace(kind)
        except NoNamespace as error:
            pytest.skip(f"no {kind} namespace here: {error}")
        opened.append(holder)
        return command

    yield inside
    for holder in opened:
        holder.kill()
        holder.communicate()
