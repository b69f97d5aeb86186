"""What numbers depend on: the definitions that a piece of code reaches through its imports.

A recorded run keeps a hash for each function, class and constant that it reached, by name: a function added
to a shared room, a comment or a docstring does not make old numbers look out of date, and a changed line
that they went through does. Where a definition lives is not hashed: imports are left out, and a name from
elsewhere is written as what it was imported from, so that a module may be moved, renamed or split.
"""

import ast
import copy
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jupytext
from nbformat import NotebookNode

from fourfold.judging import records

SOURCE = records.ROOT / "src"
BOOKKEEPING = ("fourfold.chapter", "fourfold.figures", "fourfold.judging", "fourfold.recorded")
"""Rooms that draw and keep books: they change no number."""


class Definition(NamedTuple):
    """A name at the top of a module; ``*`` stands for all of them."""

    module: str
    name: str


class _Module:
    """The statements of a piece of source, by the names that they define, and what its imports mean."""

    def __init__(self, source: str):
        tree = _WithoutDocstrings().visit(ast.parse(source))
        self.modules: dict[str, str] = {}
        """Local name -> fourfold module."""
        self.imports: dict[str, Definition] = {}
        """Local name -> a definition in another fourfold module."""
        self.foreign: dict[str, str] = {}
        """Local name -> what it was imported from, outside fourfold."""
        self.definitions: dict[str, list[ast.stmt]] = {}
        self.always: list[ast.stmt] = []
        """Statements that define nothing, such as a call: part of whatever uses the module."""
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                self._read_import(node)
        self.body = [s for s in tree.body if not isinstance(s, (ast.Import, ast.ImportFrom))]
        for statement in self.body:
            if names := _defined(statement):
                for name in names:
                    self.definitions.setdefault(name, []).append(statement)
            else:
                self.always.append(statement)

    def _read_import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            if isinstance(node, ast.Import):
                local, origin = alias.asname or alias.name, alias.name
            else:
                local, origin = alias.asname or alias.name, f"{node.module}.{alias.name}"
            if _ours(origin):
                self.modules[local] = origin
            elif isinstance(node, ast.ImportFrom) and node.module and _ours(node.module):
                self.imports[local] = Definition(node.module, alias.name)
            else:
                self.foreign[local] = origin

    def written(self, statement: ast.stmt) -> str:
        """A statement as text, the same under every Python and wherever its names are imported from."""
        return ast.unparse(_FStringsAlike().visit(_WithoutImports(self).visit(copy.deepcopy(statement))))

    def origin(self, dotted: str) -> str:
        """What a dotted name stands for: a definition of ours by its name alone, others with their module."""
        head, rest = self._split(dotted)
        if head in self.modules:
            return rest or self.modules[head].rpartition(".")[2]
        if head in self.imports:
            return ".".join(filter(None, (self.imports[head].name, rest)))
        if head in self.foreign:
            return ".".join(filter(None, (self.foreign[head], rest)))
        return dotted

    def _split(self, dotted: str) -> tuple[str, str]:
        """The part of a dotted name that was imported, and the rest."""
        for name in (*self.modules, *self.foreign):
            if f"{dotted}.".startswith(f"{name}."):
                return name, dotted[len(name) + 1 :]
        head, _, rest = dotted.partition(".")
        return head, rest

    def uses(self, statement: ast.stmt) -> Iterator[Definition]:
        """The definitions that a statement names; ``module=""`` is this one."""
        waiting: list[ast.AST] = [statement]
        while waiting:
            node = waiting.pop()
            dotted = _dotted(node)
            head, rest = self._split(dotted)
            if head in self.modules:
                # A module that is handed around as a whole may have anything of it used.
                yield Definition(self.modules[head], rest.partition(".")[0] or "*")
            elif head in self.imports:
                yield self.imports[head]
            elif head in self.definitions:
                yield Definition("", head)
            if not dotted:
                waiting += ast.iter_child_nodes(node)


def reached(source: str, without: tuple[str, ...] = BOOKKEEPING) -> dict[str, set[str]]:
    """module -> its definitions that ``source`` reaches, directly or through others."""
    found: dict[str, set[str]] = {}
    top = _Module(source)
    waiting = [use for s in _statements(top, {"*"}) for use in top.uses(s) if use.module]
    waiting += [Definition(module, "*") for name, module in top.modules.items() if "." in name]
    while waiting:
        module, name = waiting.pop()
        if f"{module}.".startswith(tuple(f"{room}." for room in without)) or name in found.get(module, ()):
            continue
        there = _module(module)
        if name in there.imports or name in there.modules:
            waiting.append(there.imports.get(name) or Definition(there.modules[name], "*"))
            continue
        first = module not in found
        found.setdefault(module, set()).add(name)
        statements = _statements(there, {name}) + (there.always if first else [])
        for statement in statements:
            waiting += [Definition(use.module or module, use.name) for use in there.uses(statement)]
    return found


def hashes(name: str, source: str) -> dict[str, str]:
    """name -> hash of ``source``, and name -> hash of each definition that it reaches.

    Definitions of one name in two modules share a hash. What a module does besides defining is ``*``.
    """
    texts: dict[str, list[str]] = {name: [meaning(source)]}
    for module, names in reached(source).items():
        there = _module(module)
        texts.setdefault("*", []).extend(map(there.written, there.always))
        for known in there.definitions if "*" in names else names & there.definitions.keys():
            lines = map(there.written, there.definitions[known])
            texts.setdefault(known, []).append("\n".join(lines))
    return {key: digest("\n".join(sorted(found))) for key, found in sorted(texts.items()) if any(found)}


def changed(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The names whose hashes differ, or that only one side has."""
    return sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))


def listed(names: Sequence[str], most: int = 5) -> str:
    """Names of what changed, in words; beyond ``most`` only their number."""
    more = len(names) - most
    return f"{', '.join(names[:most])} and {more} more" if more > 0 else ", ".join(names)


def meaning(source: str) -> str:
    """Source without comments, docstrings and imports: what can change a number."""
    module = _Module(source)
    return "\n".join(map(module.written, module.body))


def digest(text: str) -> str:
    """A short hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def forget() -> None:
    """Read modules anew from now on: they may have been changed since this process read them."""
    _module.cache_clear()


def experiment(notebook: Path) -> str:
    """The code of a page that its numbers go through.

    Without its parameters, which a run states itself; of a cell that draws, only what it does up to the last
    thing that it keeps or judges, and what it defines; and without functions and constants that nothing of
    the rest uses.
    """
    body: list[ast.stmt] = []
    for cell in _code_cells(notebook):
        tags = cell.metadata.get("tags", [])
        if "parameters" not in tags:
            statements = ast.parse(cell.source).body
            body += _until_kept(statements) if "nbval-ignore-output" in tags else statements
    while unused := _unused(body):
        body = [statement for statement in body if statement not in unused]
    return "\n".join(map(ast.unparse, body))


def files(notebook: Path) -> list[str]:
    """The files of the modules that a page runs, relative to the project: Snakemake does not see imports.

    Whole modules, book-keeping too: a page runs again too often rather than too seldom.
    """
    source = "\n".join(cell.source for cell in _code_cells(notebook))
    found: set[str] = {"fourfold.chapter"}
    waiting = [_Module(source), _module("fourfold.chapter")]
    while waiting:
        there = waiting.pop()
        named = {*there.modules.values(), *(definition.module for definition in there.imports.values())}
        waiting += [_module(module) for module in named - found]
        found |= named
    return sorted(str(_file(module).relative_to(records.ROOT)) for module in found)


def loaded(statement: ast.stmt) -> set[str]:
    """The names that a statement reads."""
    return {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def _code_cells(notebook: Path) -> list[NotebookNode]:
    cells = jupytext.read(notebook, fmt="md:myst").cells
    return [cell for cell in cells if cell.cell_type == "code"]


def _unused(body: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Functions, classes and literals of a page that no other statement of it names."""

    def only_defines(statement: ast.stmt) -> bool:
        if isinstance(statement, ast.Assign):
            return all(isinstance(n, _LITERAL) for n in ast.walk(statement.value))
        return isinstance(statement, (ast.FunctionDef, ast.ClassDef)) and not statement.decorator_list

    used = [loaded(statement) for statement in body]
    return [
        statement
        for i, statement in enumerate(body)
        if only_defines(statement)
        and not any(_defined(statement) & found for j, found in enumerate(used) if j != i)
    ]


_LITERAL = (ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.Set, ast.UnaryOp, ast.USub, ast.Load)


def _until_kept(statements: list[ast.stmt]) -> list[ast.stmt]:
    """The statements of a cell up to the last that keeps or judges something, and definitions after it."""
    kept = [
        i
        for i, statement in enumerate(statements)
        if any(
            isinstance(node, ast.Attribute) and node.attr in ("keep", "judge") for node in ast.walk(statement)
        )
    ]
    until = kept[-1] + 1 if kept else 0
    later = [s for s in statements[until:] if isinstance(s, (ast.FunctionDef, ast.ClassDef))]
    return statements[:until] + later


def _statements(module: _Module, names: Collection[str]) -> list[ast.stmt]:
    if "*" in names:
        return module.always + [s for group in module.definitions.values() for s in group]
    return [statement for name in names for statement in module.definitions.get(name, ())]


def _defined(statement: ast.stmt) -> set[str]:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, (ast.AnnAssign, ast.AugAssign, ast.For)):
        targets = [statement.target]
    else:
        return set()
    return {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}


def _dotted(node: ast.AST) -> str:
    """``a.b.c`` for a chain of attributes that starts with a name, else nothing."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := _dotted(node.value)):
        return f"{before}.{node.attr}"
    return ""


def _file(module: str) -> Path:
    stem = SOURCE.joinpath(*module.split("."))
    return stem.with_suffix(".py") if stem.with_suffix(".py").is_file() else stem / "__init__.py"


def _ours(name: str) -> bool:
    return name.startswith("fourfold.") and _file(name).is_file()


@cache
def _module(name: str) -> _Module:
    return _Module(_file(name).read_text(encoding="utf-8"))


class _FStringsAlike(ast.NodeTransformer):
    """Puts each f-string into the quotes that Python 3.11 gives it, which wrote the first recorded hashes.

    From 3.12 on an f-string may have its own quotes inside, and ``ast.unparse`` makes use of that.
    """

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        # A name is written as it is.
        return ast.copy_location(ast.Name(self._quoted(node)), node)

    def _quoted(self, node: ast.JoinedStr) -> str:
        quotes, written = ["'", '"', '"""', "'''"], ""
        for part in node.values:
            plain = isinstance(part, ast.Constant)
            text = "".join(_escaped(sign, plain) for sign in self._part(part))
            kept = [q for q in quotes if q not in text and ("\n" not in text or len(q) == 3)]
            quotes = sorted(kept or quotes, key=lambda q: q[0] == text[-1:])
            written += text
        return f"f{quotes[0]}{written}{quotes[0]}"

    def _part(self, part: ast.expr) -> str:
        if isinstance(part, ast.Constant):
            return str(part.value).replace("{", "{{").replace("}", "}}")
        assert isinstance(part, ast.FormattedValue)
        value = ast.FormattedValue(self.visit(part.value), part.conversion)
        text = ast.unparse(ast.JoinedStr([value])).removeprefix("f").strip("'\"")
        if not isinstance(part.format_spec, ast.JoinedStr):
            return text
        return f"{text[:-1]}:{''.join(map(self._part, part.format_spec.values))}}}"


def _escaped(sign: str, plain: bool) -> str:
    if (not plain and sign in "\n\t") or (sign != "\\" and sign.isprintable()):
        return sign
    return sign.encode("unicode_escape").decode("ascii")


class _WithoutDocstrings(ast.NodeTransformer):
    """Drops docstrings, and statements that do nothing."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        bare = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if bare else node

    def visit_Pass(self, _: ast.Pass) -> None:
        return None


class _WithoutImports(ast.NodeTransformer):
    """Drops imports, and writes each name as what it was imported from."""

    def __init__(self, module: _Module):
        self.module = module

    def visit_Import(self, _: ast.Import) -> None:
        return None

    def visit_ImportFrom(self, _: ast.ImportFrom) -> None:
        return None

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.copy_location(ast.Name(self.module.origin(node.id), node.ctx), node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if dotted := _dotted(node):
            return ast.copy_location(ast.Name(self.module.origin(dotted), node.ctx), node)
        return self.generic_visit(node)
