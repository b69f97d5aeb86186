"""Validate what papermill or the reader set, before any compute.

papermill writes parameters into the notebook as plain assignments: it lets unknown names through,
turns ``-p flag true`` into the string "true", and reads ``1e-3`` in a YAML file as text. So the cell
after the parameters hands its namespace to `validate`, which raises on such a value. It looks at the cells
that set parameters since the last time, not at everything that a kernel has picked up on its way: the first
cells can be edited and run again, and imports before them are nobody's parameters.
"""

import ast
import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from fourfold.judging.records import Parameter, Record

PROFILES = ("quick", "recorded", "doubled", "full")
"""The runs that a record describes; any other is custom."""


class ParameterError(ValueError):
    """Parameters that cannot be used; each line names one, its value and what is allowed."""


def _hint(spec: Parameter, value: object) -> str:
    """How to pass the value that was probably meant."""
    if spec.type.startswith("list"):
        if not isinstance(value, (list, tuple)):
            return "; pass a list with -y 'name: [a, b]'"
        return f"; at most {spec.longest} values, got {len(value)}" if len(value) > spec.longest else ""
    if not isinstance(value, str):
        return ""
    if spec.type == "bool" and value.lower() in ("true", "false", "yes", "no"):
        return f"; write {value.lower() in ('true', 'yes')} (papermill -p passes {value!r} as text)"
    if spec.type == "float" and re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", value):
        return f"; YAML reads {value} as text, write {value.lower().replace('e', '.0e')}"
    return ""


def _scalar_fits(kind: str, value: object, spec: Parameter) -> bool:
    if kind == "bool":
        return isinstance(value, bool)
    if spec.choices is not None and value not in spec.choices:
        return False
    if kind == "str":
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, int if kind == "int" else (int, float)):
        return False
    return (
        math.isfinite(value)
        and (spec.min is None or value >= spec.min)
        and (spec.max is None or value <= spec.max)
    )


def _fits(value: object, spec: Parameter) -> bool:
    if value is None:
        return spec.optional
    if not spec.type.startswith("list"):
        return _scalar_fits(spec.type, value, spec)
    kind = spec.type[5:-1]
    return (
        isinstance(value, (list, tuple))
        and spec.shortest <= len(value) <= spec.longest
        and all(_scalar_fits(kind, item, spec) for item in value)
        and (spec.repeats or len(set(value)) == len(value))
    )


def _broken_rules(spec: Parameter, value: Any, values: Mapping[str, Any]) -> Iterator[str]:
    """The rules between parameters that a value breaks, in words; parameters that are None make none."""
    items = value if isinstance(value, (list, tuple)) else [value]
    for other, words, holds in (
        (spec.multiple_of, "a multiple of", lambda item, than: item % than == 0),
        (spec.divides, "a divisor of", lambda item, than: than % item == 0),
        (spec.at_most, "at most", lambda item, than: item <= than),
    ):
        than = values[other] if isinstance(other, str) else other
        if than is not None and not all(holds(item, than) for item in items):
            yield f"{words} {other if other == than else f'{other}, which is {than!r}'}"
    if spec.long_as and values[spec.long_as] is not None and len(items) != len(values[spec.long_as]):
        yield f"as many values as {spec.long_as}, which has {len(values[spec.long_as])}"


def validate(record: Record, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The chapter's parameters, checked against its record.

    Args:
        record: the chapter's record; its ``parameters`` say what is allowed.
        namespace: ``globals()`` of the notebook, right after the parameters cell; or the parameters alone.

    Returns:
        name -> value, in the record's order.

    Raises:
        ParameterError: for every unknown name, wrong type or value out of range, all in one message.
    """
    problems = []
    for name, shown in _assigned(record, namespace).items():
        if name not in record.parameters:
            close = difflib.get_close_matches(name, record.parameters, n=1)
            guess = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(record.parameters)}"
            problems.append(f"{name} = {shown:.80}: {record.slug} has no such parameter; {guess}")
    for name, spec in record.parameters.items():
        if name not in namespace:
            problems.append(f"{name}: missing; expected {spec.type}, {spec.allowed}")
        elif not _fits(namespace[name], spec):
            problems.append(
                f"{name} = {namespace[name]!r:.80}: expected {spec.type}, {spec.allowed}"
                + _hint(spec, namespace[name])
            )
    values = {name: namespace[name] for name in record.parameters if name in namespace}
    if not problems:
        for name, spec in record.parameters.items():
            if values[name] is not None:
                broken = _broken_rules(spec, values[name], values)
                problems += [f"{name} = {values[name]!r:.80}: expected {rule}" for rule in broken]
    if problems:
        raise ParameterError("\n".join(problems))
    return values


def _assigned(record: Record, namespace: Mapping[str, Any]) -> dict[str, str]:
    """The names that were set as parameters, with their values in words.

    In a notebook they are those of papermill's cell and of the parameters cell, as they were last executed:
    ``In`` has the source of every cell that ran, and the last one is the cell that asks.
    """
    if "__name__" in namespace and "In" not in namespace:  # a script: nobody injects anything
        return {}
    if "In" not in namespace:
        return {name: repr(value) for name, value in namespace.items()}
    found: dict[str, str] = {}
    for source in reversed(namespace["In"][:-1]):
        if "open_chapter(" in source:
            break
        given = _assignments(source)
        if source.startswith("# Parameters") or given.keys() & record.parameters.keys():
            found = given | found
    return found


def _assignments(source: str) -> dict[str, str]:
    """name -> value as written, of a cell that does nothing but assign; empty for any other."""
    try:
        statements = ast.parse(source).body
    except SyntaxError:  # IPython's own, such as %time
        return {}
    found = {}
    for statement in statements:
        targets = (
            statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        )
        value = getattr(statement, "value", None)
        if not isinstance(statement, (ast.Assign, ast.AnnAssign)) or value is None:
            return {}
        for target in targets:
            if not isinstance(target, ast.Name):
                return {}
            found[target.id] = ast.unparse(value)
    return found


def profile(record: Record, values: Mapping[str, Any]) -> str:
    """One of `PROFILES` when all values are the record's, else ``"custom"``."""
    for name in PROFILES:
        if dict(values) == record.values(name):
            return name
    return "custom"


def cell(record: Record) -> str:
    """The source of the notebook's parameters cell: quick values, types and one-line meanings."""

    def comment(spec: Parameter) -> str:
        # A long list of names would bury the meaning; the error for a wrong one prints them all.
        # papermill counts the equals signs of a line and gives up on a second one.
        allowed = spec.allowed.replace(">=", "at least")
        return f"{spec.meaning} ({allowed})" if len(allowed) <= 60 else spec.meaning

    # papermill's own reader of this cell does not know "float | None", so None is only in the comment.
    return "\n".join(
        f"{name}: {spec.type} = {_literal(spec.quick)}  # {comment(spec)}"
        for name, spec in record.parameters.items()
    )


def _literal(value: Any) -> str:
    """A value in Python, with the quotes that the formatter gives it."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_literal, value))}]"
    return json.dumps(value) if isinstance(value, str) else repr(value)
