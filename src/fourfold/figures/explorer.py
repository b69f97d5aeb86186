"""An attention explorer: choose a variant, layer and head, point at a cell, and see where it looks.

All maps are computed beforehand and travel in the page as whole per cent; ``explorer.js`` only shows them. On
paper, without a script and in a notebook stands one drawing: the first sample, and where its CLS looks.
"""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from matplotlib.figure import Figure
from torch import Tensor

from fourfold.figures import still
from fourfold.figures.shown import as_json, check_words
from fourfold.figures.style import MAGNITUDE, WIDTH, canvas, settle, wrapped


@dataclass(frozen=True)
class Samples:
    """Images cut into cells, and what to say about some of the cells.

    ``cells``: (samples, cells, height, width), any real values. ``columns``: cells in a row of the image.
    ``notes``: for each sample, cell -> a word, such as ``{4: "target"}``.
    Raises ``ValueError`` for shapes that do not fit.
    """

    cells: Tensor
    columns: int
    notes: Sequence[Mapping[int, str]]

    def __post_init__(self) -> None:
        """Reject what could not be laid out."""
        if self.cells.ndim != 4 or self.columns < 1 or self.cells.shape[1] % self.columns:
            raise ValueError(
                f"cells must be (samples, cells, height, width) in rows of columns = {self.columns}, "
                f"got {tuple(self.cells.shape)}"
            )
        if len(self.notes) != len(self.cells):
            raise ValueError(f"notes must be one per sample, {len(self.cells)}, got {len(self.notes)}")


@dataclass(frozen=True)
class Explorer:
    """What `explore` made, displayed as the last value of a cell."""

    name: str
    caption: str
    alt: str
    data: Mapping[str, Any]

    @property
    def drawn(self) -> Figure:
        """The first sample, and how its CLS attends to the cells in the last layer of up to five variants."""
        columns, width = self.data["columns"], self.data["width"]
        cells = np.array(self.data["pictures"][0])
        cells = cells.reshape(len(cells), -1, width)
        looks = {
            v: np.mean(np.array(m[0][-1])[:, 0, 1:], axis=0) for v, m in [*self.data["maps"].items()][:5]
        }
        figure, axes = canvas(len(looks) + 1, height=2.2)
        picture = rearrange(cells, "(r c) y x -> (r y) (c x)", c=columns)
        axes[0].imshow(picture, cmap="gray")
        axes[0].set_title("sample 1", fontsize=9)
        for panel, (variant, shares) in zip(axes[1:], looks.items(), strict=True):
            grid = shares.reshape(-1, columns)
            drawn = panel.imshow(grid, cmap=MAGNITUDE, vmin=0, vmax=max(s.max() for s in looks.values()))
            panel.set_title(wrapped(variant, 0.85 * WIDTH / len(axes)), fontsize=9)
        for panel in axes:
            panel.set_axis_off()
        bar = figure.colorbar(drawn, ax=list(axes[1:]), shrink=0.8, aspect=22, pad=0.02)
        bar.set_label("attention of CLS, %")
        settle(figure)
        return figure

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        carried, drawn = as_json(self.data), self.drawn
        page = (
            f"<figure class='explorer' id='figure-{self.name}' "
            f"aria-label='{html.escape(self.alt, quote=True)}'>"
            f"<script type='application/json'>{carried}</script>"
            f"<div class='stage'>{still.svg(drawn, self.name, self.alt)}</div>"
            f"<figcaption>{html.escape(self.caption)}</figcaption></figure>"
        )
        return {
            "text/plain": f"Explorer {self.name}: {self.alt}",
            "text/html": page,
            "image/png": base64.b64encode(still.png(drawn)).decode("ascii"),
        }


def explore(
    maps: Mapping[str, Tensor | Sequence], samples: Samples, *, name: str, caption: str, alt: str
) -> Explorer:
    """An explorer of attention maps.

    ``maps``: variant -> (samples, depth, heads, cells+1, cells+1), the share of attention that token i (row)
    pays to token j, CLS the first, as `fourfold.attention.attention_maps` returns it.
    Raises ``ValueError`` for a malformed name, an empty caption or alt text, or maps that are not that.
    """
    check_words("explorer", name, caption, alt)
    if not maps:
        raise ValueError(f"explorer {name} needs at least one variant")
    count, cells = samples.cells.shape[:2]
    shown = {}
    for variant, values in maps.items():
        shares = torch.as_tensor(values)
        tokens = (cells + 1, cells + 1)
        if shares.ndim != 5 or len(shares) != count or shares.shape[-2:] != tokens:
            raise ValueError(
                f"maps[{variant!r}] must be ({count}, depth, heads, {tokens[0]}, {tokens[1]}), "
                f"got {tuple(shares.shape)}"
            )
        if not ((shares >= -1e-3) & (shares <= 1.001)).all():
            raise ValueError(f"maps[{variant!r}] must be shares of attention in 0..1")
        shown[variant] = (100 * shares).round().int().tolist()
    low, high = samples.cells.min(), samples.cells.max()
    grey = (255 * (samples.cells - low) / (high - low).clamp(min=1e-9)).round().int()
    data = {
        "maps": shown,
        "pictures": grey.flatten(2).tolist(),
        "width": samples.cells.shape[-1],
        "columns": samples.columns,
        "notes": [{str(cell): word for cell, word in notes.items()} for notes in samples.notes],
    }
    return Explorer(name, caption, alt, data)
