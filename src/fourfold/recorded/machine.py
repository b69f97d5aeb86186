"""What the book says of the machine that made a number."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version

from typing_extensions import TypedDict

VERSIONS = ("torch", "numpy", "scipy", "scikit-learn")


class Machine(TypedDict):
    """Where and when numbers were made: the beginning of every recorded run."""

    processor: str
    cores: int | None
    python: str
    versions: dict[str, str]
    started: str


def machine() -> Machine:
    """Processor, cores, Python and library versions, and the time (UTC)."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in VERSIONS},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
