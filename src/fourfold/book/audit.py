"""Known vulnerabilities of the pins: what pip-audit finds in the advisories, and what it could not look up.

``python -m fourfold.book.audit PIP_AUDIT`` (``make audit``) exits with 0 if every pin was looked up and none
has a known vulnerability, 1 if one has, 3 if some or all could not be looked up: silence is not safety.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from fourfold.judging.records import ROOT

LOCK = ROOT / "requirements.lock"


def judged(report: Mapping[str, Any]) -> tuple[int, list[str]]:
    """Exit code and lines for a report of pip-audit in its JSON format."""
    pins = report["dependencies"]
    # pip-audit calls a package that it could not look up skipped, and the rest of the lock free of faults.
    missing = [pin["name"] for pin in pins if "skip_reason" in pin]
    lines = [
        f"{pin['name']} {pin['version']}: {fault['id']}, "
        + (f"mended in {', '.join(fault['fix_versions'])}" if fault["fix_versions"] else "not mended yet")
        for pin in pins
        for fault in pin.get("vulns", ())
    ]
    code = 1 if lines else 3 if missing or not pins else 0
    looked_up = len(pins) - len(missing)
    if not looked_up:
        lines.append("could not reach PyPI's advisories, nothing audited")
    else:
        lines.append(f"{looked_up} of {len(pins)} pins audited, {len(lines)} known vulnerabilities")
        if missing:
            lines.append(f"could not look up {', '.join(missing)}")
    return code, lines


def main(pip_audit: str) -> int:
    """Audit the lock with this pip-audit and print what came of it."""
    command = [pip_audit, "--requirement", str(LOCK), "--disable-pip", "--format", "json"]
    ran = subprocess.run([*command, "--progress-spinner", "off"], capture_output=True, text=True)
    try:
        report = json.loads(ran.stdout)
    except ValueError:
        why = (ran.stderr.strip().splitlines() or ["it said nothing"])[-1]
        print(f"audit: could not reach PyPI's advisories, nothing audited: {why}", file=sys.stderr)
        return 3
    code, lines = judged(report)
    for line in lines:
        print(f"audit: {line}", file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
