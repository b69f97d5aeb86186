"""Faults that hit a build from outside or from within a chapter: it says what happened and loses nothing."""

import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import nbformat
import pytest

from .small_book import CHAPTERS, SmallBook, make

DICE = "src/fourfold/theory/dice.py"
FIRST_LINE = "    return np.random.default_rng(seed).integers("


def errors(ran) -> str:
    """What a build said of a fault, in its last lines, without what make adds."""
    return "\n".join(line for line in ran.stderr.splitlines() if not line.startswith("make: "))


def row_of(book: SmallBook, claim: str) -> dict:
    return json.loads(book.verdicts()[claim])[0]


@pytest.mark.parametrize(
    ("name", "how", "line", "shown"),
    [
        pytest.param(
            "A chapter raises",
            "an exception in the module of one of three chapters, then its cure",
            "raise ZeroDivisionError('the die has no faces')",
            "ZeroDivisionError: the die has no faces",
            marks=pytest.mark.faults,
        ),
        pytest.param(
            "A kernel ends by itself",
            "os._exit(3) in one of three chapters, then its cure",
            "import os; os._exit(3)",
            "DeadKernelError",
            marks=pytest.mark.faults,
        ),
        (
            "A kernel is killed",
            "SIGKILL to the kernel of one of three chapters, as where memory runs out; then once more",
            "import os; 'SHORT_OF_MEMORY' in os.environ and os.kill(os.getpid(), 9)",
            "DeadKernelError",
        ),
    ],
    ids=["raises", "exits", "killed"],
)
def test_a_chapter_that_fails(fault, reference, built, name, how, line, shown):
    row = fault(name, how)
    built.edit(DICE, FIRST_LINE, f"    {line}\n{FIRST_LINE}")
    before = built.started()
    failed = built.build(check=False, env={"SHORT_OF_MEMORY": "yes"})
    ran = built.started() - before
    verdicts = {claim: row_of(built, claim)["verdict"] for claim in built.verdicts()}
    page = (built.html / "chapters" / "theory" / "dice.html").read_text(encoding="utf-8")

    # Even where memory would have been cure enough: a recorded run is stale as long as its code is another.
    built.edit(DICE, f"    {line}\n", "")
    before = built.started()
    built.build()
    cured = built.started() - before
    (said,) = [text.strip() for text in failed.stderr.splitlines() if "notebooks/theory/dice.md: " in text]
    lost = built.lost(reference)
    row.measured(times=1, lost=lost, repeated=cured.total() - 1, said=said)

    assert failed.returncode != 0
    assert shown in said
    assert shown in page
    assert ran == cured == Counter(dice=1)
    wrong = {claim for claim, word in verdicts.items() if word == "did not run"}
    assert wrong == {"dice C1", "dice C2"}
    whole = {claim: row_of(reference, claim)["verdict"] for claim in verdicts.keys() - wrong}
    assert {claim: verdicts[claim] for claim in whole} == whole
    assert lost == 0
    assert built.ledger() == reference.ledger()


@pytest.mark.faults
def test_disk_full(fault, reference, tmp_path, enter):
    row = fault(
        "The disk is full",
        "a disk with 8 kB, 200 kB, and 4 MB left: there is no space for a run, for the pages, for what they "
        "load; then space is given",
    )
    source = make(tmp_path / "source")
    book = SmallBook(tmp_path / "book", enter("mount"))
    book.root.mkdir()
    # The disk is seen from outside through the process that holds its namespace open.
    seen = SmallBook(Path(f"/proc/{book.inside[1].partition('=')[2]}/root{book.root}"))

    def mount(kilobytes: int, *options: str) -> int:
        size = ",".join([f"size={kilobytes}k", *options])
        return subprocess.run(
            [*book.inside, "mount", "-t", "tmpfs", "-o", size, "none", book.root]
        ).returncode

    if mount(400_000):
        pytest.skip("no tmpfs can be mounted here")
    subprocess.run([*book.inside, "cp", "-a", f"{source.root}/.", book.root], check=True)
    failed = []
    for free in (8, 200, 4000):
        disk = os.statvfs(seen.root)
        assert mount((disk.f_blocks - disk.f_bfree) * disk.f_bsize // 1024 + free, "remount") == 0
        failed.append(book.build(check=False, env={"PYTHONDONTWRITEBYTECODE": "1"}))
    assert mount(400_000, "remount") == 0
    book.build()
    lost = seen.lost(reference)
    said = [[line for line in errors(one).splitlines() if "No space left" in line] for one in failed]
    run = [line for line in said[0] if "could not be run" in line]
    repeated = book.started().total() - len(CHAPTERS)
    row.measured(times=len(failed), lost=lost, repeated=repeated, said=run[0] if run else "")
    assert all(one.returncode for one in failed)
    assert all(said), failed[said.index([])].stderr
    assert run, "the disk had space for the runs"
    assert lost == 0
    assert seen.ledger() == reference.ledger()


@pytest.mark.faults
def test_damaged_runs(fault, reference, built):
    row = fault(
        "A run is damaged",
        "each executed notebook cut off after 0, 1, 1000 bytes, in the middle, and one byte before its end; "
        "replaced by {} and by a list; its last cell not yet run; nothing noted of how its cells ended",
    )

    def unfinished(text: str) -> str:
        node = nbformat.reads(text, as_version=4)
        last = [cell for cell in node.cells if cell.cell_type == "code"][-1]
        last.outputs, last.execution_count = [], None
        last.metadata["papermill"] = {"status": "pending"}
        return nbformat.writes(node)

    def unmarked(text: str) -> str:
        node = nbformat.reads(text, as_version=4)
        for cell in node.cells:
            cell.metadata.pop("papermill", None)
        return nbformat.writes(node)

    damages = [
        lambda text: "",
        lambda text: text[:1],
        lambda text: text[:1000],
        lambda text: text[: len(text) // 2],
        lambda text: text.rstrip()[:-1],
        lambda text: "{}",
        lambda text: "[1, 2]",
        unfinished,
        unmarked,
    ]
    pages = [*CHAPTERS, "ledger"]
    times = lost = repeated = 0
    # Every chapter is hit in every round, each by another damage, so that three rounds show them all.
    for turn in range(0, len(damages), len(CHAPTERS)):
        before = built.started()
        for page, damage in zip(pages, [*damages[turn : turn + len(CHAPTERS)], damages[turn]], strict=True):
            path = built.executed(page)
            path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")
            times += 1
        said = built.build().stderr
        lost += built.lost(reference)
        repeated += (built.started() - before).total()
    (line,) = [text for text in said.splitlines() if "theory/dice.ipynb" in text and "again" in text]
    row.measured(times=times, lost=lost, repeated=repeated, said=line)
    assert lost == 0
    assert repeated == len(damages)
    assert built.ledger() == reference.ledger()


def test_two_builds_at_once(fault, reference, fresh):
    row = fault("Two builds at once", "make book twice in one folder at the same moment")
    builds = [fresh.start("make", "book") for _ in range(2)]
    said = [build.communicate()[1] for build in builds]
    lost = fresh.lost(reference)
    waiting = [line for text in said for line in text.splitlines() if line.startswith("Another build")]
    row.measured(times=2, lost=lost, repeated=fresh.started().total() - len(CHAPTERS), said=" ".join(waiting))
    assert [build.returncode for build in builds] == [0, 0], said
    assert len(waiting) == 1
    assert fresh.started() == Counter(dice=1, parseval=1, rounding=1)
    assert lost == 0
    assert fresh.ledger() == reference.ledger()


@pytest.mark.parametrize("which", ["fresh", "built"])
def test_read_only_checkout(fault, reference, tmp_path, enter, request, which):
    state = {"fresh": "never built", "built": "built, then edited"}[which]
    row = fault(
        "The folder is read-only", f"make book, and papermill, in a read-only mount of a book {state}"
    )
    book = request.getfixturevalue(which)
    locked = SmallBook(book.root, enter("mount"))
    book.edit(DICE, FIRST_LINE, f"    throws = int(throws)\n{FIRST_LINE}")
    for options in (["--bind"], ["-o", "remount,bind,ro"]):
        subprocess.run([*locked.inside, "mount", *options, book.root, book.root], check=True)
    failed = locked.build(check=False)
    alone = locked.run(
        "papermill", "--no-progress-bar", "notebooks/theory/dice.ipynb", tmp_path / "out.ipynb"
    )
    lines = errors(failed).splitlines()
    row.measured(
        times=1,
        lost=book.lost(reference) if which == "built" else None,
        said=lines[-1].replace(str(book.root), "."),
    )
    assert failed.returncode != 0
    assert len(lines) == 1, failed.stderr
    assert "Read-only file system" in lines[0]
    assert alone.returncode == 0, alone.stderr
    assert nbformat.read(tmp_path / "out.ipynb", as_version=4).metadata.papermill.exception is None
    assert which == "fresh" or book.ledger() == reference.ledger()


LOOPBACK_UP = """
import fcntl, socket, struct
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
fcntl.ioctl(socket.socket(), SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))
"""
REACH_OUT = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"


@pytest.mark.faults
def test_no_network(fault, reference, fresh, enter):
    row = fault("No network", "a clean build in a network namespace that has nothing but its own loopback")
    book = SmallBook(fresh.root, enter("net"))
    # papermill talks to its kernel through the loopback interface, which is down in a new namespace.
    assert book.run("python", "-c", LOOPBACK_UP).returncode == 0
    assert "Network is unreachable" in book.run("python", "-c", REACH_OUT).stderr
    book.build()
    lost = fresh.lost(reference)
    row.measured(times=1, lost=lost, repeated=fresh.started().total() - len(CHAPTERS))
    assert lost == 0
    assert fresh.ledger() == reference.ledger()
