"""Contestants in interpreters of their own: environments that a benchmark makes, and workers that take turns.

A library that is not in the book's lock gets an environment under ``_build/environments``: a venv with the
files that ``benchmarks/environments`` pins for it, and behind them the book's packages, so that what many
need, such as torch, is one build for all. There a worker runs, a process that is asked one thing at a time
and answers it: a question and an answer are a line of JSON each. While one works the others wait.
"""

import hashlib
import json
import os
import select
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).parents[3]
PINS = ROOT / "benchmarks" / "environments"
MADE = ROOT / "_build" / "environments"
BOOK = "book"
"""The environment that this process runs in."""
ALONE = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
"""One thread, in each library's words."""
WEIGHED = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Blocks go back to the system as they are freed, which costs time: a peak is that of what was in use."""


class Absent(Exception):
    """A contestant that cannot take part on this machine, and why."""


def environment(name: str) -> str:
    """The Python of an environment, which is made if it is not there or its pins have changed.

    ``name.lock`` holds the hashes of all files; ``name.txt``, for what is published as source only, commits.
    Raises ``ValueError`` for a name without pins, and `Absent` if they cannot be installed here.
    """
    if name == BOOK:
        return sys.executable
    pins = {path.stem: path for path in sorted(PINS.glob("*.*")) if path.suffix in (".lock", ".txt")}
    if name not in pins:
        raise ValueError(f"environment must be one of {', '.join([BOOK, *pins])}, got {name!r}")
    folder, file = MADE / name, pins[name]
    book = sysconfig.get_path("purelib")
    made_from = hashlib.sha256(f"{book}\n{sys.version}\n{file.read_text(encoding='utf-8')}".encode())
    python, ready = folder / "bin" / "python", folder / "made-from"
    if ready.is_file() and ready.read_text(encoding="utf-8") == made_from.hexdigest():
        return str(python)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, symlinks=True)
    (library,) = folder.glob("lib/python3.*/site-packages")
    (library / "book.pth").write_text(book, encoding="utf-8")
    hashed = ["--require-hashes", "--no-deps"] if file.suffix == ".lock" else []
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet", "--disable-pip-version-check"]
    install = [*pip, "install", *hashed, "--requirement", str(file)]
    said = subprocess.run(install, capture_output=True, text=True, check=False)
    if said.returncode:
        shutil.rmtree(folder)
        reasons = (line.strip() for line in said.stderr.splitlines())
        reason = next((line for line in reasons if line.startswith(("fatal:", "ERROR:"))), "")
        raise Absent(f"pip could not install it: {reason or _last_line(said.stderr)}")
    ready.write_text(made_from.hexdigest(), encoding="utf-8")
    return str(python)


class Worker:
    """A process that answers questions about one contestant, on one core and one thread.

    Args:
        python: the interpreter, as `environment` returns it.
        module: what it runs, a module of ours that calls `serve`.
        limit: seconds that an answer may take.
        settings: further variables of its environment, such as `WEIGHED`.
    """

    def __init__(
        self, python: str, module: str, limit: float = 600.0, settings: Mapping[str, str] | None = None
    ):
        self.limit = limit
        self._said = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115, closed by close()
        self._process = subprocess.Popen(
            [python, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=os.environ | ALONE | dict(settings or {}) | {"PYTHONPATH": str(ROOT / "src")},
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, question: str, **details: Any) -> dict[str, Any]:
        """Its answer to a question that its module knows.

        Raises:
            Absent: with the contestant's own words if it failed, died, or took longer than the limit.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"question": question} | details) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Absent(self._died()) from None
        if not select.select([self._process.stdout], [], [], self.limit)[0]:
            self.close()
            raise Absent(f"it took longer than {self.limit:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise Absent(self._died())
        answer = json.loads(line)
        if "failed" in answer:
            raise Absent(answer["failed"])
        return answer

    @property
    def alive(self) -> bool:
        """Whether it can still be asked."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            # It may never have read what was written last.
            with suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()
        self._said.close()

    def _died(self) -> str:
        code = self._process.wait()
        self._said.seek(0)
        return f"its process ended with {code}: {_last_line(self._said.read())}"


def serve(answers: Mapping[str, Callable[..., dict[str, Any]]]) -> None:
    """Answer what comes on standard input until it ends; what a contestant prints goes to standard error."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        for line in sys.stdin:
            _answer(json.loads(line), answers, out)


def _answer(asked: dict[str, Any], answers: Mapping[str, Callable[..., dict[str, Any]]], out: TextIO) -> None:
    question = asked.pop("question")
    try:
        if question not in answers:
            raise ValueError(f"question must be one of {', '.join(answers)}, got {question!r}")
        answer = answers[question](**asked)
    except Exception as error:
        # Whatever a library raises: it is its answer, and the others go on.
        answer = {"failed": _last_line(f"{type(error).__name__}: {error}")}
    out.write(json.dumps(answer) + "\n")
    out.flush()


def peak(call: Callable[[], Any]) -> int:
    """Bytes of memory that this process held at the peak of a call, on top of what it held before.

    Resident memory as Linux counts it, whatever library asked for it; ask a worker with `WEIGHED`.
    Raises `Absent` elsewhere.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    except OSError as error:
        raise Absent(f"peaks of memory are read from Linux' /proc: {error}") from None
    before = _resident("VmRSS")
    call()
    return max(0, _resident("VmHWM") - before)


def _resident(field: str) -> int:
    with open("/proc/self/status", encoding="utf-8") as lines:
        (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])


def _last_line(text: str) -> str:
    """What stands in the last line that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
