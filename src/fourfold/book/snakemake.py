"""Bring the book up to date, whatever happened before.

``python -m fourfold.book.snakemake TARGET... [OPTIONS]``.
What Snakemake does, with two things that it cannot know. One build at a time works in a folder, and others
wait; the lock dies with its process, so a killed build leaves none behind. And a run that failed, was damaged
or is of other code than its page has now is thrown away to be made again.
"""

import os
import shutil
import sys

from fourfold.judging.records import ROOT
from fourfold.recorded import executed

BUILD = ROOT / "_build"


def lock() -> int:
    """Wait for other builds of this folder; a descriptor that holds the lock until its process ends.

    Raises:
        OSError: if the folder cannot be written, or on Windows.
    """
    if sys.platform == "win32":
        raise OSError("fourfold runs on Linux and macOS, and on Windows within WSL")
    import fcntl  # which Windows has not

    BUILD.mkdir(exist_ok=True)
    held = os.open(BUILD / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("Another build is at work in this folder; this one waits for it.", file=sys.stderr, flush=True)
        fcntl.flock(held, fcntl.LOCK_EX)
    return held


def discard() -> None:
    """Throw away the runs that must be made again, and what killed runs left behind."""
    for left in BUILD.rglob(executed.unfinished(executed.RUNS / "*.ipynb", "*").parent.name):
        # In one step, since the process may live on and write.
        shutil.rmtree(left.rename(left.with_suffix(".gone.running")))
    missing = False
    for page in executed.pages():
        run = executed.of_page(page)
        if why := executed.useless(page):
            missing = True
            if run.exists():
                print(f"{run.relative_to(ROOT)} {why}; it is made again.", file=sys.stderr, flush=True)
                run.unlink()
    # Snakemake makes nothing that is missing as long as what was made from it looks new; 0 is no time to it.
    if missing and (site := BUILD / "html" / "index.html").exists():
        os.utime(site, (1, 1))


def main() -> None:
    """Become Snakemake, holding the lock."""
    try:
        os.set_inheritable(lock(), True)
        discard()
    except OSError as error:
        sys.exit(f"the book cannot be built here: {error}")
    command = [sys.executable, "-m", "snakemake", "--nolock", "--rerun-incomplete", *sys.argv[1:]]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
