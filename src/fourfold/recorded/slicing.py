"""The part of a page that some of its verdicts need: the rest of its experiment is left out."""

import ast
from collections.abc import Collection, Iterator

from fourfold.recorded import sources


def slice_for(code: str, claims: Collection[str]) -> str:
    """The statements of ``code`` that the verdicts on these claims depend on, in their order.

    What binds a needed name is kept, and what changes the object behind one: by a call of its method, by an
    assignment to its parts, or as an argument of a call whose value nobody takes.

    Raises:
        ValueError: if ``code`` judges none of the claims.
    """
    body = ast.parse(code).body
    kept = {i for i, statement in enumerate(body) if set(_judged(statement)) & set(claims)}
    if not kept:
        raise ValueError(f"no statement judges {', '.join(sorted(claims))}")
    last = max(kept)
    # Modules, functions and the chapter itself are used, not changed.
    fixed = {"chapter"} | {
        name
        for s in body
        if isinstance(s, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef))
        for name in _bound(s)
    }
    kept |= {i for i, s in enumerate(body[:last]) if isinstance(s, (ast.Import, ast.ImportFrom))}
    before = -1
    # Until nothing is added: a function may use what is bound only after it.
    while len(kept) > before:
        before = len(kept)
        needed = {name for i in kept for name in sources.loaded(body[i])}
        for i, statement in enumerate(body[:last]):
            if set(_bound(statement)) & needed or set(_changed(statement)) & (needed - fixed):
                kept.add(i)
    return "\n".join(ast.unparse(statement) for i, statement in enumerate(body) if i in kept)


def _judged(statement: ast.stmt) -> Iterator[str]:
    """The claims that a statement judges."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "judge":
            match node.args:
                case [ast.Constant(value=str(claim)), *_]:
                    yield claim


def _bound(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement at the top of a page binds, but for those that run through a loop."""
    match statement:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in names)
        case _:
            loops = [n.target for n in ast.walk(statement) if isinstance(n, (ast.For, ast.comprehension))]
            running = {n for target in loops for n in ast.walk(target)}
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node not in running:
                    yield node.id
                elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                    yield node.name


def _whole(part: ast.expr) -> Iterator[str]:
    """The name that a part belongs to: ``errors`` of ``errors["a"].append``."""
    while isinstance(part, (ast.Subscript, ast.Attribute)):
        part = part.value
    if isinstance(part, ast.Name):
        yield part.id


def _changed(statement: ast.stmt) -> Iterator[str]:
    """The names whose objects a statement may change without binding them."""
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return
    for node in ast.walk(statement):
        match node:
            case ast.Call(func=ast.Attribute() as part):
                yield from _whole(part)
            case (ast.Subscript(ctx=ast.Store()) | ast.Attribute(ctx=ast.Store())) as part:
                yield from _whole(part)
    match statement:
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="chapter")))):
            pass  # it keeps and judges, and changes nothing
        case ast.Expr(value=ast.Call(args=args)):
            yield from (argument.id for argument in args if isinstance(argument, ast.Name))
