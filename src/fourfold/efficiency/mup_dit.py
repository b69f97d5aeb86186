"""Scaling Diffusion Transformers Efficiently via muP (Zheng et al., arXiv 2505.15270).

The maximal-update parametrisation of a diffusion transformer (DiT, Peebles and Xie, arXiv 2212.09748): which
of its tensors are input, hidden or output, what that does to Adam's learning rate and to the readout, the
check that activations and their changes do not depend on the width, and the sweep of learning rates from
which a rate is transferred. As in the authors' code (ML-GSAI/Scaling-Diffusion-Transformers-muP,
``DiT/models_mup.py``), weights start with variance 1/fan-in whatever the rules, and the readout at zero.

Departures: the network predicts noise only, without a learnt variance, unless ``out_channels`` asks for more;
the running average of the weights is shorter; images are digits instead of latents.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn.functional import gelu, layer_norm, silu

from fourfold import checks, cost

Kind = Literal["input", "hidden", "output"]

FREQUENCIES = 256
"""Length of the sinusoidal code of a time, at every width."""

MLP_RATIO = 4
DDPM_STEPS = 1000
LABEL_DROPOUT = 0.1
BETAS, EPS = (0.9, 0.999), 1e-8

AVERAGE = 0.9
"""Decay of the running average of the weights that is validated; DiT's is 0.9999, for many more steps."""

DIVERGED = 9.0
"""The loss that a run counts with which is no longer finite, or worse than this; predicting 0 has 1."""


# --- the rules ----------------------------------------------------------------------------------------------


class Rules(NamedTuple):
    """Which of muP's rules for Adam are in force; initial variances are muP's in any case."""

    hidden: bool
    """Hidden tensors learn at the rate divided by the width's multiple m."""
    readout: bool
    """The readout's input is divided by m."""


MUP, STANDARD = Rules(True, True), Rules(False, False)


def tensor_kind(shape: Sequence[int], wider: Sequence[int], table: bool = False) -> Kind:
    """The kind of a tensor, from its shapes at two widths (the paper after Tensor Programs V).

    Hidden if two axes grow. One growing axis makes a weight (out, in) an input if it is ``out``, an output
    if it is ``in``; a ``table`` of vectors (entries, dim), a vector, and what does not grow count as input.
    Raises ``ValueError`` for shapes of different length, of more than two axes, or that shrink.
    """
    if len(shape) != len(wider) or len(shape) > 2 or any(a > b for a, b in zip(shape, wider, strict=True)):
        raise ValueError(
            f"wider must be a shape of at most 2 axes that are no shorter than {tuple(shape)}, "
            f"got {tuple(wider)}"
        )
    grows = [a < b for a, b in zip(shape, wider, strict=True)]
    if sum(grows) == 2:
        return "hidden"
    return "output" if grows == [False, True] and not table else "input"


def rate_factor(kind: Kind, multiplier: float, rules: Rules = MUP) -> float:
    """What the learning rate of a tensor is multiplied by at ``multiplier`` times the base width."""
    return 1 / multiplier if kind == "hidden" and rules.hidden else 1.0


class MuReadout(nn.Linear):
    """The last layer, whose input is multiplied by ``scale``: (..., inputs) -> (..., outputs).

    The scale is a buffer, so that networks of an ensemble may differ in it.
    """

    scale: Tensor

    def __init__(self, inputs: int, outputs: int, scale: float):
        super().__init__(inputs, outputs)
        self.register_buffer("scale", torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return super().forward(x * self.scale)


# --- the network --------------------------------------------------------------------------------------------


def time_code(t: Tensor) -> Tensor:
    """Times (batch,) -> (batch, FREQUENCIES): cosines, then sines, of periods 2 pi to 2 pi 10000."""
    half = FREQUENCIES // 2
    angles = t[:, None] * torch.exp(-math.log(10000) * torch.arange(half) / half)
    return torch.cat([angles.cos(), angles.sin()], -1)


def grid_positions(dim: int, side: int) -> Tensor:
    """Fixed positions of a grid, (side^2, dim): sines and cosines of the column, then of the row."""
    omega = 10000.0 ** -(torch.arange(dim // 4) / (dim / 4))
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [place.flatten()[:, None] * omega for place in (columns, rows)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], -1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without weights, then one shift and scale, (batch, dim), for all (batch, tokens, dim)."""
    return layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


class Attention(nn.Module):
    """Self-attention with heads of ``head_dim``: (batch, tokens, dim) -> the same.

    Written out, since torch's fused kernel has no rule for ``vmap``.
    """

    def __init__(self, dim: int, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, dim) -> the same."""
        q, k, v = rearrange(self.qkv(x), "b n (qkv h d) -> qkv b h n d", qkv=3, d=self.head_dim)
        weights = (q @ k.mT * self.head_dim**-0.5).softmax(-1)
        return self.proj(rearrange(weights @ v, "b h n d -> b n (h d)"))


class Block(nn.Module):
    """A DiT block: the condition (batch, dim) shifts, scales and gates attention and MLP (adaLN)."""

    def __init__(self, dim: int, head_dim: int):
        super().__init__()
        self.attention = Attention(dim, head_dim)
        self.fc1, self.fc2 = nn.Linear(dim, MLP_RATIO * dim), nn.Linear(MLP_RATIO * dim, dim)
        self.adaln = nn.Linear(dim, 6 * dim)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(batch, tokens, dim), (batch, dim) -> (batch, tokens, dim)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaln(silu(condition)).chunk(6, -1)
        x = x + gate_a[:, None] * self.attention(modulate(x, shift_a, scale_a))
        hidden = gelu(self.fc1(modulate(x, shift_m, scale_m)), approximate="tanh")
        return x + gate_m[:, None] * self.fc2(hidden)


class DiT(nn.Module):
    """A diffusion transformer that predicts the noise in an image.

    Wider means more heads of the same ``head_dim``. ``base_width`` is the width at which the rules change
    nothing, m = width / base_width, and ``output_mult`` the output multiplier, a hyper-parameter that
    transfers as the rate does. The label table has one more entry, for *no label*.
    Raises ``ValueError`` for a width that is no multiple of 4 or of head_dim, a patch that does not divide
    the size, and sizes < 1.
    """

    positions: Tensor

    def __init__(
        self,
        width: int,
        *,
        head_dim: int,
        depth: int,
        size: int,
        patch: int,
        channels: int,
        classes: int,
        base_width: int,
        rules: Rules = MUP,
        output_mult: float = 1.0,
        out_channels: int | None = None,
    ):
        super().__init__()
        self.config = {
            "head_dim": head_dim, "depth": depth, "size": size, "patch": patch, "channels": channels,
            "classes": classes, "base_width": base_width, "rules": rules, "output_mult": output_mult,
            "out_channels": out_channels,
        }  # fmt: skip
        checks.at_least(1, depth=depth, channels=channels, classes=classes, base_width=base_width)
        checks.finite(above=True, output_mult=output_mult)
        checks.divides(width, "width", head_dim=head_dim)
        checks.divides(size, "size", patch=patch)
        if width % 4:
            raise ValueError(f"width must be a multiple of 4, got {width}")
        self.width, self.patch, self.rules = width, patch, rules
        self.multiplier = width / base_width
        self.embed = nn.Linear(channels * patch**2, width)
        self.time1, self.time2 = nn.Linear(FREQUENCIES, width), nn.Linear(width, width)
        self.labels = nn.Embedding(classes + 1, width)
        self.blocks = nn.ModuleList(Block(width, head_dim) for _ in range(depth))
        self.adaln = nn.Linear(width, 2 * width)
        scale = output_mult / (self.multiplier if rules.readout else 1)
        self.readout = MuReadout(width, (out_channels or channels) * patch**2, scale)
        self.register_buffer("positions", grid_positions(width, size // patch))
        if not self.positions.is_meta:  # where there are no values
            initialize(self)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Noisy images (batch, channels, size, size), times (batch,), labels (batch,) -> noise, as x."""
        rows = x.shape[-2] // self.patch
        patches = rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=self.patch, q=self.patch)
        tokens = self.embed(patches) + self.positions
        condition = self.time2(silu(self.time1(time_code(t).to(x)))) + self.labels(labels)
        for block in self.blocks:
            tokens = block(tokens, condition)
        tokens = self.readout(modulate(tokens, *self.adaln(silu(condition)).chunk(2, -1)))
        return rearrange(tokens, "b (h w) (p q c) -> b c (h p) (w q)", h=rows, p=self.patch, q=self.patch)

    def at(self, width: int) -> "DiT":
        """The same network at another width, with new weights."""
        return DiT(width, **cast(dict[str, Any], self.config))

    def kinds(self) -> dict[str, Kind]:
        """name -> kind of every parameter, from the shapes at this width and at twice it."""
        with torch.device("meta"):
            wider = dict(self.at(2 * self.width).named_parameters())
        return {
            name: tensor_kind(value.shape, wider[name].shape, table=name == "labels.weight")
            for name, value in self.named_parameters()
        }

    def rate_factors(self) -> dict[str, float]:
        """name -> what the learning rate of a parameter is multiplied by, under the network's rules."""
        return {name: rate_factor(kind, self.multiplier, self.rules) for name, kind in self.kinds().items()}


def initialize(net: DiT) -> None:
    """muP's initial weights: normal with variance 1/fan-in, the label table 1, biases and the readout 0."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(std=module.in_features**-0.5)
                module.bias.zero_()
        net.labels.weight.normal_()
        net.readout.weight.zero_()


def initialize_as_published(net: DiT) -> None:
    """The original DiT's: Xavier-uniform, tables and the time's MLP N(0, .02^2), adaLN and the readout 0."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                module.bias.zero_()
        for table in (net.labels, net.time1, net.time2):
            table.weight.normal_(std=0.02)
        for layer in (net.readout, net.adaln, *(cast(Block, block).adaln for block in net.blocks)):
            layer.weight.zero_()


def mup_param_groups(net: DiT, lr: float) -> list[dict[str, Any]]:
    """Parameter groups for ``torch.optim.AdamW``, one for each rate that the network's rules ask for."""
    checks.finite(above=True, lr=lr)
    groups: dict[float, list[Tensor]] = {}
    factors = net.rate_factors()
    for name, value in net.named_parameters():
        groups.setdefault(lr * factors[name], []).append(value)
    return [{"params": values, "lr": rate} for rate, values in groups.items()]


# --- diffusion ----------------------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Noisy images (..., batch, channels, size, size), times and labels (..., batch), the noise in them."""

    noisy: Tensor
    t: Tensor
    labels: Tensor
    noise: Tensor


def ddpm_levels() -> tuple[Tensor, Tensor]:
    """Of each of the 1000 times, what image and noise are multiplied by: betas rise from 1e-4 to 0.02."""
    kept = (1 - torch.linspace(1e-4, 0.02, DDPM_STEPS, dtype=torch.float64)).cumprod(0)
    return kept.sqrt().float(), (1 - kept).sqrt().float()


def noised(images: Tensor, labels: Tensor, generator: torch.Generator) -> Batch:
    """Images (..., channels, size, size) with their labels (...), each at a random time with new noise."""
    t = torch.randint(DDPM_STEPS, labels.shape, generator=generator)
    noise = torch.randn(images.shape, generator=generator)
    signal, level = (values[t][..., None, None, None] for values in ddpm_levels())
    return Batch(signal * images + level * noise, t, labels, noise)


def training_batches(
    images: Tensor, labels: Tensor, steps: int, batch: int, no_label: int, generator: torch.Generator
) -> Batch:
    """Batches for ``steps`` steps, their first axis, drawn with replacement; a tenth loses its label."""
    checks.at_least(1, steps=steps, batch=batch)
    drawn = torch.randint(len(labels), (steps, batch), generator=generator)
    lost = torch.rand(steps, batch, generator=generator) < LABEL_DROPOUT
    return noised(images[drawn], labels[drawn].masked_fill(lost, no_label), generator)


Guess = Literal["one scale", "each pixel", "all pixels"]


def gaussian_loss(images: Tensor, batch: Batch, knows: Guess = "all pixels") -> float:
    """The loss on ``batch`` of the best guess of the noise, had images (n, ...) a normal distribution.

    The lazy lines: a linear system for each time, and nothing trained. What the guess ``knows`` is mean and
    covariance of all pixels, mean and variance of each, or the mean square of all: then it is the noisy
    image times a number that depends on the time.
    """
    x = images.flatten(1).double()
    mean, covariance = x.mean(0), x.T.cov()
    if knows == "each pixel":
        covariance = covariance.diag().diag()
    elif knows == "one scale":
        mean, covariance = torch.zeros_like(mean), x.square().mean() * torch.eye(x.shape[1])
    signal, level = (values[batch.t].double() for values in ddpm_levels())
    spread = signal[:, None, None] ** 2 * covariance + level[:, None, None] ** 2 * torch.eye(x.shape[1])
    centred = batch.noisy.flatten(1) - signal[:, None] * mean
    guess = level[:, None] * torch.linalg.solve(spread, centred)
    return float((guess - batch.noise.flatten(1)).square().mean())


# --- many rates at once -------------------------------------------------------------------------------------


class Run(NamedTuple):
    """What became of an ensemble: validation loss (members, points), after as many ``steps`` (points,)."""

    steps: list[int]
    validation: Tensor
    weights: dict[str, Tensor]

    @property
    def final(self) -> Tensor:
        """The last validation loss of each member, (members,)."""
        return self.validation[:, -1]


def train_ensemble(
    nets: Sequence[DiT], rates: Sequence[float], batches: Batch, validation: Batch, every: int
) -> Run:
    """Train networks of one width at once, each from its own weights with its own rate, rules and readout.

    Adam with a constant rate, without weight decay, on ``batches`` (steps, batch, ...), the same for all; the
    loss on ``validation`` (batch, ...) is that of a running average of the weights, every ``every`` steps and
    after the last.
    Raises ``ValueError`` for no networks, or rates that are not one > 0 each.
    """
    checks.at_least(1, every=every, nets=len(nets))
    if len(rates) != len(nets) or not all(0 < rate < math.inf for rate in rates):
        raise ValueError(f"rates must be one > 0 for each of {len(nets)} networks, got {list(rates)}")
    architecture = nets[0]
    weights, buffers = stack_module_state(list(nets))
    weights = {name: value.detach() for name, value in weights.items()}
    factors = [net.rate_factors() for net in nets]
    speeds = {
        name: torch.tensor([rate * factor[name] for rate, factor in zip(rates, factors, strict=True)])
        .to(value)
        .view(-1, *[1] * (value.ndim - 1))
        for name, value in weights.items()
    }
    average = {name: value.clone() for name, value in weights.items()}
    means, squares = ({name: torch.zeros_like(value) for name, value in weights.items()} for _ in range(2))

    def loss(own: dict[str, Tensor], fixed: dict[str, Tensor], part: Batch) -> Tensor:
        predicted = functional_call(architecture, {**own, **fixed}, (part.noisy, part.t, part.labels))
        return (predicted - part.noise).square().mean()

    gradient = vmap(grad_and_value(loss), in_dims=(0, 0, None))
    check = vmap(loss, in_dims=(0, 0, None))
    points, curve = [], []
    for step, part in enumerate(map(Batch._make, zip(*batches, strict=True)), 1):
        gradients, _ = gradient(weights, buffers, part)
        first, second = (1 - beta**step for beta in BETAS)
        for name, value in weights.items():
            slope = gradients[name]
            means[name].lerp_(slope, 1 - BETAS[0])
            squares[name].mul_(BETAS[1]).addcmul_(slope, slope, value=1 - BETAS[1])
            size = (squares[name] / second).sqrt_().add_(EPS)
            value.addcdiv_(means[name] * (-speeds[name] / first), size)
            average[name].lerp_(value, 1 - AVERAGE)
        if step % every == 0 or step == len(batches.t):
            points.append(step)
            with torch.no_grad():
                curve.append(check(average, buffers, validation))
    found = torch.stack(curve, 1).double().nan_to_num(DIVERGED, DIVERGED).clamp(max=DIVERGED)
    return Run(points, found, weights)


Curves = dict[str, dict[float, list[float]]]
"""recipe -> log2 of the learning rate -> validation losses."""


def sweep(
    nets: Mapping[str, DiT],
    rates: Mapping[str, Sequence[float]],
    batches: Batch,
    validation: Batch,
    every: int,
) -> tuple[list[int], Curves]:
    """Train every recipe at each of its log2 rates, all in one ensemble: (steps of the points, curves)."""
    plan = [(recipe, rate) for recipe in nets for rate in rates[recipe]]
    run = train_ensemble(
        [nets[recipe] for recipe, _ in plan], [2.0**rate for _, rate in plan], batches, validation, every
    )
    curves: Curves = {recipe: {} for recipe in nets}
    for (recipe, rate), curve in zip(plan, run.validation.tolist(), strict=True):
        curves[recipe][rate] = curve
    return run.steps, curves


# --- what a sweep says --------------------------------------------------------------------------------------


def picked_rate(losses: Mapping[float, float], tolerance: float = 0.02) -> float:
    """The smallest log2 rate with a loss within ``tolerance`` of the best: {log2 rate: loss} -> log2 rate."""
    best = min(losses.values())
    return min(rate for rate, loss in losses.items() if loss <= best * (1 + tolerance))


def regret(losses: Mapping[float, float], rate: float) -> float:
    """What a rate costs against the best of the same network: its loss over the least, less 1."""
    return losses[rate] / min(losses.values()) - 1


def steps_to(level: float, steps: Sequence[int], losses: Sequence[float]) -> float:
    """When a curve first falls to ``level``, on straight lines between its points; infinity if never."""
    before: tuple[int, float] | None = None
    for step, loss in zip(steps, losses, strict=True):
        if loss <= level:
            if before is None:
                return float(step)
            then, above = before
            return then + (step - then) * (above - level) / (above - loss)
        before = step, loss
    return math.inf


def speed_up(steps: Sequence[int], losses: Sequence[float], rival: Sequence[float]) -> float:
    """How many times as many steps the rival takes to the loss that both curves reach: their worse end."""
    level = max(losses[-1], rival[-1])
    return steps_to(level, steps, rival) / steps_to(level, steps, losses)


# --- coordinates --------------------------------------------------------------------------------------------


Measure = Literal["size", "change"]


class Coordinate(NamedTuple):
    """Mean absolute entry of a module's output, and of its change since the first step; steps from 1."""

    width: int
    module: str
    step: int
    size: float
    change: float


def coord_check(nets: Sequence[DiT], batch: Batch, lr: float, steps: int) -> Iterator[Coordinate]:
    """Train each network with AdamW on one batch; look at what every linear layer, table and block returns.

    Step 1 sees the initial weights. Trains the networks that it is given.
    """
    checks.at_least(2, steps=steps)
    for net in nets:
        optimizer = torch.optim.AdamW(mup_param_groups(net, lr), betas=BETAS, eps=EPS, weight_decay=0)
        outputs: dict[str, Tensor] = {}

        for name, module in net.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding | Block):
                module.register_forward_hook(partial(_remember, outputs, name))
        first: dict[str, Tensor] = {}
        for step in range(1, steps + 1):
            loss = (net(batch.noisy, batch.t, batch.labels) - batch.noise).square().mean()
            first = first or dict(outputs)
            for name, output in outputs.items():
                change = (output - first[name]).abs().mean()
                yield Coordinate(net.width, name, step, float(output.abs().mean()), float(change))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def _remember(outputs: dict[str, Tensor], name: str, module: nn.Module, given: Any, output: Tensor) -> None:
    outputs[name] = output.detach()


def coord_slopes(found: Sequence[Coordinate], step: int, measure: Measure) -> dict[str, float]:
    """module -> slope of log2 of its size, or of its change, over log2 of the width, at one step."""
    by_module: dict[str, list[tuple[float, float]]] = {}
    for row in found:
        if row.step == step:
            by_module.setdefault(row.module, []).append((row.width, getattr(row, measure)))
    return {module: cost.exponent(*zip(*pairs, strict=True)).slope for module, pairs in by_module.items()}


# --- what it costs ------------------------------------------------------------------------------------------


def dit_param_count(width: int, depth: int, *, patch: int, channels: int, outputs: int, classes: int) -> int:
    """Parameters of ``DiT``: ``18 d^2 + 15 d`` a block, embeddings, the last layer."""
    embeddings = (channels * patch**2 + 1) + (FREQUENCIES + 1) + (width + 1) + (classes + 1)
    last = 2 * (width + 1) * width + (width + 1) * outputs * patch**2
    return depth * (18 * width**2 + 15 * width) + embeddings * width + last


class Budget(NamedTuple):
    """One training run: what one image costs, in any unit, images in a batch, and steps or epochs."""

    cost: float
    batch: float
    length: float


def transfer_cost(trials: int, proxy: Budget, target: Budget) -> float:
    """What ``trials`` runs of the proxy cost, as a share of one run of the target."""
    checks.at_least(1, trials=trials)
    return trials * (proxy.cost / target.cost) * (proxy.batch / target.batch) * (proxy.length / target.length)


PIXART_TEXT, PIXART_DEPTH, T5_DIM = 120, 28, 4096
PIXART_PATCH, PIXART_IN, PIXART_OUT = 2, 4, 8


def pixart_param_count(width: int) -> int:
    """Parameters of PixArt-alpha (arXiv 2310.00426) at another width, its fixed tables not counted."""
    d = width
    block = (4 * d**2 + 4 * d) + (4 * d**2 + 4 * d) + (8 * d**2 + 5 * d) + 6 * d
    around = (PIXART_IN * PIXART_PATCH**2 + 1) * d + (FREQUENCIES + 1) * d + (d + 1) * d + (d + 1) * 6 * d
    text = (T5_DIM + 1) * d + (d + 1) * d
    return PIXART_DEPTH * block + around + text + 2 * d + (d + 1) * PIXART_OUT * PIXART_PATCH**2


def pixart_macs(width: int, tokens: int = 256) -> int:
    """Multiply-accumulates of PixArt-alpha for one image of so many tokens and 120 tokens of text.

    Linear layers and attention, as ``fourfold.cost.macs`` counts; the text's encoder is not part of it.
    """
    d, text = width, PIXART_TEXT
    block = tokens * 4 * d**2 + 2 * tokens**2 * d  # self-attention
    block += tokens * 2 * d**2 + text * 2 * d**2 + 2 * tokens * text * d  # cross-attention
    block += tokens * 8 * d**2
    around = tokens * (PIXART_IN + PIXART_OUT) * PIXART_PATCH**2 * d + FREQUENCIES * d + d**2 + 6 * d**2
    return PIXART_DEPTH * block + around + text * (T5_DIM * d + d**2)
