"""The fault matrix says what the tests measured, and hides neither a skipped nor a failed one."""

import subprocess
import sys

import pytest

from fourfold.recorded import faults

# What pytest writes, shortened.
JUNIT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites name="pytest tests"><testsuite name="pytest" errors="1" failures="1" skipped="1" tests="5">
<testcase classname="tests.robust.test_kills" name="test_kills" time="1"><properties>
 <property name="fault" value='{"fault": "Killed", "how": "SIGKILL"}' />
 <property name="fault"
  value='{"fault": "Killed", "how": "SIGKILL", "times": 20, "lost": 0, "repeated": 7, "said": ""}' />
</properties></testcase>
<testcase classname="tests.robust.test_faults" name="test_disk" time="1"><properties>
 <property name="fault" value='{"fault": "Full", "how": "tmpfs"}' />
</properties><skipped type="pytest.skip" message="no mount namespace here">skip.py:1</skipped></testcase>
<testcase classname="tests.robust.test_faults" name="test_two" time="1"><properties>
 <property name="fault" value='{"fault": "Two", "how": "", "times": 2, "lost": 1, "repeated": null}' />
</properties><failure message="AssertionError: assert 1 == 0&#10;  and more">test.py:1</failure></testcase>
<testcase classname="tests.robust.test_slurm" name="test_early" time="1">
 <error message="failed on setup with &quot;no make&quot;">conftest.py:1</error></testcase>
<testcase classname="tests.robust.test_faults" name="test_control" time="1" />
</testsuite></testsuites>
"""


@pytest.fixture
def junit(tmp_path):
    path = tmp_path / "faults.xml"
    path.write_text(JUNIT, encoding="utf-8")
    return path


def test_a_row_for_each_fault_with_its_outcome(junit):
    table = faults.table(faults.read(junit))
    assert table["fault"].tolist() == ["Killed", "Full", "Two", "test_early"]
    assert table["outcome"].tolist() == [
        "survived",
        "not tried: no mount namespace here",
        "failed: AssertionError: assert 1 == 0",
        'failed: failed on setup with "no make"',
    ]
    assert [row["group"] for row in faults.read(junit)] == ["kills", "faults", "faults", "slurm"]
    assert table["times"].tolist() == ["20", "–", "2", "–"]
    assert table["verdicts lost or changed"].tolist() == ["0", "–", "1", "–"]
    assert table["chapters run again"].tolist() == ["7", "–", "–", "–"]


def test_the_record_has_date_and_machine(junit, tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "KEPT", tmp_path / "faults.json")
    assert faults.load() is None
    faults.keep(junit)
    kept = faults.load()
    assert kept["faults"] == faults.read(junit)
    assert {"started", "processor", "cores", "versions"} <= kept.keys()


def test_summary_counts_what_was_lost_and_what_was_not_tried(junit):
    assert faults.summary(faults.read(junit)) == (
        "4 tests made 22 faults. Verdicts lost or changed: 1. Chapters run again: 7. "
        "Tests failed: 2, not tried: 1."
    )


@pytest.mark.parametrize(
    ("text", "words"), [("<testsuites/>", "has no faults"), ("not XML", "is not a JUnit file")]
)
def test_a_file_without_faults_is_refused_and_the_record_kept(tmp_path, monkeypatch, text, words):
    monkeypatch.setattr(faults, "KEPT", tmp_path / "faults.json")
    (tmp_path / "faults.json").write_text("{}")
    (tmp_path / "given.xml").write_text(text)
    with pytest.raises(ValueError, match=words):
        faults.keep(tmp_path / "given.xml")
    assert (tmp_path / "faults.json").read_text() == "{}"


def test_what_pytest_writes_is_what_is_read(tmp_path):
    (tmp_path / "test_one.py").write_text(
        "def test_fault(request):\n"
        "    note = request.node.user_properties.append\n"
        """    note(("fault", '{"fault": "A", "how": "B"}'))\n"""
        """    note(("fault", '{"fault": "A", "how": "B", "times": 3, "said": "ü"}'))\n"""
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--junitxml=faults.xml",
        "test_one.py",
    ]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    (row,) = faults.read(tmp_path / "faults.xml")
    assert row == {"fault": "A", "how": "B", "times": 3, "said": "ü", "group": "one", "outcome": "survived"}
