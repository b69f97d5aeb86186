"""The speed-up of a 4f bench over a GPU, with and without conversion, and the energy of an image on both.

Passes and samples are counted here, by `throughput`, over a grid of planes and batches. The page only
divides: one image takes t = c N / (f B) on the bench (N passes, c per signed product, f frames per second, B
images) and 1 / g on a GPU of g images per second, so the speed-up is f B / (c N g). With conversion at s
samples a second an image takes the longer of t and S / s, with S = F R^2 / B + D, F filters of R x R pixels
for a batch, and D samples on display and camera, whatever the batch. Its energy is S times a sample's.

Sources: Ibadulla, Chen, Reyes-Aldasoro, ConvShareViT (arXiv 2504.11517) for the factor of 3.04. The paper's
abstract names neither GPU nor plane nor batch; `CLAIM` is where our count of passes yields that factor. Rate
and energy of conversion there are those of `throughput.CONVERTER_HZ`, one converter each for display, filter
and camera.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import constants

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
CONVERTERS = (1, 3, 10, 30, 90, 270, 1000, 3000, 5000, 10_000)  # samples/s in all, 10^9
SAMPLES = (0.1, 0.3, 1, 3, 7.4, 10, 30, 100)  # energy of a sample, pJ

# 502 images fill the plane; 2278 images/s are 439 us per image.
CLAIM: dict[str, Any] = {
    "plane": 2160, "rate": 1_000_000, "batch": 502, "gpu": 2278, "converters": 270, "sample": 7.4
}  # fmt: skip
FACTOR = 3.04
GPU_WATTS = 70  # a small card of 2018 (NVIDIA T4, product brief)
PIXEL_J = 1e4 * constants.h * constants.c / 532e-9  # 10 000 photons of 532 nm on a camera's pixel in a pass

# Parameter -> its values, those named on the axis, the axis' title.
PANELS: dict[str, tuple[tuple[int, ...], tuple[int, ...], str]] = {
    "batch": (BATCHES, (1, 4, 16, 64, 256, 1024), "batch, images"),
    "plane": (PLANES, (256, 512, 1080, 2160, 4320, 8192), "side of the plane, pixels"),
}
DECADES = range(-3, 3)
"""Powers of ten on the speed-up's axis; a point beyond moves the frame by whole ones."""
JOULES = (-7, 2)
"""Powers of ten at the ends of the energy's axis, J; whatever is picked lies between."""

# How passes are counted: arguments of `throughput.passes`, name and line in the figure.
WAYS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "mix": ({}, "shared kernels", {"color": figures.BLUE, "linewidth": 2.6}),
    "unshared": ({"shared": False}, "a kernel per token", {"color": figures.VERMILION, "linestyle": "--"}),
    "naive": ({"tiling": "naive"}, "one key a pass", {"color": figures.GREEN, "linestyle": ":"}),
}
CONVERTED = {
    "color": figures.ORANGE,
    "linewidth": 4.5,
    "zorder": 1.9,
}  # below and wider: both show where equal
# Energies of an image, the keys of `joules`: name and line in the figure.
ENERGIES: dict[str, tuple[str, dict[str, Any]]] = {
    "conversion": ("shared kernels, with conversion", CONVERTED),
    "light": ("light, 10 000 photons a pixel", {"color": figures.SKY, "linestyle": "-."}),
    "gpu": (f"a GPU of {GPU_WATTS} W", {"color": figures.GREY, "linewidth": 2.6}),
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


def sample_counts() -> dict[str, Any]:
    """What shared kernels convert: filters written for a batch, and other samples for an image, any batch.

    {"filters": rows `PLANES`, columns `BATCHES`; "samples": one of `PLANES` each}.
    """

    def converted(plane: int, batch: int) -> dict[str, dict[str, int]]:
        return throughput.conversion_samples(SHAPE, throughput.Bench4f(plane, 1.0, SIGN), batch)

    return {
        "filters": [
            [throughput.total_samples(converted(plane, batch), "filter") // plane**2 for batch in BATCHES]
            for plane in PLANES
        ],
        "samples": [throughput.total_samples(converted(plane, 1), "display", "camera") for plane in PLANES],
    }


def speed_up(
    plane: int, rate: float, batch: int, gpu: float, way: str = "mix", converters: float | None = None
) -> float:
    """How many times faster than a GPU of `gpu` images/s a bench is; `plane` in pixels, `rate` in Hz.

    Conversion costs no time, or all `converters` together make as many 10^9 samples/s.
    """
    bench, how = throughput.Bench4f(plane, rate, SIGN), WAYS[way][0]
    if converters is None:
        return 1 / (gpu * throughput.seconds_per_image(SHAPE, bench, batch, **how))
    return 1 / (gpu * throughput.converted_seconds_per_image(SHAPE, bench, batch, 1e9 * converters, **how))


def joules(plane: int, batch: int, gpu: float, sample: float) -> dict[str, float]:
    """Energy of an image, J: conversion at `sample` pJ a sample, light, and a GPU of `GPU_WATTS`."""
    bench = throughput.Bench4f(plane, 1.0, SIGN)
    samples = throughput.total_samples(throughput.conversion_samples(SHAPE, bench, batch))
    frames = throughput.SIGN_PASSES[SIGN] * sum(throughput.passes(SHAPE, bench, batch).values())
    return {
        "conversion": 1e-12 * sample * samples / batch,
        "light": PIXEL_J * frames * plane**2 / batch,
        "gpu": GPU_WATTS / gpu,
    }


def speed_up_figure() -> tuple[Figure, dict[str, Any]]:
    """The interactive figure, standing at `CLAIM`: the drawing, and name, controls and data for `show`.

    Above the speed-up, below the energy of an image; left against the batch, right against the plane.
    `speed_up.js` moves what has an id: curves, levels and the reader's points, the titles and the names of
    the decades. It finds the panels' frames, in points, and the drawing's decades in the data.
    """
    figure, rows = figures.canvas(2, 2, height=6.8, sharex="col", sharey="row")
    free = {name: CLAIM[name] for name in ("plane", "rate", "batch", "gpu")}
    held = free | {"converters": CLAIM["converters"]}
    spent = {name: CLAIM[name] for name in ("plane", "batch", "gpu", "sample")}
    for (axis, (values, ticks, title)), above, below in zip(PANELS.items(), *rows, strict=True):

        def draw(panel: Axes, part: str, xs: Sequence[float], ys: list[float], **look: Any) -> None:
            panel.plot(xs, ys, **look, gid=f"speed-up-{part}")

        for way, (_, name, look) in WAYS.items():
            ys = [speed_up(**(free | {axis: value}), way=way) for value in values]
            draw(above, f"{way}-{axis}", values, ys, label=name, **look)
        ys = [speed_up(**(held | {axis: value})) for value in values]
        draw(above, f"converted-{axis}", values, ys, label=ENERGIES["conversion"][0], **CONVERTED)
        for level, name in ((1.0, "equally fast"), (FACTOR, f"the paper's {FACTOR}")):
            look = {"color": figures.INK, "linewidth": 1, "linestyle": "-" if level == 1 else "--"}
            draw(above, f"level-{level:g}-{axis}", values, [level] * len(values), label=name, **look)
        found = [joules(**(spent | {axis: value})) for value in values]
        for part, (name, look) in ENERGIES.items():
            ys = [energies[part] for energies in found]
            draw(below, f"{part}-{axis}", values, ys, label=name, **look)
        ring = {"marker": "o", "markersize": 12, "markerfacecolor": "none", "markeredgewidth": 2}
        ring |= {"linestyle": "", "color": figures.INK}
        for panel, part, y in (
            (above, "free", speed_up(**free)),
            (above, "point", speed_up(**held)),
            (below, "spent", joules(**spent)["conversion"]),
        ):
            draw(panel, f"{part}-{axis}", [CLAIM[axis]], [y], label="your point", **ring)
        above.set(xscale="log", yscale="log", ylim=(10.0 ** DECADES[0], 10.0 ** DECADES[-1]))
        below.set(xscale="log", yscale="log", ylim=(10.0 ** JOULES[0], 10.0 ** JOULES[1]), xlabel=title)
        below.set_xticks(ticks, [str(tick) for tick in ticks])
        below.set_xticks([], minor=True)
        other = f"plane of {CLAIM['plane']} pixels" if axis == "batch" else f"batch of {CLAIM['batch']}"
        above.set_title(other, gid=f"speed-up-title-{axis}")
    left = rows[0, 0]
    left.set_ylabel("speed-up over the GPU")
    left.set_yticks([10.0**k for k in DECADES], [f"{10.0**k:g}" for k in DECADES])
    for place, label in enumerate(left.get_yticklabels()):
        label.set_gid(f"speed-up-decade-{place}")
    rows[1, 0].set_ylabel("energy of an image")
    rows[1, 0].set_yticks([1e-6, 1e-3, 1.0], ["1 µJ", "1 mJ", "1 J"])
    for panel in rows[:, 0]:
        panel.set_yticks([], minor=True)
    figures.legend(figure)
    figures.settle(figure)
    controls = [
        figures.Control("plane", "Side of the plane", PLANES, CLAIM["plane"], "pixels"),
        figures.Control("rate", "Frame rate of the slowest part", RATES, CLAIM["rate"], "Hz"),
        figures.Control("batch", "Images in a batch", BATCHES, CLAIM["batch"]),
        figures.Control("gpu", "Throughput of the GPU", GPUS, CLAIM["gpu"], "images/s"),
        figures.Control("converters", "Rate of all converters", CONVERTERS, CLAIM["converters"], "GS/s"),
        figures.Control("sample", "Energy of a sample", SAMPLES, CLAIM["sample"], "pJ"),
    ]
    data = {
        "planes": PLANES,
        "batches": BATCHES,
        "passesPerProduct": throughput.SIGN_PASSES[SIGN],
        "passes": pass_counts(),
        **sample_counts(),
        "pixelJoules": PIXEL_J,
        "gpuWatts": GPU_WATTS,
        "factor": FACTOR,
        "decades": [DECADES[0], DECADES[-1]],
        "joules": JOULES,
        "frames": {
            row: {axis: _frame(panel) for axis, panel in zip(PANELS, panels, strict=True)}
            for row, panels in zip(("speed", "energy"), rows, strict=True)
        },
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
