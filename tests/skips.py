"""In CI nothing is left out in silence: a skipped test fails there, unless its reason is on this list."""

import os
import re

import pytest

MAY_BE_SKIPPED = {
    r"no (mount|net) namespace here: ": "containers and Ubuntu's AppArmor give users none; root has them",
    "Debian.s metamath is not installed": "it is a package of Debian alone; our kernel is tested without it",
    "the kernels of other processors are known for x86 alone": "an ARM machine can do no x86 code",
}
"""Start of a test's reason to skip, as a pattern -> why CI accepts it."""


def _refuse(report):
    if os.environ.get("CI") == "true" and report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not any(re.match(start, reason) for start in MAY_BE_SKIPPED):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI, for a reason that tests/skips.py does not list: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return _refuse((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return _refuse((yield))
