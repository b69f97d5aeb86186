"""Raptor: the blocks of a trained vision transformer, replayed by a few tied blocks.

Jacobs, Fel, Hakim, Brondetta, Ba and Keller, "Block-Recurrent Dynamics in Vision Transformers", arXiv
2512.19941, ICLR 2026. Details were read in the official repository (KempnerInstitute/raptor), which has the
part on foundation models; the code here is written anew.

Implemented: the search for contiguous phases of depth by dynamic programming, and the repository's bisection;
the Raptor block with its depth scaling, its roll-out and its training; the measures of depth as a dynamical
system: convergence, angular speed, coherence, rank of updates, class basins, self-correction. Beside them the
nulls that each is held against.

Departures. Blocks are fitted jointly over the full depth from the start (stage 2; stage 1, each block alone
on its phase, is skipped). There are no register tokens, so class and patches weigh one half each. The loss is
divided by the variance of each layer's states. LayerScale starts at 0.1 where the paper's 1e-5 would need
more steps than there are; gradients are not clipped. Stochastic depth drops whole blocks. The chapter fits
tied blocks with plain MLPs, and its transformers' positions start at 0.3.

States are (batch, depth + 1, tokens, dim): the embedding, then what each block returns, before the final
norm. The class token is the first. Layers are counted from 1, as the blocks are.
"""

import math
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, silu

from fourfold import checks, training
from fourfold.attention import EPS, MLP, Attention

Schedule = Literal["anneal", "tf", "ar"]
"""Teacher forcing that gives way to free runs, teacher forcing alone, free runs alone."""

# --- phases of depth --------------------------------------------------------------------------------------


def features(states: Tensor) -> Tensor:
    """Class token and mean patch: (..., tokens, dim) -> (..., 2, dim)."""
    return torch.stack([states[..., 0, :], states[..., 1:, :].mean(-2)], -2)


def layer_distance(layers: Tensor) -> Tensor:
    """Mean of 1 - cosine between layers, over images and over class token and mean patch.

    ``layers``: features (batch, depth, 2, dim). Returns (depth, depth), float64.
    """
    unit = normalize(layers.double(), dim=-1)
    return 1 - torch.einsum("bifd,bjfd->ij", unit, unit) / (len(unit) * unit.shape[2])


def linear_cka(layers: Tensor) -> Tensor:
    """Linear CKA (Kornblith et al., arXiv 1905.00414): (batch, depth, 2, dim) -> (depth, depth)."""
    centred = layers.double().flatten(2).transpose(0, 1)
    centred = centred - centred.mean(1, keepdim=True)
    grams = (centred @ centred.mT).flatten(1)
    unit = normalize(grams, dim=-1)
    return unit @ unit.mT


def toeplitz_null(distance: Tensor) -> Tensor:
    """Every diagonal replaced by its mean: a smooth drift over depth, without phases. (depth, depth)."""
    depth, null = len(distance), torch.zeros_like(distance)
    for offset in range(-depth + 1, depth):
        diagonal = torch.diagonal(distance, offset)
        null += torch.diag(diagonal.mean().expand(len(diagonal)), offset)
    return null


def within_cost(distance: Tensor, ends: Sequence[int]) -> float:
    """Sum of the distances of all pairs of layers within a phase; ``ends``: the last layer of each phase."""
    _ends(ends, len(distance))
    phases = pairwise([0, *ends])
    return float(sum(torch.triu(distance[a:b, a:b], 1).sum() for a, b in phases))


def within_ratio(distance: Tensor, ends: Sequence[int]) -> float:
    """Mean distance of layers within a phase over that of all layers; nan where no phase has a pair."""
    _ends(ends, len(distance))
    pairs = sum(math.comb(b - a, 2) for a, b in pairwise([0, *ends]))
    whole = within_cost(distance, [len(distance)]) / math.comb(len(distance), 2)
    return within_cost(distance, ends) / pairs / whole if pairs else math.nan


def contiguous_maxcut(distance: Tensor, k: int, min_size: int = 1) -> tuple[int, ...]:
    """The ends of the k phases between which the distances are largest, by dynamic programming.

    Most between is least within: ``D(s, j) = min over i of D(s - 1, i) + within(i, j)``. Raises
    ``ValueError`` unless ``distance`` is square and has room for k phases of ``min_size`` layers.
    """
    depth = len(distance)
    if distance.shape != (depth, depth):
        raise ValueError(f"distance must be square, got {tuple(distance.shape)}")
    checks.at_least(1, min_size=min_size)
    checks.between(1, depth // min_size, f"{depth} layers, at least {min_size} a phase", k=k)
    within = {
        (i, j): float(torch.triu(distance[i:j, i:j], 1).sum())
        for i in range(depth)
        for j in range(i + min_size, depth + 1)
    }
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for _ in range(k):
        best = {
            j: min((best[i][0] + within[i, j], (*best[i][1], j)) for i in best if (i, j) in within)
            for j in range(1, depth + 1)
            if any((i, j) in within for i in best)
        }
    return best[depth][1]


def recursive_maxcut(distance: Tensor, eps: float, min_size: int = 2) -> tuple[int, ...]:
    """The repository's search: halve every part at its best cut while that gains ``eps`` of the whole weight.

    Here a cut leaves both halves contiguous, which the repository does not force; a part is cut at its own
    gain. Raises ``ValueError`` for ``eps`` below 0 or a part of less than one layer.
    """
    checks.finite(eps=eps)
    checks.at_least(1, min_size=min_size)
    whole = within_cost(distance, [len(distance)])

    def cut(a: int, b: int) -> tuple[int, ...]:
        gains = {m: float(distance[a:m, m:b].sum()) for m in range(a + min_size, b - min_size + 1)}
        if not gains or max(gains.values()) < eps * whole:
            return (b,)
        middle = max(gains, key=lambda m: gains[m])
        return cut(a, middle) + cut(middle, b)

    return cut(0, len(distance))


def phase_gap(distance: Tensor, k: int, ends: Sequence[int] | None = None) -> float:
    """By how much the ratio of the best k phases, or of those given, is below the Toeplitz null's best."""
    null = toeplitz_null(distance)
    found = contiguous_maxcut(distance, k) if ends is None else ends
    return within_ratio(null, contiguous_maxcut(null, k)) - within_ratio(distance, found)


def equal_ends(depth: int, k: int) -> tuple[int, ...]:
    """The ends of k phases of equal length, as nearly as can be; ``ValueError`` unless 1 <= k <= depth."""
    checks.between(1, depth, "the depth", k=k)
    return tuple(round(depth * (i + 1) / k) for i in range(k))


def planted(
    depth: int, ends: Sequence[int], near: float, far: float, noise: float, generator: torch.Generator | None
) -> Tensor:
    """A distance with known phases: ``near`` within, ``far`` between, normal noise; (depth, depth)."""
    _ends(ends, depth)
    phase = torch.tensor([_phase(ends, layer) for layer in range(1, depth + 1)])
    clean = torch.where(phase[:, None] == phase, near, far).double()
    drawn = noise * torch.randn(depth, depth, generator=generator, dtype=torch.float64)
    upper = torch.triu(clean + drawn, 1)
    return upper + upper.mT


class Search(NamedTuple):
    """How the search fares on planted phases."""

    excess: float
    """Of its cost over the least of all partitions into two to four phases, the largest."""
    found: int
    """Distances whose three planted phases it finds."""
    equal: int
    """Distances whose three planted phases are the equal ones."""


def search_planted(draws: int, depth: int, generator: torch.Generator) -> Search:
    """Ask for three phases of two layers or more, drawn at random: .05 within, .55 between, noise .1."""
    partitions = {k: [(*cut, depth) for cut in combinations(range(1, depth), k - 1)] for k in (2, 3, 4)}
    long = [ends for ends in partitions[3] if min(b - a for a, b in pairwise([0, *ends])) > 1]
    excess, found, equal = 0.0, 0, 0
    for _ in range(draws):
        ends = long[int(torch.randint(len(long), (), generator=generator))]
        distance = planted(depth, ends, 0.05, 0.55, 0.1, generator)
        for k, candidates in partitions.items():
            least = min(within_cost(distance, each) for each in candidates)
            excess = max(excess, within_cost(distance, contiguous_maxcut(distance, k)) - least)
        found += contiguous_maxcut(distance, 3) == ends
        equal += equal_ends(depth, 3) == ends
    return Search(excess, found, equal)


def _phase(ends: Sequence[int], layer: int) -> int:
    """The phase that applies at a layer, from 0: the first that ends there or later."""
    return next(index for index, end in enumerate(ends) if end >= layer)


def _ends(ends: Sequence[int], depth: int) -> None:
    if not ends or ends[-1] != depth or any(a >= b for a, b in pairwise([0, *ends])):
        raise ValueError(f"ends must rise from >= 1 to the depth, {depth}, got {list(ends)}")


# --- blocks and networks ----------------------------------------------------------------------------------


class SwiGLU(nn.Module):
    """``down(silu(u) * v)``, u and v the halves of one linear layer to twice the hidden size."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.up, self.down = nn.Linear(dim, 2 * hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., tokens, dim) -> the same shape."""
        gate, value = self.up(x).chunk(2, -1)
        return self.down(silu(gate) * value)


MLPS: dict[str, Callable[[int, int], nn.Module]] = {"swiglu": SwiGLU, "gelu": MLP}


class Block(nn.Module):
    """A transformer's block with LayerScale, which the teachers here leave out (``init=None``).

    Raises ``ValueError`` for heads that do not divide ``dim``, an unknown MLP and an ``init`` not > 0.
    """

    def __init__(
        self, dim: int, heads: int, mlp: str = "gelu", mlp_ratio: int = 4, init: float | None = None
    ):
        super().__init__()
        checks.at_least(1, dim=dim, mlp_ratio=mlp_ratio)
        checks.one_of(MLPS, mlp=mlp)
        if init is not None:
            checks.finite(above=True, init=init)
        self.norm1, self.norm2 = nn.LayerNorm(dim, EPS), nn.LayerNorm(dim, EPS)
        self.attention = Attention(dim, heads)
        self.mlp = MLPS[mlp](dim, mlp_ratio * dim)
        scales = 1.0 if init is None else nn.Parameter(torch.full((2, dim), init))
        self.scales = scales

    def forward(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        """(..., tokens, dim) -> the same shape; ``gain``, (3, ..., 1, dim), scales branches and result."""
        one, two = (self.scales, self.scales) if isinstance(self.scales, float) else self.scales
        if gain is not None:
            one, two = one * gain[0], two * gain[1]
        x = x + one * self.attention(self.norm1(x))[0]
        x = x + two * self.mlp(self.norm2(x))
        return x if gain is None else gain[2] * x


class RaptorBlock(Block):
    """A block that is applied at many layers, and told at which one by its depth scaling.

    ``1 + W2 silu(W1 t)``, with t the layer's number, scales both branches and the result, channel by channel.
    With ``depth_scale=False`` the block is the same at every layer.
    """

    HIDDEN = 16

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp: str = "swiglu",
        mlp_ratio: int = 4,
        depth_scale: bool = True,
        init: float | None = 1e-5,
    ):
        super().__init__(dim, heads, mlp, mlp_ratio, init)
        self.depth = None
        if depth_scale:
            self.depth = nn.Sequential(nn.Linear(1, self.HIDDEN), nn.SiLU(), nn.Linear(self.HIDDEN, 3 * dim))
            for value in self.depth[2].parameters():
                nn.init.normal_(value, std=1e-4)

    def forward(self, x: Tensor, t: Tensor | int) -> Tensor:  # type: ignore[override]
        """(batch, tokens, dim) at layer t, one for all or one an image, (batch,) -> the same shape."""
        if self.depth is None:
            return super().forward(x)
        layer = torch.as_tensor(t, dtype=x.dtype, device=x.device).reshape(-1, 1)
        gain = 1 + self.depth(layer).unflatten(-1, (3, 1, -1))
        return super().forward(x, gain.transpose(0, 1))


class Raptor(nn.Module):
    """k tied blocks: the j-th is applied from the layer behind the end of phase j - 1 to the end of phase j.

    Raises ``ValueError`` unless ``ends`` rise and there is one for each block.
    """

    def __init__(self, blocks: Sequence[nn.Module], ends: Sequence[int]):
        super().__init__()
        _ends(ends, ends[-1] if ends else 0)
        if len(blocks) != len(ends):
            raise ValueError(f"ends must be one for each of {len(blocks)} blocks, got {list(ends)}")
        self.blocks, self.ends = nn.ModuleList(blocks), tuple(ends)

    def rollout(self, x: Tensor) -> Tensor:
        """From the embedding alone: (batch, tokens, dim) -> states (batch, depth, tokens, dim)."""
        states = []
        for t in range(1, self.ends[-1] + 1):
            x = self.blocks[_phase(self.ends, t)](x, t)
            states.append(x)
        return torch.stack(states, 1)

    def forced(self, states: Tensor) -> Tensor:
        """One step from each of the teacher's states: (batch, depth + 1, ...) -> (batch, depth, ...)."""
        parts = []
        for block, (a, b) in zip(self.blocks, pairwise([0, *self.ends]), strict=True):
            x, t = states[:, a:b].flatten(0, 1), torch.arange(a + 1, b + 1).repeat(len(states))
            parts.append(block(x, t).unflatten(0, (len(states), b - a)))
        return torch.cat(parts, 1)

    forward = rollout


class VisionTransformer(nn.Module):
    """The teacher: patches, class token, blocks, and a read-out of class token and mean patch.

    Blocks have no LayerScale. ``drop``: the rate at which training drops each block for an image, its
    survivors scaled up; `stochastic_depth` makes the usual one. ``generator`` draws what is dropped. Raises
    ``ValueError`` for sizes that do not fit and for rates that are not one in [0, 1) for each block.
    """

    def __init__(
        self,
        *,
        side: int = 8,
        patch: tuple[int, int] = (4, 2),
        dim: int = 32,
        depth: int = 8,
        heads: int = 4,
        mlp_ratio: int = 4,
        classes: int = 10,
        drop: Sequence[float] | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        checks.at_least(1, dim=dim, depth=depth, classes=classes)
        checks.divides(side, "the image's side", **{"patch height": patch[0], "patch width": patch[1]})
        self.drop = (0.0,) * depth if drop is None else tuple(drop)
        if len(self.drop) != depth or not all(0 <= rate < 1 for rate in self.drop):
            raise ValueError(f"drop must be a rate in [0, 1) for each of {depth} blocks, got {self.drop}")
        if any(self.drop) and generator is None:
            raise ValueError("drop needs a generator, got None")
        self.generator = generator
        self.patches = nn.Conv2d(1, dim, patch, patch)
        # At the usual 0.02 places are told apart only after a hundred steps, most of what there is.
        self.cls = nn.Parameter(0.3 * torch.randn(dim))
        self.positions = nn.Parameter(0.3 * torch.randn(side**2 // (patch[0] * patch[1]) + 1, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, "gelu", mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, EPS)
        self.head = nn.Linear(2 * dim, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, side, side) -> logits (batch, classes)."""
        x = self.embed(images)
        for block, rate in zip(self.blocks, self.drop, strict=True):
            after = block(x)
            if self.training and rate:
                kept = torch.rand(len(x), 1, 1, generator=self.generator) >= rate
                after = x + (after - x) * kept / (1 - rate)
            x = after
        return self.classify(x)

    def embed(self, images: Tensor) -> Tensor:
        """(batch, side, side) -> tokens (batch, tokens, dim), the class token first."""
        x = self.patches(images[:, None]).flatten(2).mT
        return torch.cat([self.cls.expand(len(x), 1, -1), x], 1) + self.positions

    def classify(self, x: Tensor) -> Tensor:
        """A last state (..., tokens, dim) -> logits (..., classes)."""
        return self.head(features(self.norm(x)).flatten(-2))


def stochastic_depth(depth: int, rate: float) -> tuple[float, ...]:
    """Rates that rise linearly from 0 at the first block to ``rate`` at the last, which is in [0, 1).

    Raises ``ValueError`` for another rate.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate must be in [0, 1), got {rate}")
    return tuple(rate * index / max(depth - 1, 1) for index in range(depth))


PUBLISHED = {2: (7, 12), 3: (7, 10, 12), 4: (4, 7, 10, 12)}
"""The ends of the phases that the repository has for DINOv2-B, by the number of blocks."""


def published(k: int, mlp: str = "swiglu") -> Raptor:
    """The published k tied blocks for DINOv2-B. Raises ``ValueError`` for a k that was not published."""
    if k not in PUBLISHED:
        raise ValueError(f"k must be one of {', '.join(map(str, PUBLISHED))}, got {k}")
    return Raptor([RaptorBlock(768, 12, mlp) for _ in range(k)], PUBLISHED[k])


def dinov2_base(mlp: str = "gelu") -> nn.Sequential:
    """The twelve blocks of DINOv2-B; or twelve untied ones with the published Raptors' MLP."""
    return nn.Sequential(*(Block(768, 12, mlp, init=1e-5) for _ in range(12)))


@torch.no_grad()
def collect_states(vit: Any, x: Tensor, disturb: tuple[int, Tensor] | None = None) -> Tensor:
    """All hidden states, in evaluation mode: images (batch, ...) -> (batch, depth + 1, tokens, dim).

    ``vit`` has ``embed`` and ``blocks``. ``disturb``: a layer, and what is added to its state, (batch,
    tokens, dim).
    """
    vit.eval()
    states = [vit.embed(x)]
    for layer in range(len(vit.blocks) + 1):
        if layer:
            states.append(vit.blocks[layer - 1](states[-1]))
        if disturb is not None and disturb[0] == layer:
            states[-1] = states[-1] + disturb[1]
    return torch.stack(states, 1)


# --- fitting ----------------------------------------------------------------------------------------------


class Replay(nn.Module):
    """What Raptor is trained on: states -> the error of its replay, a number an image.

    ``share``: the weight of teacher forcing beside the free run. ``last_only`` compares the last state alone.
    Class token and patches weigh one half each; errors are divided by ``variance``, (depth,).
    """

    def __init__(self, raptor: Raptor, variance: Sequence[float], last_only: bool = False):
        super().__init__()
        self.raptor, self.variance, self.last_only = raptor, tuple(variance), last_only
        self.share = 0.0

    def forward(self, states: Tensor) -> Tensor:
        """(batch, depth + 1, tokens, dim) -> (batch,)."""
        error = torch.zeros(())
        if self.share < 1:
            error = error + (1 - self.share) * self._error(self.raptor.rollout(states[:, 0]), states)
        if self.share > 0:
            error = error + self.share * self._error(self.raptor.forced(states), states)
        return error

    def _error(self, replayed: Tensor, states: Tensor) -> Tensor:
        wanted = states[:, 1:]
        if self.last_only:
            replayed, wanted = replayed[:, -1:], wanted[:, -1:]
        square = (replayed - wanted).square().mean(-1)
        both = (square[..., 0] + square[..., 1:].mean(-1)) / 2
        return (both / torch.tensor(self.variance[-both.shape[1] :])).mean(-1)


def forced_share(step: int, steps: int, schedule: Schedule, anneal: float = 0.25) -> float:
    """The weight of teacher forcing at a step; ``anneal``: the share of the steps in which it falls to 0."""
    checks.one_of(get_args(Schedule), schedule=schedule)
    if schedule != "anneal":
        return float(schedule == "tf")
    if not 0 <= anneal <= 1:
        raise ValueError(f"anneal must be in [0, 1], got {anneal}")
    return max(0.0, 1 - step / (anneal * steps)) if anneal else 0.0


def fit_raptor(
    make: Callable[[], Raptor],
    states: Tensor,
    seed: int,
    recipe: training.Recipe,
    *,
    schedule: Schedule = "anneal",
    anneal: float = 0.25,
    last_only: bool = False,
) -> Raptor:
    """Train ``make()``, started from a seed, to replay states (batch, depth + 1, tokens, dim)."""
    variance = states[:, 1:].double().var((0, 2), correction=0).mean(-1).tolist()
    steps = recipe.epochs * -(-len(states) // recipe.batch)

    def each_step(model: Any, step: int) -> None:
        model.share = 0.0 if last_only else forced_share(step, steps, schedule, anneal)

    nothing = torch.zeros(len(states))
    trained: Any = training.train(
        lambda: Replay(make(), variance, last_only),
        (seed,),
        training.shuffled(states, nothing),
        (states[None, :1], nothing[None, :1]),
        recipe,
        loss=lambda error, _: error.mean(),
        score=lambda error, _: error.mean(-1),
        together=False,
        each_step=each_step,
    ).member(0)
    return trained.raptor


def probe_accuracy(
    norm: nn.Module, learnt: Tensor, labels: Tensor, unseen: Tensor, unseen_labels: Tensor
) -> float:
    """Accuracy of logistic regression on class token and mean patch of normed states (batch, tokens, dim).

    It is fitted on ``learnt`` and ``labels``, and asked on the others.
    """
    # Importing scikit-learn takes a second, which readers of the rest should not wait.
    from sklearn.linear_model import LogisticRegression

    with torch.no_grad():
        inputs, asked = (features(norm(each)).flatten(1).numpy() for each in (learnt, unseen))
    model = LogisticRegression(max_iter=2000).fit(inputs, labels.numpy())
    return float(model.score(asked, unseen_labels.numpy()))


@torch.no_grad()
def replay(raptor: Raptor, states: Tensor) -> Tensor:
    """States with all but the embedding replayed from it: (batch, depth + 1, tokens, dim)."""
    return torch.cat([states[:, :1], raptor.rollout(states[:, 0])], 1)


def linear_replay(train: Tensor, states: Tensor, ends: Sequence[int] | None = None) -> Tensor:
    """The replay of an affine map a layer, or with ``ends`` a tied one a phase, by least squares on steps.

    The map is the same for every token. ``train`` and ``states``: (batch, depth + 1, tokens, dim), and so
    is what is returned, from the first state of ``states`` on.
    """
    depth = train.shape[1] - 1
    maps = []
    for a, b in pairwise([0, *(range(1, depth + 1) if ends is None else ends)]):
        before, after = (train[:, a + i : b + i].flatten(0, 2).double() for i in (0, 1))
        maps += [torch.linalg.lstsq(_with_one(before), after, driver="gelsd").solution] * (b - a)
    replayed = [states[:, 0].double()]
    for matrix in maps:
        replayed.append(_with_one(replayed[-1]) @ matrix)
    return torch.stack(replayed, 1)


def ridge_replay(train: Tensor, states: Tensor, ridge: float = 1e-2) -> Tensor:
    """The replay of a linear map from the whole embedding to each state, all tokens at once.

    By ridge regression; ``ridge``: the penalty over the mean square of the inputs. ``train`` and ``states``:
    (batch, depth + 1, tokens, dim), and so is what is returned, from the first state of ``states`` on.
    """
    checks.finite(above=True, ridge=ridge)
    inputs, asked = (_with_one(each[:, 0].double().flatten(1)) for each in (train, states))
    gram = inputs.mT @ inputs
    penalty = ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    maps = torch.linalg.solve(gram + penalty, inputs.mT @ train[:, 1:].double().flatten(1))
    return torch.cat([states[:, :1].double(), (asked @ maps).view_as(states[:, 1:])], 1)


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[..., :1])], -1)


def trajectory_r2(replayed: Tensor, states: Tensor) -> Tensor:
    """Share of the variance that a replay explains, layer by layer: states twice -> (depth,).

    The variance is that over images and tokens, all features together. Both are (batch, depth + 1, tokens,
    dim); their first state is left out.
    """
    wanted, got = states[:, 1:].double(), replayed[:, 1:].double()
    left = (wanted - got).square().sum((0, 2, 3))
    whole = (wanted - wanted.mean((0, 2), keepdim=True)).square().sum((0, 2, 3))
    return 1 - left / whole


# --- depth as a dynamical system --------------------------------------------------------------------------


def _by_type(values: Tensor) -> Tensor:
    """Mean over images, class token and patches apart: (batch, layers, tokens) -> (layers, 2)."""
    return torch.stack([values[..., 0].mean(0), values[..., 1:].mean((0, 2))], -1)


def _angle(one: Tensor, other: Tensor) -> Tensor:
    """The angle between vectors along the last axis, in radians, exact for small ones too."""
    one, other = normalize(one.double(), dim=-1), normalize(other.double(), dim=-1)
    return 2 * torch.atan2((one - other).norm(dim=-1), (one + other).norm(dim=-1))


def convergence(states: Tensor) -> Tensor:
    """Cosine of each state with the last one, class token and patches: states -> (depth + 1, 2)."""
    unit = normalize(states.double(), dim=-1)
    return _by_type((unit * unit[:, -1:]).sum(-1))


def angular_speed(states: Tensor) -> Tensor:
    """The angle by which each block turns a token, class token and patches: states -> (depth, 2), radians."""
    return _by_type(_angle(states[:, 1:], states[:, :-1]))


def coherence(states: Tensor) -> Tensor:
    """Norm of the mean direction of an image's patches, 1 if they are parallel: states -> (depth + 1,)."""
    return normalize(states[..., 1:, :].double(), dim=-1).mean(2).norm(dim=-1).mean(0)


def stable_rank(states: Tensor) -> Tensor:
    """Of each block's updates, all tokens stacked: squared Frobenius over squared spectral norm, (depth,)."""
    updates = states.double().diff(dim=1).transpose(0, 1).flatten(1, 2)
    squares = torch.linalg.eigvalsh(updates.mT @ updates)
    return squares.sum(-1) / squares[..., -1]


def class_separation(vectors: Tensor, labels: Tensor) -> float:
    """Mean cosine of pairs of one class minus that of pairs of two: (batch, dim), (batch,) -> a number.

    Raises ``ValueError`` unless there are pairs of both kinds.
    """
    unit = normalize(vectors.double(), dim=-1)
    same = labels[:, None] == labels
    pairs = ~torch.eye(len(labels), dtype=torch.bool)
    if not (same & pairs).any() or same.all():
        raise ValueError("labels must have two of one class and two classes")
    cosines = unit @ unit.mT
    return float(cosines[same & pairs].mean() - cosines[~same].mean())


def reordered(states: Tensor, order: Sequence[int]) -> Tensor:
    """The same updates in another order: states from the same first to the same last one.

    Raises ``ValueError`` unless ``order`` has each of the updates once.
    """
    updates = states.diff(dim=1)
    if sorted(order) != list(range(updates.shape[1])):
        raise ValueError(f"order must have each of 0..{updates.shape[1] - 1} once, got {list(order)}")
    moved = states[:, :1] + updates[:, list(order)].cumsum(1)
    return torch.cat([states[:, :1], moved], 1)


def dynamics(states: Tensor, orders: Sequence[Sequence[int]] = ()) -> dict[str, np.ndarray]:
    """Four measures behind each layer, (depth,) each; ``orders``: their means over updates so reordered.

    *convergence*: the cosine with the last state, mean of class token and patches; *speed*: the angle by
    which the block turns the class token; *coherence* of patches; *rank*: that of the block's updates.
    """
    every = [reordered(states, order) for order in orders] or [states]
    measures: dict[str, Callable[[Tensor], Tensor]] = {
        "convergence": lambda moved: convergence(moved)[1:].mean(-1),
        "speed": lambda moved: angular_speed(moved)[:, 0],
        "coherence": lambda moved: coherence(moved)[1:],
        "rank": stable_rank,
    }
    return {
        name: np.mean([measure(moved).numpy() for moved in every], axis=0)
        for name, measure in measures.items()
    }


def step_size(layers: Tensor) -> float:
    """Mean length of the updates over the norm of what they are added to; of (batch, depth, ..., dim)."""
    return float((layers.diff(dim=1).norm(dim=-1) / layers[:, :-1].norm(dim=-1)).mean())


def at_step_size(layers: Tensor, size: float) -> Tensor:
    """The same layers with all updates shrunk by one factor, so that `step_size` is ``size``.

    Raises ``ValueError`` for a size that is not > 0 or that only growing could reach.
    """
    if not 0 < size <= step_size(layers) * (1 + 1e-9):
        raise ValueError(f"size must be > 0 and <= {step_size(layers):g}, got {size}")
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        shrunk = layers[:, :1] + middle * (layers - layers[:, :1])
        low, high = (middle, high) if step_size(shrunk) < size else (low, middle)
    return layers[:, :1] + high * (layers - layers[:, :1])


def closer_by(other: Tensor, layers: Tensor) -> float:
    """By how much the mean distance of ``layers`` is below ``other``'s, both at the smaller step size."""
    size = min(step_size(other), step_size(layers))
    far, near = (mean_distance(layer_distance(at_step_size(each, size))) for each in (other, layers))
    return far - near


def drift(layers: Tensor) -> Tensor:
    """The distances of a smooth drift: every layer as far from the next as here, always in a new direction.

    Features (batch, depth, 2, dim) -> (depth, depth). Steps at right angles to all before them multiply their
    cosines: ``1 - prod cos(step)``. Angles of steps are means over images.
    """
    cosines = _angle(layers[:, 1:], layers[:, :-1]).mean(0).cos()
    between = torch.ones(layers.shape[1], layers.shape[1], 2, dtype=torch.float64)
    for i, j in combinations(range(layers.shape[1]), 2):
        between[i, j] = between[j, i] = cosines[i:j].prod(0)
    return (1 - between).mean(-1)


def mean_distance(distance: Tensor) -> float:
    """Mean over all pairs of layers."""
    return within_cost(distance, [len(distance)]) / math.comb(len(distance), 2)


def perturbation_angle(
    vit: Any, x: Tensor, layer: int, size: float, generator: torch.Generator
) -> dict[str, np.ndarray]:
    """How far a disturbance at a layer turns later states: ``size`` of each token's norm, at random.

    Angles to the undisturbed states in radians, mean over images and tokens, from that layer on: *measured*,
    and *by growth alone*, if the disturbance stayed as it was while the state beneath it grows. Raises
    ``ValueError`` unless 0 <= layer <= depth and ``size`` > 0.
    """
    checks.between(0, len(vit.blocks), "the depth", layer=layer)
    checks.finite(above=True, size=size)
    states = collect_states(vit, x)
    drawn = normalize(torch.randn(states[:, layer].shape, generator=generator).to(states), dim=-1)
    change = size * states[:, layer].norm(dim=-1, keepdim=True) * drawn
    after = collect_states(vit, x, (layer, change))
    still = states + change[:, None]
    return {
        name: _angle(each[:, layer:], states[:, layer:]).mean((0, 2)).numpy()
        for name, each in {"measured": after, "by growth alone": still}.items()
    }


def late_minus_middle(values: Sequence[float]) -> float:
    """Mean of the last third of a sequence minus that of its middle third, ends rounded to whole places."""
    array, n = np.asarray(values, dtype=float), len(values)
    first, second = round(n / 3), round(2 * n / 3)
    return float(array[second:].mean() - array[first:second].mean())
