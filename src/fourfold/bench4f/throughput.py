"""Passes of light that a network takes on a 4f bench, the samples that they convert, and the time of both.

Sources: Ibadulla, Chen, Reyes-Aldasoro, ConvShareViT (arXiv 2504.11517) for shared kernels and FatNet (arXiv
2210.16914) for the timing rule; Meech, Tsoutsouras, Stanley-Marbell (arXiv 2308.01719) for why conversion
counts. The counts are derived here; grouped attention is our extension, not theirs.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from fourfold import checks
from fourfold.bench4f import light

TILINGS = ("naive", "mix", "grouped")
FILTERS = ("spectrum", "impulse")

# Frames per second of the slowest part. paper: implied by FatNet's table; dmd: micromirrors with 2 megapixels
# (Miscuglio et al., Optica 7, 1812, 2020); slm: overdriven nematic liquid crystal, 1 ms a change (Optics
# Express 21, 1779, 2013), where ordinary ones follow the 60 Hz of video and are 17 times slower.
RATES = {"paper": 1e6, "dmd": 1e4, "slm": 1e3}

# Passes for one signed product. pm: kernel split into k+ and k-, input non-negative; pm_signed: input split
# too; offset: both raised by constants, undone in electronics, as <x + c, K> = <x, K> + c sum(K).
SIGN_PASSES = {"pm": 2, "pm_signed": 4, "offset": 1}

# Samples a second and joules a sample of an 8-bit converter of 90 GS/s and 667 mW (Kull et al., ISSCC 2014).
CONVERTER_HZ, CONVERTER_J = 90e9, 0.667 / 90e9

# (C_in, C_out) of the convolutions in FatNet's timing table; FatNet's last layer, 155 -> 1, is not counted.
RESNET18_CHANNELS = (
    ((3, 64),) + ((64, 64),) * 4 + ((64, 128),) + ((128, 128),) * 3
    + ((128, 256),) + ((256, 256),) * 3 + ((256, 512),) + ((512, 512),) * 3
)  # fmt: skip
FATNET_CHANNELS = (
    ((3, 64),) + ((64, 64),) * 4 + ((64, 82),) + ((82, 82),) * 3
    + ((82, 78),) + ((78, 78),) * 3 + ((78, 151), (151, 155), (155, 151), (151, 155))
)  # fmt: skip


@dataclass(frozen=True)
class ViTShape:
    """Sizes of a vision transformer. ValueError for a size below 1 or heads that do not divide dim."""

    tokens: int  # T, the class token included
    dim: int  # d, written as p x p images
    depth: int  # L
    heads: int  # H
    mlp_ratio: int  # r, hidden width over dim

    def __post_init__(self) -> None:
        """Reject sizes that no transformer has."""
        checks.at_least(1, **asdict(self))
        checks.divides(self.dim, "dim", heads=self.heads)

    @property
    def pitch(self) -> int:
        """Side p of a token image, pixels."""
        return light.token_side(self.dim)

    @property
    def head_pitch(self) -> int:
        """Side p_h of one head's part of a token, pixels."""
        return light.token_side(self.dim // self.heads)


@dataclass(frozen=True)
class Bench4f:
    """A bench: plane in pixels, rate of its slowest part, sign method. ValueError for values out of range."""

    plane: int  # R
    frame_hz: float  # f, see RATES
    sign: str = "pm"  # c, see SIGN_PASSES
    layer_latency_s: float = 0.0  # electronics between light passes, once per block and batch

    def __post_init__(self) -> None:
        """Reject what no bench can be."""
        checks.at_least(1, plane=self.plane)
        checks.finite(above=True, frame_hz=self.frame_hz)
        checks.one_of(tuple(SIGN_PASSES), sign=self.sign)
        checks.finite(layer_latency_s=self.layer_latency_s)


def group_size(shape: ViTShape, plane: int) -> int:
    """Attention problems that can share a pass, g = floor(sqrt(n_h) / T), at least 1. Our extension.

    g T queries meet g T keys; products across problems are computed and thrown away.
    """
    return max(1, light.lattice_side(plane, shape.head_pitch) // shape.tokens)


def passes(
    shape: ViTShape, bench: Bench4f, batch: int, tiling: str = "mix", shared: bool = True
) -> dict[str, int]:
    """Passes of one batch through all blocks, {"static", "scores", "values"}, before the sign factor.

    static: L (4 + 2r) d ceil(T B / n), always batch tiling (q, k, v, projection, MLP up; MLP down counted as
    r d tile jobs), or T L (4 + 2r) d ceil(B / n) if each token has its own kernels. scores (q k^T) and values
    (A v) meet new kernels in each image and head, B L H problems: T passes each if naive (T <= n_h), one if
    mix (T^2 <= n_h), one for `group_size` of them if grouped; smaller planes need more, `linear_passes`.
    Derived. ValueError for batch < 1, an unknown tiling or a plane smaller than one tile.
    """
    checks.at_least(1, batch=batch)
    checks.one_of(TILINGS, tiling=tiling)
    mode = "batch" if tiling == "naive" else "mix"
    group = group_size(shape, bench.plane) if tiling == "grouped" else 1
    images, repeats = (shape.tokens * batch, 1) if shared else (batch, shape.tokens)
    layer = repeats * light.linear_passes(images, shape.dim, bench.plane, shape.pitch)
    tokens = group * shape.tokens
    problem = light.linear_passes(tokens, tokens, bench.plane, shape.head_pitch, mode)
    dynamic = shape.depth * -(-batch * shape.heads // group) * problem
    return {"static": shape.depth * (4 + 2 * shape.mlp_ratio) * layer, "scores": dynamic, "values": dynamic}


def seconds_per_image(
    shape: ViTShape, bench: Bench4f, batch: int, tiling: str = "mix", shared: bool = True
) -> float:
    """Seconds per image, (c N / f + L latency) / B, N of `passes`, c of `SIGN_PASSES` (FatNet's rule)."""
    frames = SIGN_PASSES[bench.sign] * sum(passes(shape, bench, batch, tiling, shared).values())
    return (frames / bench.frame_hz + shape.depth * bench.layer_latency_s) / batch


def conversion_samples(
    shape: ViTShape,
    bench: Bench4f,
    batch: int,
    tiling: str = "mix",
    shared: bool = True,
    filters: str = "spectrum",
) -> dict[str, dict[str, int]]:
    """Samples that a batch converts in all blocks: for each layer {"display", "filter", "camera"}. Derived.

    The layers are qkv (together), projection, mlp_up, mlp_down, scores and values. Display and filter take
    digital to analog, the camera back. Only what must be counts: pixels of the display that hold a token and
    pixels of the camera that are read, one sample each. With N of `passes`, c of `SIGN_PASSES`, T B tokens:

    display: L T B d for each vector that a layer takes in, r for mlp_down, else 1; twice if the input is
    split (pm_signed). An image stays while kernels and their signs change; scores have the queries as image.
    filter: c N R^2. In the Fourier plane it shows the spectrum of its kernels, of which no pixel is dark; a
    pixel holds a complex number and counts once. With ``filters`` "impulse" a lens makes that spectrum, and
    only the kernels' own numbers are written: c times d for each pass of a static layer, c L T B G d for
    scores, c L T B H T for values.
    In values the filter, attention's weights, has no sign: it stays while the display shows v+ and v-, which
    counts the display twice and the filter half, unless a product takes one pass (offset).
    camera: c L T B times the kernels of a layer, H T for scores and G d for values, since partial sums are
    read from each of the G planes that a problem's tokens take (`light.token_groups`).

    ValueError for what `passes` refuses, or unknown filters.
    """
    checks.one_of(FILTERS, filters=filters)
    counted = passes(shape, bench, batch, tiling, shared)
    signs, r, d = SIGN_PASSES[bench.sign], shape.mlp_ratio, shape.dim
    tokens = shape.depth * batch * shape.tokens  # L T B
    mode = "batch" if tiling == "naive" else "mix"
    groups = light.token_groups(shape.tokens, shape.tokens, bench.plane, shape.head_pitch, mode)
    scores = shape.heads * shape.tokens
    square = counted["static"] // (4 + 2 * r)  # passes of a layer of d -> d, in all blocks

    def layer(shows: int, vectors: int, used: int, written: int, read: int) -> dict[str, int]:
        """Shows of a vector, vectors in, passes, numbers of their kernels, numbers out per token."""
        return {
            "display": shows * tokens * vectors * d,
            "filter": signs * (used * bench.plane**2 if filters == "spectrum" else written),
            "camera": signs * tokens * read,
        }

    shows = 2 if bench.sign == "pm_signed" else 1
    layers = {
        name: layer(shows, vectors, squares * square, squares * square * d, squares * d)
        for name, vectors, squares in (
            ("qkv", 1, 3),
            ("projection", 1, 1),
            ("mlp_up", 1, r),
            ("mlp_down", r, r),
        )
    }
    layers["scores"] = layer(shows, 1, counted["scores"], tokens * groups * d, scores)
    both = min(signs, 2)  # v+ and v- meet the same filter
    values = layer(both, 1, counted["values"], tokens * scores, groups * d)
    layers["values"] = values | {"filter": values["filter"] // both}
    return layers


def total_samples(layers: dict[str, dict[str, int]], *parts: str) -> int:
    """Samples of `conversion_samples` over all layers, of some parts of the bench or of all."""
    return sum(of[part] for of in layers.values() for part in parts or of)


def converted_seconds_per_image(
    shape: ViTShape,
    bench: Bench4f,
    batch: int,
    sample_hz: float,
    tiling: str = "mix",
    shared: bool = True,
    filters: str = "spectrum",
) -> float:
    """Seconds per image if all converters together make ``sample_hz`` samples a second.

    The longer of `seconds_per_image` and of the conversion of `conversion_samples`: the bench's favour, since
    conversion hides behind light entirely and spreads evenly over all passes. ValueError for sample_hz <= 0.
    """
    checks.finite(above=True, sample_hz=sample_hz)
    samples = total_samples(conversion_samples(shape, bench, batch, tiling, shared, filters))
    return max(seconds_per_image(shape, bench, batch, tiling, shared), samples / (sample_hz * batch))


def convolution_count(channels: Iterable[tuple[int, int]]) -> int:
    """Two-dimensional convolutions of a network, the sum of C_in C_out over its layers (FatNet)."""
    return sum(c_in * c_out for c_in, c_out in channels)


def fatnet_seconds(convolutions: int, batch: int, frame_hz: float = RATES["paper"]) -> float:
    """Optical seconds per image of FatNet's timing table, 2 N / (f B), two passes for the sign.

    The table agrees at 1 MHz; at 2 MHz, which a digest of the paper states, the factor would be 4 and not 2.
    ValueError for a batch beyond 1..3136 = floor(2160 / (32 + 7 - 1))^2, its full plane, or frame_hz <= 0.
    """
    checks.between(1, light.capacity(2160, 32 + 7 - 1), "FatNet's tiles on a 4K plane", batch=batch)
    checks.finite(above=True, frame_hz=frame_hz)
    return SIGN_PASSES["pm"] * convolutions / (frame_hz * batch)
