"""The book on a cluster: a real Slurm on this machine gives the same verdicts, whatever dies under it."""

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from .cluster import MISSING, NODES, Cluster, cluster
from .small_book import CHAPTERS, SmallBook, faces, make

PROFILE = "workflow/profiles/slurm"
LIMIT = 300
"""Seconds for what takes a fifth of them on a machine that has nothing else to do."""
CHAPTER_JOBS = {f"chapter {chapter.replace('/', '_')}" for chapter in CHAPTERS}
SWEEP = """\
title: Dice over the number of throws
chapter: dice
grid:
  throws: [100, 200, 400, 800]
seed: 100
seeds: 2
measure:
  mean: C1.mean
  memory: C2.memory
"""
STARTED = 'tally.write(f"{slug}\\n")\n'
WAIT = """\
    while os.path.exists(f"{os.environ['FOURFOLD_TALLY']}.hold"):
        __import__("time").sleep(0.05)
"""


@contextmanager
def slurm() -> Iterator[Cluster]:
    """A cluster of two idle nodes; a test opens its row before it is skipped here."""
    if MISSING:
        pytest.skip(f"no Slurm on this machine: {', '.join(MISSING)} not installed")
    with ExitStack() as stack:
        try:
            ours = stack.enter_context(cluster())
        except TimeoutError as error:
            pytest.skip(f"Slurm is installed but does not start here: {error}")
        yield ours


@pytest.fixture
def book(tmp_path: Path) -> SmallBook:
    """A small book, never built, that asks for its jobs more often than is good for a shared cluster."""
    ours = make(tmp_path / "book")
    ours.edit(f"{PROFILE}/config.yaml", "status-checks: 10", "status-checks: 1")
    return ours


@dataclass
class Build:
    """A build of the chapters of a book on a cluster; each node is in the middle of one until `finish`."""

    cluster: Cluster
    book: SmallBook
    process: subprocess.Popen[str]
    hold: Path

    def until_started(self, times: int) -> None:
        """Wait until chapters have started so many times."""
        self.cluster.until(lambda: self.book.started().total() >= times, f"{times} chapters started", LIMIT)

    def finish(self) -> None:
        """Let the chapters go on, and wait for the end of a build that succeeds."""
        self.hold.unlink()
        said = self.process.communicate(timeout=LIMIT)[1]
        assert self.process.returncode == 0, said

    def ended(self, state: str) -> list[tuple[str, str]]:
        """The jobs that ended in a state: what they made, and on which node."""
        return [(str(job["made"]), str(job["node"])) for job in self.cluster.jobs() if job["state"] == state]


@contextmanager
def build(book: SmallBook) -> Iterator[Build]:
    """Begin to build the chapters of a book on a cluster."""
    hold = Path(f"{book.tally}.hold")
    hold.touch()
    book.edit("src/fourfold/tally.py", STARTED, STARTED + WAIT)
    command = ["python", "-m", "fourfold.book.snakemake", "chapters", "--profile", PROFILE]
    with slurm() as ours:
        process = book.start(*command, env=ours.env)
        try:
            begun = Build(ours, book, process, hold)
            begun.until_started(len(NODES))
            yield begun
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def lost(book: SmallBook, reference: SmallBook) -> int:
    """How many verdicts of the undisturbed book this one lacks, or has with another value."""
    both = [[faces(one.executed(chapter), "verdict") for chapter in CHAPTERS] for one in (book, reference)]
    return sum(verdict not in here for here, there in zip(*both, strict=True) for verdict in there)


def test_book(fault, reference, book):
    row = fault("None: a cluster does the work", "make book on two nodes")
    with slurm() as ours:
        book.build(f"PROFILE={PROFILE}", env=ours.env)
        jobs = ours.jobs()
    repeated = book.started().total() - len(CHAPTERS)
    row.measured(times=0, lost=book.lost(reference), repeated=repeated, jobs=jobs)
    assert book.ledger() == reference.ledger()
    assert book.started() == reference.started()
    assert {job["state"] for job in jobs} == {"COMPLETED"}
    assert {job["made"] for job in jobs} > CHAPTER_JOBS
    assert {job["node"] for job in jobs} == set(NODES)


@pytest.mark.faults
def test_sweep(book, tmp_path):
    (book.root / "sweeps").mkdir()
    (book.root / "sweeps" / "dice.yml").write_text(SWEEP)
    local = book.copy(tmp_path / "local")
    with slurm() as ours:
        there = book.run("make", "sweep", "FILE=sweeps/dice.yml", f"PROFILE={PROFILE}", env=ours.env)
        jobs = ours.jobs()
    here = local.run("make", "sweep", "FILE=sweeps/dice.yml")
    assert (here.returncode, there.returncode) == (0, 0), here.stderr + there.stderr
    tables = [(one.root / "data" / "sweeps" / "dice.csv").read_bytes() for one in (local, book)]
    assert tables[0] == tables[1]
    assert [job["state"] for job in jobs] == 8 * ["COMPLETED"]
    assert {job["node"] for job in jobs} == set(NODES)


def test_node_dies(fault, reference, book):
    row = fault(
        "A cluster's node dies",
        "SIGKILL to slurmd, slurmstepd and the job on one of two nodes in the middle of a chapter; "
        "the node stays away",
    )
    with build(book) as begun:
        begun.cluster.kill("n2")
        begun.finish()
        failed, completed = begun.ended("NODE_FAIL"), begun.ended("COMPLETED")
        said = begun.cluster.said("requeue job")
    missing = lost(book, reference)
    row.measured(times=1, lost=missing, repeated=book.started().total() - len(CHAPTERS), said=said)
    ((made, node),) = failed
    assert node == "n2"
    assert sorted(completed) == sorted((chapter, "n1") for chapter in CHAPTER_JOBS)
    assert book.started() - reference.started() == Counter([made.rpartition("_")[2]])
    assert missing == 0


@pytest.mark.faults
def test_node_restarts(fault, reference, book):
    row = fault(
        "A cluster's node restarts",
        "SIGKILL to slurmd, slurmstepd and the job on one of two nodes in the middle of a chapter; "
        "slurmd is started again at once",
    )
    with build(book) as begun:
        begun.cluster.kill("n2")
        begun.cluster.start("n2")
        # The other node is still busy with its chapter, so it is this one that works again.
        begun.until_started(len(NODES) + 1)
        begun.finish()
        failed, completed = begun.ended("NODE_FAIL"), begun.ended("COMPLETED")
        said = begun.cluster.said("Requeuing job")
    missing = lost(book, reference)
    row.measured(times=1, lost=missing, repeated=book.started().total() - len(CHAPTERS), said=said)
    ((made, node),) = failed
    assert node == "n2"
    assert {chapter for chapter, _ in completed} == CHAPTER_JOBS
    assert "n2" in {node for _, node in completed}
    assert book.started() - reference.started() == Counter([made.rpartition("_")[2]])
    assert missing == 0


@pytest.mark.faults
def test_controller_restarts(fault, reference, book):
    row = fault(
        "A cluster's controller restarts",
        "SIGKILL to slurmctld in the middle of two chapters; it is started again at once",
    )
    with build(book) as begun:
        # Snakemake has just asked for its jobs and does not ask again before the controller is back.
        asked = begun.cluster.folder / "asked"
        begun.cluster.shadow("squeue", f'echo >>{asked}; exec $CLIENT "$@"')
        begun.cluster.until(asked.exists, "question", LIMIT)
        begun.cluster.kill("slurmctld")
        begun.cluster.start("slurmctld")
        begun.finish()
        completed = begun.ended("COMPLETED")
    missing = lost(book, reference)
    row.measured(times=1, lost=missing, repeated=book.started().total() - len(CHAPTERS))
    assert {chapter for chapter, _ in completed} == CHAPTER_JOBS
    assert book.started() == reference.started()
    assert missing == 0
