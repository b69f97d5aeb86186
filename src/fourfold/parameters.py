"""Validate what papermill injected, before any compute.

papermill writes parameters into the notebook as plain assignments: it lets unknown names through,
turns ``-p flag true`` into the string "true", and reads ``1e-3`` in a YAML file as text. So the cell
after the parameters hands its namespace to `validate`, which raises on the first run of such a value.
"""

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any

from fourfold.records import Parameter, Record

# What IPython itself keeps in a notebook's namespace.
_IPYTHON = re.compile(r"^(In|Out|get_ipython|exit|quit|open|_+|_i+|_i?\d+|_[io]h|_dh|_exit_code|__\w+__)$")


LONGEST = 100
"""Values in a list, at most: one more is a mistake, and would run for days."""


class ParameterError(ValueError):
    """Parameters that cannot be used; each line names one, its value and what is allowed."""


def _hint(kind: str, value: object) -> str:
    """How to pass the value that was probably meant."""
    if isinstance(value, (list, tuple)) and len(value) > LONGEST:
        return f"; at most {LONGEST} values, got {len(value)}"
    if not isinstance(value, str):
        return ""
    if kind.startswith("list"):
        return "; pass a list with -y 'name: [a, b]'"
    if kind == "bool" and value.lower() in ("true", "false", "yes", "no"):
        return f"; write {value.lower() in ('true', 'yes')} (papermill -p passes {value!r} as text)"
    if kind == "float" and re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", value):
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
        and (spec.above is None or value > spec.above)
    )


def _fits(value: object, spec: Parameter) -> bool:
    if value is None:
        return spec.optional
    if not spec.type.startswith("list"):
        return _scalar_fits(spec.type, value, spec)
    kind = spec.type[5:-1]
    return (
        isinstance(value, (list, tuple))
        and 0 < len(value) <= LONGEST
        and all(_scalar_fits(kind, item, spec) for item in value)
        and len(set(value)) == len(value)
    )


def validate(record: Record, namespace: Mapping[str, Any], *, ignore: frozenset[str] = frozenset()) -> dict:
    """The chapter's parameters, checked against its record.

    Args:
        record: the chapter's record; its ``parameters`` say what is allowed.
        namespace: ``globals()`` of the notebook, right after the parameters cell.
        ignore: names in it that are no parameters (the notebook's own imports).

    Returns:
        name -> value, in the record's order.

    Raises:
        ParameterError: for every unknown name, wrong type or value out of range, all in one message.
    """
    problems = []
    injected = {n: v for n, v in namespace.items() if not _IPYTHON.match(n) and n not in ignore}
    for name, value in injected.items():
        if name not in record.parameters:
            close = difflib.get_close_matches(name, record.parameters, n=1)
            guess = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(record.parameters)}"
            problems.append(f"{name} = {value!r:.80}: {record.slug} has no such parameter; {guess}")
    for name, spec in record.parameters.items():
        if name not in injected:
            problems.append(f"{name}: missing; expected {spec.type}, {spec.allowed}")
        elif not _fits(injected[name], spec):
            problems.append(
                f"{name} = {injected[name]!r:.80}: expected {spec.type}, {spec.allowed}"
                + _hint(spec.type, injected[name])
            )
    if problems:
        raise ParameterError("\n".join(problems))
    return {name: injected[name] for name in record.parameters}


def profile(record: Record, values: Mapping[str, Any]) -> str:
    """``"quick"`` or ``"full"`` when all values are the record's, else ``"custom"``."""
    for name in ("quick", "full"):
        if all(values[key] == getattr(spec, name) for key, spec in record.parameters.items()):
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
        f"{name}: {spec.type} = {spec.quick!r}  # {comment(spec)}" for name, spec in record.parameters.items()
    )
