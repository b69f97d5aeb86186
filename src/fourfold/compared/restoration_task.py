"""What the page on restoration restores: photographs' luminance, halved, with noise or without.

Images are (3, h, w) or (1, 3, h, w), float, three times the same luminance in 0..1, since most of the papers'
modules take colour; the noise is the same in all three, too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fourfold import super_resolution, training
from fourfold.data import image_pairs
from fourfold.data.image_pairs import Pairs, enlarge

FACTOR = 2
TASKS = {"clean": 0.0, "noisy": 5 / 255}
"""Standard deviation of the noise on the small image."""

STEPS, BATCH, CROP = 300, 2, 32
"""Training steps of every network, crops for each, and the side of a small crop."""

Restore = Callable[[Tensor], Tensor]
"""A small image (1, 3, h, w) -> the large one (1, 3, 2 h, 2 w)."""


def bicubic(small: Tensor) -> Tensor:
    """(..., h, w) -> (..., 2 h, 2 w), by Keys's cubic with a = -0.5."""
    return enlarge(small, FACTOR)


def seen(task: str, names: Sequence[str], seed: int, side: int | None = None) -> Pairs:
    """Photographs' luminance, three times over, halved with the task's noise, and whole.

    ``side``: their central squares. Raises ``ValueError`` as `super_resolution.pairs`.
    """
    pairs = super_resolution.pairs(names, FACTOR, side)
    degraded, clean = ([image_pairs.luminance(each).expand_as(each) for each in part] for part in pairs)
    noise = [
        torch.randn(small[:1].shape, generator=training.stream(seed, f"noise, {name}"))
        for name, small in zip(names, degraded, strict=True)
    ]
    return Pairs([a + TASKS[task] * b for a, b in zip(degraded, noise, strict=True)], clean)


@dataclass(frozen=True)
class Given:
    """What an arm is given to learn from, in one task and with one seed."""

    task: str
    seed: int

    @cached_property
    def learn(self) -> Pairs:
        """Whole photographs to learn from."""
        return seen(self.task, super_resolution.LEARN, self.seed)

    def crops(self, n: int, size: int = CROP) -> training.Draw:
        """Small and large crops, turned and mirrored."""
        return super_resolution.turned(image_pairs.crops(self.learn, n, size))

    def stream(self, purpose: str) -> torch.Generator:
        """A generator for one purpose."""
        return training.stream(self.seed, purpose)
