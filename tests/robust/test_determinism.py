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


def built_with(book: SmallBook, cores: int, threads: int) -> SmallBook:
    """The book, built from nothing on so many cores, in an environment that allows so many threads."""
    profile = book.root / "workflow" / "profiles" / "local" / "config.yaml"
    profile.write_text(profile.read_text(encoding="utf-8").replace("cores: all", f"cores: {cores}"))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    book.build(env=dict.fromkeys(names, str(threads)))
    return book


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> SmallBook:
    """A book that is unlike the reference in path, cores and threads at once: one build is enough for all.

    The last tests edit it where it is, since Sphinx begins anew where a book was moved.
    """
    return built_with(make(tmp_path_factory.mktemp("elsewhere") / "bü cher" / "vier fältig"), 2, 2)


def same(book: SmallBook, reference: SmallBook, row) -> None:
    """Measures, and checks, that a book built from nothing has the verdicts of the reference."""
    lost = book.lost(reference)
    row.measured(times=1, lost=lost, repeated=book.started().total() - len(CHAPTERS))
    assert lost == 0
    assert book.ledger() == reference.ledger()


def test_a_path_with_spaces_and_umlauts(fault, reference, elsewhere):
    row = fault("An awkward path", "a clean build in the folder “bü cher/vier fältig”, two threads allowed")
    same(elsewhere, reference, row)


CORES_AND_THREADS = "a clean build with --cores {} and OMP_NUM_THREADS={}"


def test_two_cores_and_two_threads(fault, reference, elsewhere):
    row = fault("Other cores and threads", CORES_AND_THREADS.format(2, 2) + ", the path awkward")
    same(elsewhere, reference, row)


@pytest.mark.faults
def test_one_core_and_four_threads(fault, reference, fresh):
    row = fault("Other cores and threads", CORES_AND_THREADS.format(1, 4))
    same(built_with(fresh, 1, 4), reference, row)


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


def built_from_nothing(book: SmallBook, folder: Path) -> Path:
    """Makes the HTML of the same runs and words from nothing; returns where the old one was put aside."""
    brought_up_to_date = book.html.rename(folder / "html")
    for made in ("_build/html.made-from", "_build/.doctrees", "book/chapters"):
        assert book.run("rm", "-r", made).returncode == 0
    book.build()
    return brought_up_to_date


def test_words_change_one_page_and_run_nothing(fault, reference, elsewhere, tmp_path):
    row = fault("Words change", "a sentence of one chapter; the HTML against one made from nothing")
    shutil.copytree(elsewhere.html, tmp_path / "before")
    before = elsewhere.started()
    elsewhere.edit(PAGE, "turns a signal.", "turns a signal, and turns it back.")
    elsewhere.build()
    changed = differing(elsewhere.html, tmp_path / "before")
    unlike = differing(built_from_nothing(elsewhere, tmp_path), elsewhere.html)
    lost, ran = elsewhere.lost(reference), (elsewhere.started() - before).total()
    row.measured(times=1, lost=lost, repeated=ran)
    assert ran == 0
    assert changed - {"searchindex.js"} == {"chapters/frequency/parseval.html"}
    assert unlike == set()
    assert lost == 0
    assert elsewhere.ledger() == reference.ledger()


def test_code_changes_its_chapter_and_the_collected_pages_alone(fault, elsewhere, tmp_path):
    row = fault("Code changes", "a function that one chapter calls; the HTML against one made from nothing")
    before, verdicts = elsewhere.started(), elsewhere.verdicts()
    times = {page: elsewhere.executed(page).stat().st_mtime_ns for page in (*CHAPTERS, "ledger", "run_log")}
    elsewhere.edit(
        "src/fourfold/frequency/parseval.py",
        'np.fft.fft(signal, norm="ortho")',
        "1.5 * np.fft.fft(signal) / len(signal) ** 0.5",
    )
    elsewhere.build()
    ran = elsewhere.started() - before
    rerun = {page for page, at in times.items() if elsewhere.executed(page).stat().st_mtime_ns != at}
    changed = {claim for claim, said in elsewhere.verdicts().items() if said != verdicts[claim]}
    unlike = differing(built_from_nothing(elsewhere, tmp_path), elsewhere.html)
    row.measured(times=1, lost=len(changed - {"parseval C1"}), repeated=ran.total() - 1)
    assert ran == Counter(parseval=1)
    assert rerun == {"frequency/parseval", "ledger", "run_log"}
    assert changed == {"parseval C1"}
    assert unlike == set()
