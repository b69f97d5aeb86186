"""Builds that are killed: nothing that came of them is lost, and nothing half-made is taken for a result."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from .small_book import CHAPTERS, SmallBook, make

KILLS = 20


def children(pid: int) -> list[int]:
    """The processes that any thread of a process has started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def kill(build: subprocess.Popen, whom: str) -> None:
    """SIGKILL to a ``make book``: to every process of its group, to make alone, or to Snakemake alone."""
    if whom == "all":
        os.killpg(build.pid, signal.SIGKILL)
    else:
        for pid in [build.pid] if whom == "make" else children(build.pid):
            os.kill(pid, signal.SIGKILL)
    build.wait()


def wait_for(condition, what: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.05)


def killed(times: int, seconds: float, folder: Path) -> list[SmallBook]:
    """Books whose builds were killed ``times`` times, each within ``seconds``, and that are built at last."""
    chance = random.Random(2026)
    pristine = make(folder / "pristine")
    for drawn in (pristine.root / "book" / "_generated").iterdir():
        drawn.unlink()  # the cover is drawn here, so that a kill can hit it too
    books: list[SmallBook] = []
    kills = 0
    while kills < times:
        book = pristine.copy(folder / f"book-{len(books)}")
        books.append(book)
        finished = False
        while not finished:
            build = book.start("make", "book", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                # The last book is left to finish.
                finished = build.wait(chance.uniform(0, seconds) if kills < times else None) == 0
                assert finished, f"a build after {kills} kills failed"
            except subprocess.TimeoutExpired:
                kill(build, ("all", "make", "Snakemake")[kills % 3])
                kills += 1
    return books


@pytest.mark.faults
def test_killed_at_random_moments(fault, undisturbed, tmp_path):
    row = fault(
        "The build is killed",
        "SIGKILL at random moments, each time to one of: all its processes, make alone, Snakemake alone; "
        "then make book again",
    )
    reference, duration = undisturbed
    books = killed(KILLS, duration, tmp_path)
    lost = sum(book.lost(reference) for book in books)
    row.measured(
        times=KILLS,
        lost=lost,
        repeated=sum(book.started().total() for book in books) - len(CHAPTERS) * len(books),
    )
    assert lost == 0
    assert all(book.ledger() == reference.ledger() for book in books)


def test_killed_once_in_each_way(undisturbed, tmp_path):
    """The same in a minute, without a row of its own."""
    reference, duration = undisturbed
    books = killed(3, duration, tmp_path)
    assert sum(book.lost(reference) for book in books) == 0
    assert all(book.ledger() == reference.ledger() for book in books)


@pytest.mark.faults
def test_a_run_that_outlives_its_build_cannot_bring_old_numbers(fault, reference, built, tmp_path):
    row = fault(
        "A run outlives its killed build",
        "SIGKILL to Snakemake alone while a chapter runs old code; the code is changed back and built again; "
        "the old run ends only then",
    )
    module, gate = "src/fourfold/theory/dice.py", tmp_path / "gate"
    text = "    return np.random.default_rng(seed).integers("
    old = (
        "    import os, time\n    while not os.path.exists(os.environ['GATE']):\n        time.sleep(0.1)\n"
        + text.replace("seed", "seed + 1")
    )
    built.edit(module, text, old)
    before = built.started()["dice"]
    build = built.start(
        "make", "book", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={"GATE": str(gate)}
    )
    wait_for(lambda: built.started()["dice"] > before, "the old run to start")
    snakemake = children(build.pid)
    running = descendants(snakemake)
    kill(build, "Snakemake")
    built.edit(module, old, text)
    built.build()
    assert any(map(alive, running)), "the old run ended too early to show anything"
    gate.touch()
    wait_for(lambda: not any(map(alive, running)), "the old run to end")
    built.build()
    lost = built.lost(reference)
    row.measured(times=1, lost=lost, repeated=built.started()["dice"] - before - 1)
    assert lost == 0
    assert built.ledger() == reference.ledger()


def descendants(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        if alive(pid):
            found += [pid, *descendants(children(pid))]
    return found


def alive(pid: int) -> bool:
    """Whether a process still runs; one that has ended and waits to be noticed does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
