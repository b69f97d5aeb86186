"""Full runs: the record's full parameters out, the verdicts of a long run in.

``data/full/<slug>.json`` keeps what a chapter said at its full parameters, where and when it ran, and a
hash of every source that its numbers came from. A source that has changed since makes the row stale.
"""

import ast
import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml

from fourfold import ledger, records

FULL_RUNS = records.ROOT / "data" / "full"
SOURCE = records.ROOT / "src"
BOOKKEEPING = {
    f"fourfold.{room}" for room in ("benchmark", "chapter", "figures", "full", "ledger", "machine", "records")
}


def parameters_file(slug: str) -> str:
    """The chapter's full parameters as YAML, for ``papermill -f``."""
    record = records.load(slug)
    return yaml.safe_dump({name: spec.full for name, spec in record.parameters.items()}, sort_keys=False)


class _WithoutDocstrings(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        bare = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return ast.copy_location(ast.Pass(), node) if bare else node


def _meaning(source: str) -> str:
    """Source without comments and docstrings: what can change a number."""
    return ast.unparse(_WithoutDocstrings().visit(ast.parse(source)))


def _module_file(name: str) -> Path | None:
    stem = SOURCE.joinpath(*name.split("."))
    return next((p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file()), None)


def _imports(source: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.startswith("fourfold.") and _module_file(name)}


def _experiment(slug: str, part: str) -> str:
    """The notebook's code, without parameters, figures and IPython magics."""
    text = (records.ROOT / "notebooks" / part / f"{slug}.md").read_text(encoding="utf-8")
    cells = jupytext.reads(text, fmt="md:myst").cells
    skip = {"parameters", "nbval-ignore-output"}
    return "\n".join(
        c.source for c in cells if c.cell_type == "code" and not skip & set(c.metadata.get("tags", []))
    )


def sources(slug: str) -> dict[str, str]:
    """name -> hash of everything that the chapter's numbers depend on.

    The chapter's experiment, its claims' criteria, and the modules of `hashes`; figures change no number.
    """
    record = records.load(slug)
    criteria = json.dumps([c.model_dump(include={"id", "criteria", "controls"}) for c in record.claims])
    return hashes("notebook", _experiment(slug, record.part)) | {"record": _hash(criteria)}


def hashes(name: str, source: str) -> dict[str, str]:
    """name -> hash of ``source`` and of every fourfold module that it imports, directly or not.

    Without the rooms that draw and keep books: they change no number.
    """
    texts = {name: _meaning(source)}
    texts |= {module: _meaning(_text(module)) for module in imported(source)}
    return {name: _hash(text) for name, text in sorted(texts.items())}


def files(notebook: Path) -> list[str]:
    """The source files that a page runs, relative to the project: Snakemake does not see imports."""
    cells = jupytext.read(notebook, fmt="md:myst").cells
    source = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    modules = {"fourfold.chapter"} | imported(f"import fourfold.chapter\n{source}", without=set())
    return sorted(str(_module_file(module).relative_to(records.ROOT)) for module in modules)  # type: ignore[union-attr]


def imported(source: str, without: Collection[str] = BOOKKEEPING) -> set[str]:
    """The fourfold modules that Python source imports, directly or not, ``without`` some."""
    found: set[str] = set()
    waiting = _imports(source)
    while waiting:
        module = waiting.pop()
        if module not in found and module not in without:
            found.add(module)
            waiting |= _imports(_text(module))
    return found


def changed(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The names whose hashes differ, or that only one side has."""
    return sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))


def _text(module: str) -> str:
    return _module_file(module).read_text(encoding="utf-8")  # type: ignore[union-attr]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def keep(slug: str, notebook: Path) -> Path:
    """Write ``data/full/<slug>.json`` from a chapter executed at its full parameters.

    Raises:
        ValueError: if the notebook failed, or ran with other parameters than the record's full ones.
    """
    (run,) = ledger.faces(notebook, "run")
    if run["profile"] != "full":
        raise ValueError(
            f"{slug} ran with {run['profile']} parameters; a full run uses the record's full ones"
        )
    seconds = nbformat.read(notebook, as_version=4).metadata["papermill"]["duration"]
    entry = {
        **{key: value for key, value in run.items() if key != "kind"},
        "seconds": round(seconds),
        "sources": sources(slug),
        "verdicts": ledger.faces(notebook, "verdict"),
        "data": {face["name"]: face["data"] for face in ledger.faces(notebook, "data")},
    }
    path = FULL_RUNS / f"{slug}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entry, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def load(slug: str) -> dict[str, Any] | None:
    """The recorded full run with ``stale``: the names of sources that changed since; None if never run."""
    path = FULL_RUNS / f"{slug}.json"
    if not path.is_file():
        return None
    entry = json.loads(path.read_text(encoding="utf-8"))
    entry["stale"] = changed(entry["sources"], sources(slug))
    return entry
