"""The methods of the part "restoration" on the same photographs: what each restores, and what it invents.

This room compares papers, so it and `restoration_sampled` import their modules; no other room does, and no
chapter imports either.

`ARMS` has an entry for each method and each lazy rival. Networks have about as many parameters as ESPCN at
its published size, learn from the same photographs for as many steps, and add to bicubic interpolation. What
an arm adds to it is split by `invention`. Images are as in `restoration_task`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fourfold import cost, invention, super_resolution, wiener
from fourfold.compared.restoration_sampled import denoiser, details, guided, many_steps, one_step, variation
from fourfold.compared.restoration_task import BATCH, CROP, FACTOR, STEPS, TASKS, Given, Restore, bicubic
from fourfold.data import image_pairs
from fourfold.data.image_pairs import Pairs, enlarge
from fourfold.restoration import craft, dlgsanet, espcn

SIDE, BORDER = 192, 8
"""Of the central squares that are restored; pixels left out on every side, where methods wrap or reflect."""

LOOKED_AT, SHOWN = "motorcycle", (72, 72, 48)
"""The photograph of which a part is shown, and that part's upper row, left column and side."""

EDGES = (*(band / 16 for band in range(9)), 0.71)
"""Bands of spatial frequency, cycles per pixel of the large image. The small one's Nyquist limit is 4/16."""


# --- networks that are trained ------------------------------------------------------------------------------


class LuminanceESPCN(espcn.ESPCN):
    """ESPCN on luminance around 0.5, which adds to bicubic interpolation, as all networks do here."""

    def __init__(self) -> None:
        super().__init__(FACTOR)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 3, h, w) -> (batch, 3, 2 h, 2 w)."""
        return enlarge(x, FACTOR) + super().forward(x[:, :1] - 0.5)


def plain(dim: int = 20, layers: int = 4) -> super_resolution.SuperResolver:
    """The lazy rival of every network: convolutions of 3 x 3 with a GELU."""
    body = [part for _ in range(layers) for part in (nn.Conv2d(dim, dim, 3, padding=1), nn.GELU())]
    return super_resolution.SuperResolver(nn.Sequential(*body), dim, FACTOR, over_bicubic=True)


def of_craft() -> super_resolution.SuperResolver:
    """CRAFT with one block and without its position bias, as its chapter trains it."""
    return craft.craft(FACTOR, 18, (1,), 2, over_bicubic=True, pos_dim=0)


def of_dlgsanet() -> super_resolution.SuperResolver:
    """DLGSANet with one block, tiles half as large again as the crops that it learns from."""
    return dlgsanet.dlgsanet(FACTOR, 20, 1, 1, 2, 4, tile=3 * CROP // 2, over_bicubic=True)


def learnt(make: Callable[[], nn.Module], given: Given, rate: float, times: int = 1) -> Restore:
    """A network trained ``times`` as long as others, by `super_resolution.fit`, its last layer slower."""
    run = super_resolution.fit(
        make, [given.seed], given.learn, steps=times * STEPS, batch=BATCH, crop=CROP, lr=rate, slow_last=0.1
    )
    return torch.no_grad()(run.member(0))


# --- closed forms -------------------------------------------------------------------------------------------


def stationary(given: Given, noise: float) -> Restore:
    """Wiener's filter with the mean spectrum of the photographs to learn from; ``noise``: what it expects."""

    @cache
    def spectrum(side: int) -> Tensor:
        return wiener.spectrum(given.crops(100, side)(given.stream(f"spectrum {side}"))[1][:, 0])

    def restore(small: Tensor) -> Tensor:
        made = wiener.enlarged(small[0, 0], spectrum(small.shape[-1]), FACTOR, noise)
        return made.to(small).expand(1, 3, -1, -1)

    return restore


def linear(given: Given, taps: int) -> Restore:
    """The linear interpolator with the least squared error: a filter for each of the four places."""
    one = Pairs(*([image[:1] for image in part] for part in given.learn))
    layer = espcn.least_squares_layer(one, FACTOR, taps)

    @torch.no_grad()
    def restore(small: Tensor) -> Tensor:
        return layer(small[:, :1]).expand(-1, 3, -1, -1)

    return restore


# --- arms ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arm:
    """A method or a rival.

    ``make``: what it makes of what is given and of a setting. ``settings``: those that are tried on other
    photographs, or the name of the arm whose setting serves this one, too. ``lazy``: whether it is a rival
    that no paper proposes. ``tasks``: those that it can take.
    """

    make: Callable[[Given, Any], Restore]
    settings: tuple[Any, ...] | str
    lazy: bool = False
    tasks: Sequence[str] = tuple(TASKS)


RATES = (0.001, 0.002, 0.004)
BICUBIC, PLAIN, LONGER, TEACHER = "bicubic", "plain CNN", "3 x longer", "its teacher"
ARMS: dict[str, Arm] = {
    BICUBIC: Arm(lambda *_: bicubic, (None,), lazy=True),
    "TV": Arm(variation, (0.00003, 0.000125, 0.0005, 0.002), lazy=True),
    "Wiener": Arm(stationary, (0.0025, 0.005, 0.01, 0.02), lazy=True),
    "linear": Arm(linear, (5, 7, 9), lazy=True),
    PLAIN: Arm(partial(learnt, plain), RATES, lazy=True),
    LONGER: Arm(partial(learnt, plain, times=3), PLAIN, lazy=True),
    "ESPCN": Arm(partial(learnt, LuminanceESPCN), RATES),
    "CRAFT": Arm(partial(learnt, of_craft), RATES),
    "DLGSANet": Arm(partial(learnt, of_dlgsanet), RATES),
    "HF-Diff": Arm(one_step, TEACHER),
    TEACHER: Arm(many_steps, RATES),
    "HIR-Diff": Arm(guided, ((64, 12), (64, 24), (125, 12), (125, 24))),
    "HiWave": Arm(details, (7.5,), tasks=("clean",)),
}
"""Method or rival -> how it restores. HiWave's strength is its paper's, and it knows of no noise."""


def sizes() -> dict[str, int]:
    """Parameters of each network, by the arm's name."""
    made = {
        PLAIN: plain(),
        LONGER: plain(),
        "ESPCN": LuminanceESPCN(),
        "CRAFT": of_craft(),
        "DLGSANet": of_dlgsanet(),
        "HF-Diff": denoiser(),
        TEACHER: denoiser(),
    }
    return {name: cost.parameters(net) for name, net in made.items()}


def of_task(task: str) -> list[str]:
    """The arms that can take a task."""
    return [name for name, arm in ARMS.items() if task in arm.tasks]


def restored(restore: Restore, small: Sequence[Tensor]) -> list[Tensor]:
    """What an arm makes of small images (3, h, w): luminance (1, 2 h, 2 w) in 0..1."""
    return [restore(image[None])[0].mean(0, keepdim=True).clamp(0, 1) for image in small]


def gain(made: Sequence[Tensor], of: Pairs) -> float:
    """Mean gain in PSNR over bicubic interpolation, dB, of what `restored` made of pairs."""
    gains = [
        image_pairs.psnr(image, clean[:1], BORDER) - image_pairs.psnr(bicubic(small)[:1], clean[:1], BORDER)
        for image, small, clean in zip(made, *of, strict=True)
    ]
    return sum(gains) / len(gains)


# --- what is measured ---------------------------------------------------------------------------------------


def measured(made: Tensor, clean: Tensor, base: Tensor) -> dict[str, Any]:
    """PSNR, SSIM and GMSD of luminance within the border, and mean squares of what was added and is wrong.

    Images (1, h, w), clipped to 0..1 as files are; the last two in bands. What was missing is what is wrong
    with the base.
    """
    of_made, of_clean, of_base = (
        image[0, BORDER:-BORDER, BORDER:-BORDER].clamp(0, 1) for image in (made, clean, base)
    )
    found = invention.energies(of_made, of_clean, of_base, EDGES)
    measures = (image_pairs.psnr, image_pairs.ssim, image_pairs.gmsd)
    bands = {"added": found.added.tolist(), "wrong": found.wrong.tolist()}
    return {
        **{measure.__name__: measure(made, clean, BORDER) for measure in measures},
        **{name: [float(f"{value:.6g}") for value in part] for name, part in bands.items()},
    }


def stacked(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, NDArray]]:
    """(task, arm) -> what was measured -> an array: photographs, seeds, and bands where there are any."""
    found: dict[tuple[str, str], dict[str, dict[str, list[Any]]]] = {}
    for row in rows:
        place = found.setdefault((row["task"], row["arm"]), {})
        for name in ("psnr", "ssim", "gmsd", "added", "wrong"):
            place.setdefault(name, {}).setdefault(row["photograph"], []).append(row[name])
    return {
        place: {name: np.array(list(each.values())) for name, each in measures.items()}
        for place, measures in found.items()
    }


def split(found: Mapping[tuple[str, str], Mapping[str, NDArray]], task: str, arm: str) -> invention.Energies:
    """The `Energies` of an arm, (photographs, seeds, bands), of what `stacked` found."""
    whole, own = found[task, BICUBIC], found[task, arm]
    return invention.Energies(*map(torch.from_numpy, (whole["wrong"], own["added"], own["wrong"])))


MIDDLES = tuple((low + high) / 2 for low, high in pairwise(EDGES))
HEARD = 0.02
"""Share of the missing energy below which a band is left out where shares of it are shown."""


def banded(of: Mapping[tuple[str, str], invention.Energies]) -> list[dict[str, Any]]:
    """A row for each task, arm and band that is `HEARD`: means over photographs and seeds.

    ``restored`` and ``invented`` as `invention` has them, and ``left``: what is wrong over what was missing,
    in dB.
    """
    rows: list[dict[str, Any]] = []
    for (task, arm), own in of.items():
        share = (own.missing / own.missing.sum(-1, keepdim=True)).mean((0, 1))
        left = 10 * (own.wrong / own.missing).mean((0, 1)).log10()
        columns = own.gain.mean((0, 1)), own.invented.mean((0, 1)), left, share
        for middle, g, invented, decibels, heard in zip(MIDDLES, *(c.tolist() for c in columns), strict=True):
            if heard >= HEARD:
                values = {"restored": g, "invented": invented, "left": decibels}
                rows.append({"task": task, "arm": arm, "frequency": middle, **values})
    return rows
