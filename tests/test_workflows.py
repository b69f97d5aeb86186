"""What GitHub does with the book: workflows name what is there, and do what they say as far as we can try."""

import os
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

from fourfold.judging.records import ROOT

from .processors import KERNELS

FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.yml"))
}
JOBS = {(name, job): what for name, workflow in WORKFLOWS.items() for job, what in workflow["jobs"].items()}


def steps(workflow, job):
    return WORKFLOWS[workflow]["jobs"][job]["steps"]


def step(workflow, job, name):
    (found,) = [one for one in steps(workflow, job) if one.get("name") == name]
    return found


def bash(script, folder, **environment):
    """Run a step as GitHub does, in ``folder``."""
    command = ["bash", "--noprofile", "--norc", "-e", "-c", script]
    environment = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(("workflow", "job"), JOBS)
def test_a_job_names_what_is_there(workflow, job):
    made = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    for one in steps(workflow, job):
        assert ("uses" in one) != ("run" in one), one
        assert set(re.findall(r"\bmake ([a-z]\w*)", one.get("run", ""))) <= set(made), one
        if "uses" in one:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@v?\d+(\.\d+)*", one["uses"]), one
    needed = JOBS[workflow, job].get("needs", [])
    assert set([needed] if isinstance(needed, str) else needed) <= WORKFLOWS[workflow]["jobs"].keys()


@pytest.mark.parametrize(("workflow", "job"), JOBS)
def test_a_job_may_write_what_it_has_to_and_nothing_else(workflow, job):
    writes = {
        ("book", "publish"): {"pages", "id-token"},
        ("book", "release"): {"contents"},
        ("weekly", "drift"): {"issues"},
    }
    assert WORKFLOWS[workflow]["permissions"] == {"contents": "read"}
    given = JOBS[workflow, job].get("permissions", {})
    assert {name for name, how in given.items() if how == "write"} == writes.get((workflow, job), set())


def test_every_kind_of_kernels_has_its_turn_each_week():
    (workflow,) = [w for w in WORKFLOWS.values() if "chapters" in w["jobs"]]
    assert set(workflow["jobs"]["chapters"]["strategy"]["matrix"]["kernels"]) == {"", *KERNELS}


def test_a_release_takes_its_notes_from_the_changelog(tmp_path):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    for name in ("CHANGELOG.md", "CITATION.cff"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    takes = step("book", "release", "Take the notes from the changelog")["run"]
    assert bash(takes, tmp_path, GITHUB_REF_NAME=f"v{version}").returncode == 0
    notes = (tmp_path / "notes.md").read_text(encoding="utf-8")
    assert notes in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "### " in notes
    assert "\n## " not in notes
    checks = step("book", "build", "Check that the tag is the version")["run"]
    assert bash(checks, tmp_path, GITHUB_REF_NAME=f"v{version}").returncode == 0
    for other in ("v0.0.7", f"v{version}0"):
        assert bash(takes, tmp_path, GITHUB_REF_NAME=other).returncode == 1
        assert bash(checks, tmp_path, GITHUB_REF_NAME=other).returncode == 1


GH = """#!/bin/sh
echo "$@" >> asked
case "$1 $2" in
"issue list") cat open ;;
"issue create") echo 7 > open ;;
"release view") test -e released ;;
"release create") touch released ;;
esac
"""


@pytest.fixture
def gh(tmp_path):
    """A folder with a gh that notes what it is asked, and whose issues and releases are files."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gh").write_text(GH)
    (tmp_path / "bin" / "gh").chmod(0o755)
    (tmp_path / "open").touch()

    def run(script, **environment):
        (tmp_path / "asked").write_text("")
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        done = bash(script, tmp_path, **environment | {"PATH": path})
        assert done.returncode == 0, done.stderr
        asked = [line.split() for line in (tmp_path / "asked").read_text().splitlines()]
        return [" ".join(words[:3]) for words in asked if words[1] not in ("list", "view")]

    return run


def test_cards_that_differ_have_one_issue(gh, tmp_path):
    script = step("weekly", "drift", "Open an issue, or comment on the one that is open")["run"]
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\ncat said\n")
    python.chmod(0o755)
    (tmp_path / "said").write_text("")
    assert gh(script, RUN="https://example.org/1") == []
    (tmp_path / "said").write_text("- snn C1\n")
    labels = "label create drift"
    assert gh(script, RUN="https://example.org/1") == [labels, "issue create --label"]
    assert (tmp_path / "drift.md").read_text() == "- snn C1\n\nhttps://example.org/1\n"
    assert gh(script, RUN="https://example.org/2") == [labels, "issue comment 7"]


def test_a_release_that_is_there_gets_its_files_anew(gh, tmp_path):
    script = step("book", "release", "Release, or replace what is attached")["run"]
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "book.pdf").touch()
    made, attached = "release create v1.0.0", "release upload v1.0.0"
    assert [asked for asked in gh(script, GITHUB_REF_NAME="v1.0.0") if "view" not in asked] == [
        made,
        attached,
    ]
    assert [asked for asked in gh(script, GITHUB_REF_NAME="v1.0.0") if "view" not in asked] == [attached]


def test_a_release_has_the_book_whole(tmp_path):
    site = tmp_path / "_build" / "html"
    site.mkdir(parents=True)
    (site / "index.html").write_text("book")
    (site / "fourfold.pdf").write_text("pdf")
    (tmp_path / "bin").mkdir()
    # Where there is no zip, Python's own does what is asked of it here; links are followed by both.
    (tmp_path / "bin" / "zip").write_text(f'#!/bin/sh\nexec {sys.executable} -m zipfile -c "$2" "$3"/\n')
    (tmp_path / "bin" / "zip").chmod(0o755)
    script = step("book", "build", "Pack the release")["run"]
    path = f"{os.environ['PATH']}:{tmp_path / 'bin'}"
    done = bash(script, tmp_path, GITHUB_REF_NAME="v1.0.0", PATH=path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "release" / "fourfold-1.0.0.pdf").read_text() == "pdf"
    listed = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", "release/fourfold-1.0.0-html.zip"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    ).stdout
    assert {"fourfold-1.0.0/index.html", "fourfold-1.0.0/fourfold.pdf"} <= set(listed.split())
