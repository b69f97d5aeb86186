"""The speed-up of a 4f bench over a GPU, at every plane, frame rate, batch and throughput a reader picks.

Passes are counted here, by `throughput.passes`, over a grid of planes and batches. The page only divides: one
image takes t = c N / (f B) on the bench (N passes, c per signed product, f frames per second, B images) and
1 / g on a GPU of g images per second, so the speed-up is f B / (c N g).

Source: Ibadulla, Chen, Reyes-Aldasoro, ConvShareViT (arXiv 2504.11517) for the factor of 3.04. The paper's
abstract names neither GPU nor plane nor batch; `CLAIM` is where our count of passes yields that factor.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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

# Parameter -> its values, those named on the axis, the axis' title.
PANELS: dict[str, tuple[tuple[int, ...], tuple[int, ...], str]] = {
    "batch": (BATCHES, (1, 4, 16, 64, 256, 1024), "batch, images"),
    "plane": (PLANES, (256, 512, 1080, 2160, 4320, 8192), "side of the plane, pixels"),
}
DECADES = range(-3, 3)
"""Powers of ten on the y axis; a point beyond moves the frame by whole ones."""

# How passes are counted: arguments of `throughput.passes`, name and line in the figure.
WAYS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "mix": ({}, "shared kernels", {"color": figures.BLUE, "linewidth": 2.6}),
    "unshared": ({"shared": False}, "a kernel per token", {"color": figures.VERMILION, "linestyle": "--"}),
    "naive": ({"tiling": "naive"}, "one key a pass", {"color": figures.GREEN, "linestyle": ":"}),
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


def speed_up_figure() -> tuple[Figure, dict[str, Any]]:
    """The interactive figure, standing at `CLAIM`: the drawing, and name, controls and data for `show`.

    `speed_up.js` moves what has an id: the curves, two (against batch, against plane) for each of `WAYS`, the
    two levels and the reader's point in both panels, the titles and the names of the decades. It finds the
    panels' frames, in points, and the drawing's decades in the data.
    """
    figure, panels = figures.canvas(2, height=3.9, sharey=True)
    axes = dict(zip(("batch", "plane"), panels, strict=True))
    for axis, (values, ticks, title) in PANELS.items():
        panel = axes[axis]
        for way, (_, name, look) in WAYS.items():
            curve = [speed_up(**(CLAIM | {axis: value}), way=way) for value in values]
            panel.plot(values, curve, **look, label=name, gid=f"speed-up-{way}-{axis}")
        for level, name in ((1.0, "equally fast"), (FACTOR, f"the paper's {FACTOR}")):
            look = {"color": figures.INK, "linewidth": 1, "linestyle": "-" if level == 1 else "--"}
            gid = f"speed-up-level-{level:g}-{axis}"
            panel.plot(values, [level] * len(values), **look, label=name, gid=gid)
        ring = {"markersize": 13, "markerfacecolor": "none", "markeredgewidth": 3, "color": figures.ORANGE}
        point = [CLAIM[axis]], [speed_up(**CLAIM)]
        panel.plot(*point, "o", **ring, label="your point", gid=f"speed-up-point-{axis}", clip_on=False)
        panel.set(xscale="log", yscale="log", xlabel=title, ylim=(10.0 ** DECADES[0], 10.0 ** DECADES[-1]))
        panel.set_xticks(ticks, [str(tick) for tick in ticks])
        panel.set_xticks([], minor=True)
        other = f"plane of {CLAIM['plane']} pixels" if axis == "batch" else f"batch of {CLAIM['batch']}"
        panel.set_title(other, gid=f"speed-up-title-{axis}")
    left = axes["batch"]
    left.set_ylabel("speed-up over the GPU")
    left.set_yticks([10.0**k for k in DECADES], [f"{10.0**k:g}" for k in DECADES])
    left.set_yticks([], minor=True)
    for place, label in enumerate(left.get_yticklabels()):
        label.set_gid(f"speed-up-decade-{place}")
    figures.legend(figure)
    figures.settle(figure)
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
        "factor": FACTOR,
        "decades": [DECADES[0], DECADES[-1]],
        "frames": {axis: _frame(panel) for axis, panel in axes.items()},
    }
    return figure, {"name": "speed-up", "controls": controls, "data": data}


def _frame(panel: Axes) -> dict[str, list[float]]:
    """Where a panel lies in the drawing: its x axis from [point, log10 of value] to another, y in points."""
    figure = panel.get_figure(root=True)
    assert figure is not None
    width, height = 72 * figure.get_size_inches()
    box = panel.get_position()
    low, high = np.log10(panel.get_xlim())
    return {
        "x": [box.x0 * width, low, box.x1 * width, high],
        "y": [(1 - box.y0) * height, (1 - box.y1) * height],
    }
