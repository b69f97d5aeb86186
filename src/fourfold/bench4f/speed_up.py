"""The speed-up of a 4f bench over a GPU, at every plane, frame rate, batch and throughput a reader picks.

Passes are counted here, by `throughput.passes`, over a grid of planes and batches. The page only divides: one
image takes t = c N / (f B) on the bench (N passes, c per signed product, f frames per second, B images) and
1 / g on a GPU of g images per second, so the speed-up is f B / (c N g).

Source: Ibadulla, Chen, Reyes-Aldasoro, ConvShareViT (arXiv 2504.11517) for the factor of 3.04. The paper's
abstract names neither GPU nor plane nor batch; `CLAIM` is where our count of passes yields that factor.
"""

from collections.abc import Sequence
from math import log10
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fourfold import figures
from fourfold.bench4f import throughput

SHAPE = throughput.ViTShape(tokens=145, dim=64, depth=8, heads=4, mlp_ratio=2)
SIGN = "pm"
PLANES = (256, 384, 512, 768, 1024, 1080, 1440, 2160, 3072, 4320, 6144, 8192)  # pixels
# 7, 28, 125, 502 and 2011 images fill planes of 256, 512, 1080, 2160 and 4320 pixels.
BATCHES = (
    1, 2, 3, 4, 5, 7, 10, 14, 20, 28, 40, 56, 64, 90,
    125, 128, 180, 256, 360, 502, 512, 720, 1024, 1450, 2011, 2048,
)  # fmt: skip
RATES = (60, 100, 300, 1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)  # Hz
GPUS = (
    100, 200, 300, 500, 700, 1000, 1500, 2278, 3000, 5000, 7000, 10_000, 20_000, 50_000, 100_000
)  # images/s  # fmt: skip

# 502 images fill the plane; 2278 images/s are 439 us per image.
CLAIM: dict[str, Any] = {"plane": 2160, "rate": 1_000_000, "batch": 502, "gpu": 2278}
FACTOR = 3.04

# How passes are counted: arguments of `throughput.passes`, name and line in the figure.
WAYS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "mix": ({}, "shared kernels", {"color": figures.BLUE, "width": 3}),
    "unshared": ({"shared": False}, "a kernel per token", {"color": figures.VERMILION, "dash": "dash"}),
    "naive": ({"tiling": "naive"}, "one key a pass", {"color": figures.GREEN, "dash": "dot"}),
}


def pass_counts() -> dict[str, list[list[int]]]:
    """Passes N of a batch before the sign factor, for each of `WAYS`: rows `PLANES`, columns `BATCHES`."""
    return {
        way: [
            [
                sum(throughput.passes(SHAPE, throughput.Bench4f(plane, 1.0), batch, **how).values())
                for batch in BATCHES
            ]
            for plane in PLANES
        ]
        for way, (how, _, _) in WAYS.items()
    }


def speed_up(plane: int, rate: float, batch: int, gpu: float, way: str = "mix") -> float:
    """How many times faster than a GPU of `gpu` images/s a bench is; `plane` in pixels, `rate` in Hz."""
    bench = throughput.Bench4f(plane, rate, SIGN)
    return 1 / (gpu * throughput.seconds_per_image(SHAPE, bench, batch, **WAYS[way][0]))


def speed_up_figure() -> tuple[go.Figure, dict[str, Any]]:
    """The interactive figure, standing at `CLAIM`: the plot, and name, controls and data for `figures.show`.

    `speed_up.js` redraws it: it finds the curves by their place in the plot, two (against batch, against
    plane) for each of `WAYS` in order, then the reader's point in both panels. The titles are the first two
    annotations.
    """
    plot = make_subplots(1, 2, horizontal_spacing=0.12)
    panels = (("batch", BATCHES), ("plane", PLANES))
    for way, (_, name, line) in WAYS.items():
        for axis, values in panels:
            y = [float(f"{speed_up(**(CLAIM | {axis: value}), way=way):.6g}") for value in values]
            _draw(plot, axis, values, y, name, mode="lines+markers", line=line, marker={"size": 4})
    ring = {"symbol": "circle-open", "size": 18, "color": figures.ORANGE, "line": {"width": 4}}
    star = {"symbol": "star", "size": 11, "color": figures.PINK}
    for axis, _ in panels:
        _draw(plot, axis, [CLAIM[axis]], [speed_up(**CLAIM)], "your point", mode="markers", marker=ring)
    for axis, _ in panels:
        _draw(plot, axis, [CLAIM[axis]], [FACTOR], f"the paper's {FACTOR}", mode="markers", marker=star)
    for panel, title in (("", f"plane of {CLAIM['plane']} pixels"), ("2", f"batch of {CLAIM['batch']}")):
        _write(plot, panel, title, x=0.5, xanchor="center", y=1, yref=f"y{panel} domain", yanchor="bottom")
    for panel, side, x in (("", "left", 0.01), ("2", "right", 0.99)):
        small = {"font": {"size": 11}}
        _write(plot, panel, "equally fast", x=x, xanchor=side, y=0, yanchor="top", **small)
        _write(plot, panel, f"{FACTOR}", x=0.01, xanchor="left", y=log10(FACTOR), yanchor="bottom", **small)
    plot.add_hline(y=1, line={"color": figures.GREY, "width": 1.5})
    plot.add_hline(y=FACTOR, line={"color": figures.GREY, "width": 1.5, "dash": "dot"})
    plot.update_xaxes(type="log")
    plot.update_xaxes(title="batch, images", tickvals=[1, 4, 16, 64, 256, 1024], col=1)
    plot.update_xaxes(title="side of the plane, pixels", tickvals=[256, 512, 1080, 2160, 4320, 8192], col=2)
    plot.update_yaxes(
        type="log", range=[-3, 2], title="speed-up over the GPU", exponentformat="none", dtick=1
    )
    plot.update_layout(height=440)
    controls = [
        figures.Control("plane", "Side of the plane", PLANES, CLAIM["plane"], "pixels"),
        figures.Control("rate", "Frame rate of the slowest part", RATES, CLAIM["rate"], "Hz"),
        figures.Control("batch", "Images in a batch", BATCHES, CLAIM["batch"]),
        figures.Control("gpu", "Throughput of the GPU", GPUS, CLAIM["gpu"], "images/s"),
    ]
    data = {
        "planes": PLANES,
        "batches": BATCHES,
        "passesPerProduct": throughput.SIGN_PASSES[SIGN],
        "passes": pass_counts(),
    }
    return plot, {"name": "speed-up", "controls": controls, "data": data}


def _draw(plot: go.Figure, axis: str, x: Sequence[float], y: Sequence[float], name: str, **look: Any) -> None:
    """A curve or point in the panel of that axis; the legend names it once for both panels."""
    left = axis == "batch"
    hover = f"{axis} %{{x}}: %{{y:.3g}} times<extra>{name}</extra>"
    look |= {"name": name, "legendgroup": name, "showlegend": left, "hovertemplate": hover}
    plot.add_scatter(x=x, y=y, **look, row=1, col=1 if left else 2)


def _write(plot: go.Figure, panel: str, text: str, **place: Any) -> None:
    """Words in a panel: x runs from 0 to 1 across it, y is a logarithm on its axis unless `yref` is given."""
    plot.add_annotation(
        text=text, showarrow=False, **({"xref": f"x{panel} domain", "yref": f"y{panel}"} | place)
    )
