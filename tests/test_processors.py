"""A chapter says the same on another processor, as far as this one can do as if it were another."""

import platform
import subprocess
import sys

import jupytext
import nbformat
import pytest

from fourfold.judging import records
from fourfold.recorded import executed

from . import processors
from .replay import compare

pytestmark = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"),
    reason="the kernels of other processors are known for x86 alone",
)
SAMPLE = records.load("gaunt_tensor_product")
"""The cheapest chapter, and one with transforms, a linear solver and training in both precisions."""
TWO_OPERANDS = 'features["gaunt"] = lambda x, y, z: coupled["gaunt"](x, y, constant)'
"""The mechanism without the product of three, in the chapter's names: its third operand says nothing."""
LOADED = """
import numpy, scipy.linalg, threadpoolctl, torch
from numpy._core._multiarray_umath import __cpu_features__ as features
print(torch.backends.cpu.get_cpu_capability())
print(sorted({pool["architecture"] for pool in threadpoolctl.threadpool_info() if "architecture" in pool}))
print([name for name in ("X86_V3", "X86_V4", "AVX512_ICL", "AVX512_SPR") if features[name]])
"""


@pytest.mark.parametrize(
    ("kind", "found"),
    [("avx2", ["AVX2", "['Haswell']", "['X86_V3']"]), ("old", ["DEFAULT", "['Nehalem']", "[]"])],
)
def test_the_libraries_take_the_kernels_that_they_are_told(kind, found):
    python = [sys.executable, "-W", "error::ImportWarning", "-c", LOADED]
    said = subprocess.run(
        [sys.executable, processors.__file__, kind, *python], capture_output=True, text=True, check=True
    )
    assert said.stdout.splitlines() == found


def run_under_old_kernels(page, run):
    command = [sys.executable, "-m", "fourfold.book.execute", page, run]
    subprocess.run([sys.executable, processors.__file__, "old", *command], check=True)


def test_a_chapter_prints_the_same_under_old_kernels(tmp_path, request):
    page, run = executed.NOTEBOOKS / SAMPLE.part / f"{SAMPLE.slug}.md", tmp_path / "old.ipynb"
    run_under_old_kernels(page, run)
    compare(page.with_suffix(".ipynb"), run, request.session)


def test_a_chapter_with_the_baseline_in_the_place_of_its_mechanism_disagrees_there_too(tmp_path):
    cells = jupytext.read(executed.NOTEBOOKS / SAMPLE.part / f"{SAMPLE.slug}.md", fmt="md:myst")
    (judging,) = [i for i, cell in enumerate(cells.cells) if '"C6b",\n    criteria' in cell.source]
    swapped = nbformat.v4.new_code_cell(TWO_OPERANDS)
    cells.cells[judging:] = [swapped, cells.cells[judging]]
    page, run = tmp_path / "swapped.ipynb", tmp_path / "run.ipynb"
    nbformat.write(cells, page)
    run_under_old_kernels(page, run)
    (face,) = [face for face in executed.faces(run, "verdict") if face["claim"] == "C6b"]
    checks = {finding["name"]: finding["spot_check"]["agrees"] for finding in face["findings"]}
    assert checks.pop("error") is False
    assert checks == {"learned": True, "two": True}, "what was not swapped still agrees"
