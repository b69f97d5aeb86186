"""Sliders under a figure, and what a figure may be called."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
"""What a figure may be called: lower-case words joined by hyphens."""


@dataclass(frozen=True)
class Control:
    """A slider under a figure. ValueError for a malformed name, no label, or values that do not rise."""

    name: str
    label: str
    values: Sequence[float]  # the steps, rising
    start: float  # one of them
    unit: str = ""

    def __post_init__(self) -> None:
        """Reject what the page could not show."""
        if not NAME.fullmatch(self.name):
            raise ValueError(f"control name = {self.name!r}: expected lower-case words joined by '-'")
        if not self.label.strip():
            raise ValueError(f"control {self.name} needs a label")
        rising = all(low < high for low, high in zip(self.values, self.values[1:], strict=False))
        if len(self.values) < 2 or not rising or not all(map(isfinite, self.values)):
            raise ValueError(f"control {self.name}: values = {self.values}: expected at least two, rising")
        if self.start not in self.values:
            raise ValueError(f"control {self.name}: start = {self.start}: expected one of {self.values}")

    @property
    def texts(self) -> list[str]:
        """The values as the reader sees them, with their unit."""
        numbers = (
            f"{v:g}" if abs(v) < 10_000 else f"{v:,.15g}".replace(",", "\N{NO-BREAK SPACE}")
            for v in self.values
        )
        return [f"{number} {self.unit}".strip() for number in numbers]

    def html(self, figure: str) -> str:
        """A labelled native slider over the steps, for the figure of that name."""
        step = self.values.index(self.start)
        text, place = html.escape(self.texts[step], quote=True), f"figure-{figure}-{self.name}"
        # The slider itself speaks its value, so the output beside it keeps quiet.
        return (
            f"<label for='{place}'>{html.escape(self.label)}</label>"
            f"<input type='range' id='{place}' name='{self.name}' min='0' max='{len(self.values) - 1}' "
            f"step='1' value='{step}' aria-valuetext='{text}'>"
            f"<output for='{place}' aria-live='off'>{text}</output>"
        )
