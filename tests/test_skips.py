"""In CI a skipped test fails, unless its reason is on the list."""

import os
import shutil
import subprocess
import sys

import pytest

from . import skips

TESTS = """
import pytest

@pytest.mark.skip(reason="nobody felt like it")
def test_marked():
    pass

def test_skips():
    pytest.skip("no Slurm on this machine: sbatch not installed")

def test_may_skip():
    pytest.skip("no mount namespace here: unshare failed")

@pytest.mark.xfail
def test_fails():
    assert False
"""


@pytest.mark.parametrize(
    ("ci", "said"),
    [("true", "1 failed, 1 skipped, 1 xfailed, 2 errors"), ("", "4 skipped, 1 xfailed")],
    ids=["in CI", "elsewhere"],
)
def test_a_skip_without_a_listed_reason_fails_in_ci_alone(tmp_path, ci, said):
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_none.py").write_text('import pytest\npytest.importorskip("no_such_module")\n')
    shutil.copy(skips.__file__, tmp_path / "conftest.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    ended = subprocess.run(command, cwd=tmp_path, env=os.environ | {"CI": ci}, capture_output=True, text=True)
    assert said in ended.stdout
