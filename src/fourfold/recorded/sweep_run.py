"""``python -m fourfold.recorded.sweep_run sweeps/<name>.yml``: run what is missing, write the table.

A point in the table is not run again until a source that its numbers went through changes; then all are.
"""

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from fourfold.judging import records
from fourfold.recorded import evidence, sweep_table
from fourfold.recorded import sources as dependencies
from fourfold.recorded.sweep import RUNS, Sweep, SweepError, read, run_of

SOURCES = "sources.json"
"""Beside the runs of a chapter: hashes of its sources when they were made."""


def prepare(sweep: Sweep, hashes: Mapping[str, str]) -> list[Path]:
    """Write what Snakemake runs the missing points from. Returns their notebooks.

    Runs that failed are thrown away, and all of the chapter's runs if a source has changed: a run that is
    there was made by today's code.
    """
    known, _ = sweep_table.recorded(sweep, hashes)
    stamp = RUNS / sweep.chapter / SOURCES
    text = json.dumps(dict(hashes), indent=1) + "\n"
    if not _says(stamp, text):
        for old in stamp.parent.glob("*.ipynb"):
            old.unlink()
        stamp.parent.mkdir(parents=True, exist_ok=True)
        sweep_table.write(stamp, text)
    missing = [point for point in sweep.points if point.name not in known]
    for point in missing:
        notebook = run_of(point)
        text = yaml.safe_dump(dict(point.values), sort_keys=False)
        # Snakemake goes by time: a file that says the same stays as it was.
        if not _says(notebook.with_suffix(".yml"), text):
            sweep_table.write(notebook.with_suffix(".yml"), text)
        if sweep_table.failure(notebook):
            notebook.unlink(missing_ok=True)
    return [run_of(point) for point in missing]


def run(sweep: Sweep, profile: str) -> Path:
    """Run the points that are missing and write the table.

    Raises:
        SweepError: as `keep` does, or if the code was changed meanwhile.
    """
    hashes = evidence.sources(sweep.chapter)
    notebooks = prepare(sweep, hashes)
    number = len(sweep.points)
    print(f"{sweep.title}: {number} runs, {number - len(notebooks)} of them recorded", flush=True)
    if notebooks:
        targets = [str(path.relative_to(records.ROOT)) for path in notebooks]
        # Ctrl-C reaches Snakemake, which stops its jobs; we wait for that.
        signal.signal(signal.SIGINT, lambda *_: None)
        # Its exit code tells less than the runs do: a failed one says why.
        subprocess.run(
            [
                sys.executable,
                "-m",
                "fourfold.book.snakemake",
                "--quiet",
                "rules",
                "--profile",
                profile,
                *targets,
            ],
            cwd=records.ROOT,
            check=False,
        )
    dependencies.forget()
    if changed := dependencies.changed(hashes, evidence.sources(sweep.chapter)):
        (RUNS / sweep.chapter / SOURCES).unlink()
        raise SweepError(f"{', '.join(changed)} changed while the sweep ran: run it again")
    return sweep_table.keep(sweep, hashes)


def _says(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def main() -> None:
    """The command line: exit code 2 for a file that cannot be run, 1 for points that failed."""
    parser = argparse.ArgumentParser(
        prog="python -m fourfold.recorded.sweep_run", description="Run and record a sweep."
    )
    parser.add_argument("file", type=Path, help="sweeps/<name>.yml")
    parser.add_argument(
        "--profile", default="workflow/profiles/local", help="where Snakemake runs the points"
    )
    given = parser.parse_args()
    try:
        sweep = read(given.file)
    except ValueError as error:
        print(f"sweep: {error}", file=sys.stderr)
        sys.exit(2)
    try:
        print(run(sweep, given.profile).relative_to(records.ROOT))
    except SweepError as error:
        sys.exit(f"{error}\nsweep: no table was written; the next call runs only what failed")


if __name__ == "__main__":
    main()
