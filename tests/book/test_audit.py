"""The audit of the pins: a fault is told, and so is what was never looked up."""

import sys

import pytest

from fourfold.book import audit

FREE = {"name": "a", "version": "1", "vulns": []}
FAULTY = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
UNMENDED = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": []}]}
SKIPPED = {"name": "c", "skip_reason": "Dependency not found on PyPI and could not be audited: c (1)"}


@pytest.mark.parametrize(
    ("pins", "code", "lines"),
    [
        ([FREE], 0, ["1 of 1 pins audited, 0 known vulnerabilities"]),
        ([FREE, FAULTY], 1, ["b 2: PYSEC-1, mended in 3", "2 of 2 pins audited, 1 known vulnerabilities"]),
        ([UNMENDED], 1, ["b 2: PYSEC-1, not mended yet", "1 of 1 pins audited, 1 known vulnerabilities"]),
        ([FREE, SKIPPED], 3, ["1 of 2 pins audited, 0 known vulnerabilities", "could not look up c"]),
        ([SKIPPED], 3, ["could not reach PyPI's advisories, nothing audited"]),
        ([], 3, ["could not reach PyPI's advisories, nothing audited"]),
    ],
)
def test_what_was_not_looked_up_is_not_free_of_faults(pins, code, lines):
    assert audit.judged({"dependencies": pins}) == (code, lines)


def test_without_network_nothing_is_audited_and_it_says_so(tmp_path, capsys):
    tool = tmp_path / "pip-audit"
    tool.write_text(f"#!{sys.executable}\nraise ConnectionError('no route to host')\n")
    tool.chmod(0o755)
    assert audit.main(str(tool)) == 3
    assert capsys.readouterr().err == (
        "audit: could not reach PyPI's advisories, nothing audited: ConnectionError: no route to host\n"
    )
