"""What the book says of the machine that made a number."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from typing import NotRequired

from typing_extensions import TypedDict

from fourfold.judging import records

JUDGING = ("src", "benchmarks", "data/papers", ":(glob)notebooks/**/*.md")
"""What a run's numbers and verdicts come from."""
VERSIONS = ("torch", "numpy", "scipy", "scikit-learn")


class Machine(TypedDict):
    """Where and when numbers were made: the beginning of every recorded run."""

    processor: str
    kernels: NotRequired[str]
    """What PyTorch chose its code for, such as AVX2: trained networks differ by it. Older runs do not say."""
    cores: int | None
    python: str
    versions: dict[str, str]
    started: str
    commit: NotRequired[str | None]
    """What was checked out; None if code or criteria were not committed, or nothing says so."""


def machine() -> Machine:
    """Processor and its kernels, cores, Python and library versions, the time (UTC) and the commit."""
    # What only reads runs need not wait for it.
    from torch.backends.cpu import get_cpu_capability

    return {
        "processor": _processor(),
        "kernels": get_cpu_capability(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in VERSIONS},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
    }


def _commit() -> str | None:
    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(records.ROOT), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *JUDGING)
        return None if changed else git("rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
