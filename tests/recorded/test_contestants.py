"""Contestants in interpreters of their own: environments made once, workers that answer or say why not."""

import os
import subprocess
import sys
import zipfile

import pytest

from fourfold.recorded import contestants
from fourfold.recorded.contestants import WEIGHED, Absent, Worker, environment

MODULE = "fourfold.compared.optics_peers"
"""A module that answers."""


@pytest.fixture
def pins(tmp_path, monkeypatch):
    monkeypatch.setattr(contestants, "PINS", tmp_path / "pins")
    monkeypatch.setattr(contestants, "MADE", tmp_path / "made")
    (tmp_path / "pins").mkdir()
    return tmp_path / "pins"


def wheel(folder, name):
    """A package that is one empty module."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    about = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return path


def test_an_environment_has_its_pins_before_the_book_s_packages_and_is_made_once(pins):
    made_of = f"--no-index\n{wheel(pins, 'toy')}\n"
    (pins / "toy.txt").write_text(made_of)
    python = environment("toy")
    refused = "question must be one of prepare, round, memory, got 'fly'"
    with Worker(python, MODULE) as worker, pytest.raises(Absent, match=refused):
        worker.ask("fly")  # whose numpy is the book's
    (library,) = (contestants.MADE / "toy").glob("lib/*/site-packages")
    assert (library / "toy.py").is_file()
    (library / "toy.py").unlink()
    assert environment("toy") == python
    assert not (library / "toy.py").exists(), "nothing had changed"
    (pins / "toy.txt").write_text(f"# other pins\n{made_of}")
    environment("toy")
    assert (library / "toy.py").is_file()


def test_what_cannot_be_installed_is_absent_with_pip_s_reason_and_leaves_nothing(pins):
    (pins / "gone.txt").write_text("--no-index\nnothing-like-this==1.0\n")
    with pytest.raises(Absent, match=r"pip could not install it: ERROR: .*nothing-like-this"):
        environment("gone")
    assert not (contestants.MADE / "gone").exists()


def test_a_lock_without_hashes_is_refused(pins):
    (pins / "toy.lock").write_text(f"--no-index\n{wheel(pins, 'toy')}\n")
    with pytest.raises(Absent, match="ERROR: Hashes are required"):
        environment("toy")


def test_an_environment_without_pins_is_named():
    with pytest.raises(ValueError, match=r"environment must be one of book, chromatix, .*got 'moon'"):
        environment("moon")


def test_a_worker_that_cannot_start_says_what_its_interpreter_said():
    with (
        Worker(environment("book"), "fourfold.nowhere") as worker,
        pytest.raises(Absent, match=r"ended with 1: .*No module named fourfold.nowhere"),
    ):
        worker.ask("prepare")
    assert not worker.alive


def test_a_worker_that_takes_too_long_is_ended():
    with Worker(environment("book"), MODULE, limit=0.001) as worker:
        with pytest.raises(Absent, match=r"longer than 0.001 s"):
            worker.ask("round", kind="forward")
        assert not worker.alive


def test_after_a_failure_a_worker_answers_on():
    with Worker(environment("book"), MODULE) as worker:
        for _ in range(2):
            with pytest.raises(Absent, match="ValueError: prepare a contestant first"):
                worker.ask("round", kind="forward")
        assert worker.alive


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="peaks of memory need Linux")
def test_a_peak_is_of_what_was_held_at_once():
    """In a process of its own, as contestants are: here, memory that earlier tests gave back may be taken."""
    script = """
from fourfold.recorded.contestants import peak
kept = []
print(peak(lambda: kept.append(b"x" * 50_000_000)))
print(peak(lambda: [len(b"x" * n) for n in [50_000_000] * 5]))
"""
    said = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | WEIGHED, capture_output=True, text=True, check=True
    )
    held, freed = map(int, said.stdout.split())
    assert 45e6 < held < 70e6
    assert 45e6 < freed < 70e6
