"""Checks of arguments: each raises ``ValueError`` naming the argument, what is allowed and what was given."""

from collections.abc import Collection
from math import isfinite


def at_least(low: int, **sizes: int) -> None:
    """Every size is ``low`` or more: ``at_least(1, heads=heads, depth=depth)``."""
    for name, size in sizes.items():
        if size < low:
            raise ValueError(f"{name} must be >= {low}, got {size}")


def between(low: int, high: int, why: str = "", **sizes: int) -> None:
    """Every size is in ``low..high``; ``why`` tells where the upper bound comes from."""
    for name, size in sizes.items():
        if not low <= size <= high:
            raise ValueError(f"{name} must be in {low}..{high}{why and f' ({why})'}, got {size}")


def one_of(allowed: Collection[str | None], **choices: str | None) -> None:
    """Every choice is one of those allowed."""
    for name, choice in choices.items():
        if choice not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {choice!r}")


def divides(size: int, what: str, **parts: int) -> None:
    """Every part is 1 or more and divides ``size``, which an error calls ``what``."""
    for name, part in parts.items():
        if part < 1 or size % part:
            raise ValueError(f"{name} must be >= 1 and divide {what} = {size}, got {part}")


def finite(low: float = 0.0, *, above: bool = False, **numbers: float) -> None:
    """Every number is finite and at least ``low``, or above it."""
    for name, number in numbers.items():
        if not isfinite(number) or number < low or (above and number == low):
            raise ValueError(f"{name} must be finite and {'>' if above else '>='} {low:g}, got {number}")
