"""The book's own chores, called by make and Snakemake: ``python -m fourfold.book COMMAND``.

Nothing here touches a number: it lists papers for BibTeX, keeps notebook pairs in step, scaffolds a
chapter, keeps recorded runs, and builds the HTML.
"""

import argparse
import base64
import io
import string
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import jupytext
import nbformat
from PIL import Image, ImageChops, ImageStat

from fourfold.book import execute, html
from fourfold.judging import parameters, records
from fourfold.judging.records import ROOT, Record
from fourfold.recorded import evidence, executed, replication

TEMPLATES = ROOT / "workflow" / "template"
# What a reader's eye compares: pictures are drawn anew and never compared.
IGNORED = "nbval-ignore-output"


def bibtex(record: Record) -> str:
    """The paper as a BibTeX entry whose key is its slug."""
    fields = {
        "title": f"{{{record.title}}}",
        "author": " and ".join(record.authors),
        "year": str(record.year),
        "note": record.venue,
        "eprint": record.arxiv,
        "archiveprefix": "arXiv" if record.arxiv else None,
        "doi": record.doi,
    }
    body = ",\n".join(f"  {key} = {{{value}}}" for key, value in fields.items() if value)
    return f"@misc{{{record.slug},\n{body}\n}}\n"


def pair(markdown: Path, ran: Path | None = None) -> nbformat.NotebookNode:
    """The ``.ipynb`` half of a chapter: the Markdown's cells with the text outputs of its last run.

    Cell ids are kept from the pair on disk where a cell's place and kind are unchanged. Outputs keep
    what ``--nbval`` compares (text and HTML of verdicts) and lose metadata and times; what was printed in
    pieces is joined; figures keep their PNG, the one on disk where the new one looks the same.

    Raises:
        ValueError: if the executed copy does not have the Markdown's code cells.
    """
    notebook = executed.weave(markdown, ran)
    on_disk = markdown.with_suffix(".ipynb")
    old = nbformat.read(on_disk, as_version=4).cells if on_disk.is_file() else []
    for cell, before in zip(notebook.cells, old, strict=False):
        if cell.cell_type == before.cell_type:
            cell.id = before.id
    code = executed.code_cells(notebook)
    known = {png for cell in old if cell.cell_type == "code" for png in map(_png, cell.outputs) if png}
    for cell in code:
        drawn = IGNORED in cell.metadata.get("tags", ())
        cell.outputs = (
            [_picture(o, known) for o in cell.outputs if _png(o)]
            if drawn
            else _joined([_text_only(output) for output in cell.outputs])
        )
    for count, cell in enumerate(code, start=1):
        cell.execution_count = count
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
    return notebook


def _text_only(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    output = nbformat.from_dict({key: value for key, value in output.items() if key != "metadata"})
    if "data" in output:
        output.data = {mime: text for mime, text in output.data.items() if mime.startswith("text/")}
        output.metadata = {}
    return output


def _joined(outputs: Sequence[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Outputs with neighbouring pieces of one stream made one: a kernel cuts it anew in each run."""
    whole: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and whole and whole[-1].get("name") == output.name:
            whole[-1].text += output.text
        else:
            whole.append(output)
    return whole


def _png(output: nbformat.NotebookNode) -> str:
    return "".join(output.get("data", {}).get("image/png", ""))


def _picture(output: nbformat.NotebookNode, known: Collection[str]) -> nbformat.NotebookNode:
    """A figure's output with its PNG, or the one of those ``known`` that looks the same."""
    made = _png(output)
    alike = next((png for png in known if _alike(png, made)), made)
    data = {"image/png": alike, "text/plain": output.data["text/plain"]}
    return nbformat.v4.new_output(output.output_type, data)


def _alike(one: str, other: str) -> bool:
    """Whether two PNGs differ by no more than another processor's rounding moves a line."""
    pictures = [Image.open(io.BytesIO(base64.b64decode(png))).convert("L") for png in (one, other)]
    if pictures[0].size != pictures[1].size:
        return False
    return ImageStat.Stat(ImageChops.difference(*pictures)).mean[0] < 0.25


def formatted(page: Path) -> str:
    """A page with its code as ruff fixes and formats it; the parameters cell follows the record instead.

    Raises:
        ValueError: with what ruff found and could not mend.
    """
    cells = executed.code_cells(jupytext.read(page, fmt="md:myst"))
    code = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.source) for cell in cells])
    written = nbformat.writes(code)
    for command in (["check", "--fix", "--quiet"], ["format"]):
        settings = ["--config", str(ROOT / "pyproject.toml"), "--stdin-filename", f"{page.stem}.ipynb"]
        done = subprocess.run(
            ["ruff", *command, *settings, "-"], input=written, capture_output=True, text=True
        )
        if done.returncode:
            raise ValueError(f"{page.name}: {done.stderr or done.stdout}")
        written = done.stdout
    text = page.read_text(encoding="utf-8")
    for old, new in zip(cells, nbformat.reads(written, as_version=4).cells, strict=True):
        if "parameters" not in old.metadata.get("tags", ()):
            text = text.replace(f"\n{old.source}\n```", f"\n{new.source}\n```", 1)
    return text


def format_pages() -> None:
    """Write every page with its code formatted."""
    for page in executed.pages():
        page.write_text(formatted(page), encoding="utf-8")


def sync() -> None:
    """Rewrite every chapter's ``.ipynb`` from its Markdown and its executed copy."""
    for record in records.chapters():
        markdown = record.notebook
        nbformat.write(pair(markdown, executed.of(record)), markdown.with_suffix(".ipynb"))


def new(slug: str) -> list[Path]:
    """Scaffold the notebook, the module and the test of a chapter from its record.

    Raises:
        ValueError: if the record has no criteria or parameters yet, or a file is already there.
    """
    record = records.load(slug)
    if not record.has_chapter:
        raise ValueError(
            f"data/papers/{slug}.yml has no criteria, controls and parameters yet; write them first"
        )
    places = {
        "notebook.md": executed.NOTEBOOKS / record.part / f"{slug}.md",
        "module.py": ROOT / "src" / "fourfold" / record.part / f"{slug}.py",
        "test.py": ROOT / "tests" / record.part / f"test_{slug}.py",
    }
    if there := [str(path.relative_to(ROOT)) for path in places.values() if path.exists()]:
        raise ValueError(f"already there: {', '.join(there)}")
    judgements = [
        f"## {claim.id}: {claim.statement}\n\n```{{code-cell}} ipython3\nchapter.judge(\n    {claim.id!r},\n"
        f"    criteria={{{', '.join(f'{name!r}: None' for name in claim.criteria)}}},\n"
        f"    controls={{{', '.join(f'{name!r}: None' for name in claim.controls)}}},\n)\n```\n"
        for claim in record.claims
        if claim.criteria
    ]
    words = {
        "slug": slug,
        "part": record.part,
        "name": record.name,
        "title": record.title,
        "idea": record.idea,
        "arxiv": record.arxiv or "",
        "authors": ", ".join(record.authors),
        "parameters": parameters.cell(record),
        "judgements": "\n".join(judgements),
    }
    for template, path in places.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        text = string.Template((TEMPLATES / template).read_text(encoding="utf-8")).substitute(words)
        path.write_text(text, encoding="utf-8")
    return list(places.values())


def replicate(slug: str, seeds: int, seed: int | None) -> Path:
    """Run a chapter's recorded experiment at fresh seeds and keep what came out for others.

    Raises:
        ValueError: if the seeds cannot be, the chapter does not run, or the result would be refused.
    """
    values = replication.values(slug, seeds, seed)
    output = ROOT / "_build" / "replications" / f"{slug}.ipynb"
    execute.run(records.load(slug).notebook, output, values)
    return replication.keep(slug, output)


def check() -> None:
    """Say which pages did not run to their end, and which checks of our own rebuilding fail.

    Raises:
        ValueError: if there is one.
    """
    if failed := html.failures():
        lines = "\n".join(f"  {page}: {why}" for page, why in failed.items())
        raise ValueError(f"did not run to their end, the rest of the book is built:\n{lines}")
    failing = [
        f"{face['paper']} {face['claim']}: {face['reason']}"
        for run in map(executed.of, records.chapters())
        if run.is_file()
        for face in executed.faces(run, "verdict")
        if face["verdict"] == "fails"
    ]
    if failing:
        raise ValueError("\n  ".join(["checks of the rebuilding that fail:", *failing]))


def main() -> None:
    """The command line; errors are one line on stderr and a non-zero exit."""
    parser = argparse.ArgumentParser(
        prog="python -m fourfold.book.commands", description="The chores of the book."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("bibliography", "check", "format", "html", "sync"):
        commands.add_parser(name)
    for name in ("chapter", "new", "parameters", "keep"):
        command = commands.add_parser(name)
        command.add_argument("slug")
        if name in ("parameters", "keep"):
            command.add_argument("tier", choices=evidence.TIERS)
        if name == "keep":
            command.add_argument("notebook", type=Path)
    command = commands.add_parser("replicate")
    command.add_argument("slug")
    command.add_argument("--seeds", type=int, default=5)
    command.add_argument("--seed", type=int)
    given = parser.parse_args()
    try:
        match given.command:
            case "bibliography":
                print("\n".join(bibtex(record) for record in records.load_all() if not record.companion))
            case "check":
                check()
            case "html":
                html.build()
            case "format":
                format_pages()
            case "sync":
                sync()
            case "chapter":
                print(executed.of(records.load(given.slug)).relative_to(ROOT))
            case "new":
                for path in new(given.slug):
                    print(path.relative_to(ROOT))
                print(f"now add 'file: chapters/{records.load(given.slug).part}/{given.slug}' to _toc.yml")
            case "parameters":
                print(evidence.parameters_file(given.slug, given.tier), end="")
            case "replicate":
                print(replicate(given.slug, given.seeds, given.seed).relative_to(ROOT))
            case "keep":
                print(evidence.keep(given.slug, given.tier, given.notebook).relative_to(ROOT))
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"{given.command}: {error}")
