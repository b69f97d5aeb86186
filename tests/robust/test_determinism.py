"""What may not change a number: another folder, number of cores, number of threads, or the way to a state."""

import filecmp
import shutil
from collections import Counter
from pathlib import Path

import pytest

from .small_book import CHAPTERS, SmallBook, make

PAGE = "notebooks/frequency/parseval.md"


def files(folder: Path) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def differing(one: Path, other: Path) -> set[str]:
    """The files that only one folder has, or that have other bytes there."""
    here, there = files(one), files(other)
    both = here.keys() & there.keys()
    return (here.keys() ^ there.keys()) | {
        n for n in both if not filecmp.cmp(here[n], there[n], shallow=False)
    }


def test_a_path_with_spaces_and_umlauts(fault, reference, tmp_path):
    row = fault("An awkward path", "a clean build in the folder “bü cher/vier fältig”")
    book = make(tmp_path / "bü cher" / "vier fältig")
    book.build()
    lost = book.lost(reference)
    row.measured(times=1, lost=lost, repeated=book.started().total() - len(CHAPTERS))
    assert lost == 0
    assert book.ledger() == reference.ledger()


@pytest.mark.parametrize(("cores", "threads"), [pytest.param(1, 4, marks=pytest.mark.faults), (2, 2)])
def test_cores_and_threads(fault, reference, fresh, cores, threads):
    row = fault(
        "Other cores and threads",
        f"a clean build with --cores {cores} and OMP_NUM_THREADS={threads}",
    )
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    profile = fresh.root / "workflow" / "profiles" / "local" / "config.yaml"
    profile.write_text(profile.read_text(encoding="utf-8").replace("cores: all", f"cores: {cores}"))
    fresh.build(env=dict.fromkeys(names, str(threads)))
    lost = fresh.lost(reference)
    row.measured(times=1, lost=lost, repeated=fresh.started().total() - len(CHAPTERS))
    assert lost == 0
    assert fresh.ledger() == reference.ledger()


def test_threads_would_show(fresh):
    """The control: outside a chapter, more threads do change a number of the small book."""
    sums = [
        fresh.run(
            "python",
            "-c",
            f"import torch; torch.set_num_threads({n}); from fourfold.optics import rounding as r;"
            "print(r.error(r.numbers(1_000_000, 100).float()))",
        ).stdout
        for n in (1, 2)
    ]
    assert sums[0] != sums[1]


@pytest.fixture(scope="module")
def edited(tmp_path_factory) -> SmallBook:
    """A book that is built and edited in one place: Sphinx begins anew where a book was moved."""
    book = make(tmp_path_factory.mktemp("edited") / "book")
    book.build()
    return book


def built_from_nothing(book: SmallBook, folder: Path) -> Path:
    """Makes the HTML of the same runs and words from nothing; returns where the old one was put aside."""
    brought_up_to_date = book.html.rename(folder / "html")
    for made in ("_build/html.made-from", "_build/.doctrees", "book/chapters"):
        assert book.run("rm", "-r", made).returncode == 0
    book.build()
    return brought_up_to_date


def test_words_change_one_page_and_run_nothing(fault, reference, edited, tmp_path):
    row = fault("Words change", "a sentence of one chapter; the HTML against one made from nothing")
    shutil.copytree(edited.html, tmp_path / "before")
    before = edited.started()
    edited.edit(PAGE, "turns a signal.", "turns a signal, and turns it back.")
    edited.build()
    changed = differing(edited.html, tmp_path / "before")
    unlike = differing(built_from_nothing(edited, tmp_path), edited.html)
    lost, ran = edited.lost(reference), (edited.started() - before).total()
    row.measured(times=1, lost=lost, repeated=ran)
    assert ran == 0
    assert changed - {"searchindex.js"} == {"chapters/frequency/parseval.html"}
    assert unlike == set()
    assert lost == 0
    assert edited.ledger() == reference.ledger()


def test_code_changes_its_chapter_and_the_collected_pages_alone(fault, edited, tmp_path):
    row = fault("Code changes", "a function that one chapter calls; the HTML against one made from nothing")
    before, verdicts = edited.started(), edited.verdicts()
    times = {page: edited.executed(page).stat().st_mtime_ns for page in (*CHAPTERS, "ledger", "run_log")}
    edited.edit(
        "src/fourfold/frequency/parseval.py",
        'np.fft.fft(signal, norm="ortho")',
        "1.5 * np.fft.fft(signal) / len(signal) ** 0.5",
    )
    edited.build()
    ran = edited.started() - before
    rerun = {page for page, at in times.items() if edited.executed(page).stat().st_mtime_ns != at}
    changed = {claim for claim, said in edited.verdicts().items() if said != verdicts[claim]}
    unlike = differing(built_from_nothing(edited, tmp_path), edited.html)
    row.measured(times=1, lost=len(changed - {"parseval C1"}), repeated=ran.total() - 1)
    assert ran == Counter(parseval=1)
    assert rerun == {"frequency/parseval", "ledger", "run_log"}
    assert changed == {"parseval C1"}
    assert unlike == set()
