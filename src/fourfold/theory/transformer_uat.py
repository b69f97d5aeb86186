"""Transformer UAT: one attention layer and a position-wise ReLU network approximate maps of sequences.

Gumaan, arXiv 2507.10581. A *target* maps n tokens of the cube [0, 1]^d to n numbers. Here targets are
trigonometric polynomials, which are dense among continuous maps: for them networks can be written down, and
three kinds of network have an error floor in closed form, the distance to an orthogonal projection.

Implemented: the layer, with attention, a fixed mixing or none, with and without positions; targets, their
projections and distances; the construction, its bound, and the knots that an error takes; attention and its
gradient by hand; finding a value by its key, and a plain network on the whole sequence.

Departures: the paper's proof was not at hand, so the construction is ours. It uses attention only to copy
every token to every position, by scores that depend on positions and not on content. No layer norm, as in
theory; the ReLU network has no residual, since outputs and tokens have other widths.
"""

import math
from dataclasses import dataclass
from itertools import islice, permutations, product
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from fourfold.attention import Attention
from fourfold.checks import at_least, between, finite, one_of

Mixing = Literal["attention", "uniform", "fixed", "none"]
MOST_TOKENS = 6
"""Averages over permutations have n! times as many waves."""

# --- targets ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrigPolynomial:
    """``f_t(x) = Re sum_k C_tk exp(i pi k.x)``: n tokens of the cube [0, 1]^d to one number for each token.

    ``frequencies``: (K, n, d), in half waves over the cube, float64. ``coefficients``: (n, K), complex128.
    """

    frequencies: Tensor
    coefficients: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Tokens (..., n, d) -> (..., n, 1), computed in float64 and returned in the tokens' dtype."""
        phases = math.pi * x.double().flatten(-2) @ self.frequencies.flatten(1).T
        values = phases.cos() @ self.coefficients.real.T - phases.sin() @ self.coefficients.imag.T
        return values.to(x.dtype)[..., None]

    def __sub__(self, other: "TrigPolynomial") -> "TrigPolynomial":
        return TrigPolynomial(
            torch.cat([self.frequencies, other.frequencies]),
            torch.cat([self.coefficients, -other.coefficients], 1),
        )

    def rms(self) -> float:
        """Root mean square over tokens uniform in the cube and over positions, in closed form.

        ``E Re(a) Re(b) = Re E(a b + a b*) / 2``, and the mean of a wave is a product of those of its axes.
        """
        k, c = self.frequencies, self.coefficients
        apart, together = wave_mean(k[:, None] - k), wave_mean(k[:, None] + k)
        squares = (c * (c.conj() @ apart.T + c @ together.T)).sum(1).real
        return math.sqrt(max(float(squares.mean()) / 2, 0.0))


def wave_mean(frequencies: Tensor) -> Tensor:
    """The mean of ``exp(i pi k.x)`` over the cube: (..., n, d) -> (...), complex128."""
    each = torch.sinc(frequencies / 2) * torch.exp(0.5j * math.pi * frequencies)
    return each.flatten(-2).prod(-1)


def trig_target(n: int, waves: int, generator: torch.Generator, d: int = 1) -> TrigPolynomial:
    """A drawn target: amplitudes N(0, 1)/sqrt(waves), phases uniform, drawn for every position and wave.

    Its frequencies are the first ``waves`` above 0 of the products of {-1, 0, 1, 2} in lexicographic order.
    Raises ``ValueError`` for n outside 2..6, d < 1, or more waves than there are.
    """
    between(2, MOST_TOKENS, n=n)
    at_least(1, d=d)
    between(1, 4 ** (n * d) // 2, waves=waves)
    # Sign and order do not matter to a cosine; what comes before 0 in this order starts with -1.
    above = (k for k in product((-1, 0, 1, 2), repeat=n * d) if k > (0,) * (n * d))
    frequencies = torch.tensor(list(islice(above, waves)), dtype=torch.float64).view(waves, n, d)
    amplitudes = torch.randn(n, waves, generator=generator, dtype=torch.float64) / math.sqrt(waves)
    phases = 2 * math.pi * torch.rand(n, waves, generator=generator, dtype=torch.float64)
    return TrigPolynomial(frequencies, amplitudes * torch.exp(1j * phases))


def constant_part(target: TrigPolynomial) -> TrigPolynomial:
    """The mean over tokens and positions: of all single numbers, the nearest to the target."""
    mean = (target.coefficients * wave_mean(target.frequencies)).sum(1).mean()
    return TrigPolynomial(torch.zeros_like(target.frequencies[:1]), mean.expand(len(target.coefficients), 1))


def own_token_part(target: TrigPolynomial) -> TrigPolynomial:
    """``E[f_t(X) | X_t]``: of all maps of single tokens, with positions known, the nearest to the target."""
    n = len(target.coefficients)
    own = torch.eye(n, dtype=torch.float64)[:, None, :, None]
    kept, others = target.frequencies * own, target.frequencies * (1 - own)  # (n, K, n, d)
    means = target.coefficients * wave_mean(others)
    return TrigPolynomial(kept.flatten(0, 1), torch.block_diag(*means[:, None]))


def averaged(target: TrigPolynomial, orders: list[tuple[int, ...]]) -> TrigPolynomial:
    """The mean of ``f`` with its tokens put into each order and its outputs put back."""
    index = torch.tensor(orders)
    return TrigPolynomial(
        torch.cat([target.frequencies[:, order] for order in index]),
        torch.cat([target.coefficients[order] for order in index], 1) / len(orders),
    )


def equivariant_part(target: TrigPolynomial) -> TrigPolynomial:
    """Of all maps that commute with permutations of the tokens, the nearest to the target."""
    return averaged(target, list(permutations(range(len(target.coefficients)))))


def pooled_part(target: TrigPolynomial) -> TrigPolynomial:
    """Of all maps that see their own token, its position, and the others without order, the nearest."""
    n = len(target.coefficients)
    parts = [averaged(target, [p for p in permutations(range(n)) if p[t] == t]) for t in range(n)]
    return TrigPolynomial(
        torch.cat([part.frequencies for part in parts]),
        torch.block_diag(*(part.coefficients[t : t + 1] for t, part in enumerate(parts))),
    )


# --- the layer --------------------------------------------------------------------------------------------


class FixedMixing(nn.Module):
    """Attention without queries and keys: a learned score for every head and pair of positions."""

    def __init__(self, n: int, dim: int, heads: int):
        super().__init__()
        self.scores = nn.Parameter(torch.randn(heads, n, n))
        self.value = nn.Linear(dim, dim)
        self.projection = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(..., n, dim) -> the same shape, and the mixing (heads, n, n)."""
        heads = len(self.scores)
        values = self.value(x).unflatten(-1, (heads, -1)).transpose(-3, -2)
        mixing = self.scores.softmax(-1)
        return self.projection((mixing @ values).transpose(-3, -2).flatten(-2)), mixing


class SingleLayerTransformer(nn.Module):
    """Embedding and positions, one attention with a residual, one hidden ReLU layer shared by positions.

    ``mixing``: softmax attention, ``"uniform"`` attention, ``"fixed"`` (``FixedMixing``), or ``"none"``.
    Positions start at N(0, 1/4). Raises ``ValueError`` for a size < 1, another mixing, or heads that do not
    divide ``dim``.
    """

    def __init__(
        self,
        n: int,
        d: int,
        dim: int,
        heads: int,
        hidden: int,
        *,
        positions: bool = True,
        mixing: Mixing = "attention",
    ):
        super().__init__()
        at_least(1, n=n, d=d, dim=dim, heads=heads, hidden=hidden)
        one_of(("attention", "uniform", "fixed", "none"), mixing=mixing)
        if dim % heads:
            raise ValueError(f"heads must divide dim = {dim}, got {heads}")
        self.embedding = nn.Linear(d, dim)
        self.positions = nn.Parameter(torch.randn(n, dim) / 2) if positions else None
        self.mixing: nn.Module | None = None
        if mixing == "fixed":
            self.mixing = FixedMixing(n, dim, heads)
        elif mixing != "none":
            self.mixing = Attention(dim, heads, mixing="softmax" if mixing == "attention" else "uniform")
        self.up = nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, 1)

    def mixed(self, x: Tensor) -> Tensor:
        """Tokens (..., n, d) -> what the ReLU network sees, (..., n, dim)."""
        z = self.embedding(x)
        if self.positions is not None:
            z = z + self.positions
        return z if self.mixing is None else z + self.mixing(z)[0]

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (..., n, d) -> (..., n, 1)."""
        return self.down(torch.relu(self.up(self.mixed(x))))


class FlatNetwork(nn.Sequential):
    """A ReLU network of two hidden layers on the whole sequence: (batch, n, d) -> (batch, n, 1)."""

    def __init__(self, n: int, d: int, hidden: int):
        at_least(1, n=n, d=d, hidden=hidden)
        super().__init__(
            nn.Flatten(),
            nn.Linear(n * d, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, n),
            nn.Unflatten(-1, (n, 1)),
        )


# --- the construction -------------------------------------------------------------------------------------


def gathering(n: int, d: int, beta: float) -> SingleLayerTransformer:
    """A transformer whose attention copies all tokens to every position; its ReLU network is still to be set.

    Its stream holds a position's own token (d), then all tokens in order (n d), then the position (n).
    Head j looks at position j with scores beta there and 0 elsewhere, whoever asks.
    """
    finite(0, beta=beta)
    own, code = d * (n + 1), n  # where the position's one-hot code begins, and its length
    wide = max(d, math.ceil((own + code) / n))
    net = SingleLayerTransformer(n, d, n * wide, n, 1).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.embedding.weight[:d] = torch.eye(d)
        assert net.positions is not None
        net.positions[:, own : own + code] = torch.eye(n)
        attention: Any = net.mixing
        for head in range(n):
            first = head * wide
            # A position's code sums to 1, so that this query is the same constant everywhere.
            attention.query.weight[first, own : own + code] = beta * math.sqrt(wide)
            attention.key.weight[first, own + head] = 1
            attention.value.weight[first : first + d, :d] = torch.eye(d)
            attention.projection.weight[d * (head + 1) : d * (head + 2), first : first + d] = torch.eye(d)
    return net


def gather_error(n: int, beta: float) -> float:
    """How far a gathered coordinate in [0, 1] is off at most: ``(n - 1) / (exp(beta) + n - 1)``."""
    at_least(2, n=n)
    finite(0, beta=beta)
    return (n - 1) / (math.exp(beta) + n - 1)


def build_constructive(target: TrigPolynomial, knots: int, beta: float) -> SingleLayerTransformer:
    """A transformer near the target: attention gathers, and every wave becomes a piecewise linear ridge.

    A wave ``Re C exp(i pi u)`` of ``u = k.x`` is interpolated between ``knots + 1`` even places of u's range:
    a unit starts at each but the last, and its weight is the change of slope there. Where the position is not
    the unit's own, it is pushed below zero. The width is ``n K knots + n``.
    Raises ``ValueError`` for knots < 1 or a frequency 0.
    """
    at_least(1, knots=knots)
    (n, _), (d,) = target.coefficients.shape, target.frequencies.shape[2:]
    k = target.frequencies.flatten(1)  # (K, n d)
    lengths = k.abs().sum(1)
    if not lengths.all():
        raise ValueError("target must have no frequency 0, whose wave has no knots")
    even = torch.linspace(0, 1, knots + 1, dtype=torch.float64)
    places = k.clamp(max=0).sum(1, keepdim=True) + lengths[:, None] * even
    values = (target.coefficients[..., None] * torch.exp(1j * math.pi * places)).real  # (n, K, knots + 1)
    slopes = values.diff(dim=-1) * knots / lengths[:, None]
    changes = torch.diff(slopes, dim=-1, prepend=torch.zeros_like(slopes[..., :1]))
    gate = 1 + float(lengths.max())  # more than any ridge is long

    net = gathering(n, d, beta)
    code = one_hot(torch.arange(n), n).double()
    weight = torch.zeros(n, len(k), knots, net.up.in_features, dtype=torch.float64)
    weight[..., d : d + n * d] = k[:, None]
    weight[..., d + n * d : d + n * d + n] = gate * code[:, None, None]
    bias = (-places[:, :-1] - gate).expand(n, -1, -1)
    constants = torch.zeros(n, net.up.in_features, dtype=torch.float64)
    constants[:, d + n * d : d + n * d + n] = code
    net.up = _linear(
        torch.cat([weight.flatten(0, 2), constants]), torch.cat([bias.flatten(), torch.zeros(n)])
    )
    net.down = _linear(torch.cat([changes.flatten(), values[..., 0].sum(1)])[None], torch.zeros(1))
    return net


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias.double())
    return layer


def error_bound(target: TrigPolynomial, knots: int, beta: float = math.inf) -> float:
    """An upper bound of the construction's error, everywhere on the cube.

    Interpolating a wave of size C costs ``|C| (pi |k| / knots)^2 / 8``, ``|k|`` the sum of absolute entries;
    gathering moves u by at most ``|k|`` times its error, and no slope is above ``pi |C|``.
    """
    at_least(1, knots=knots)
    off = 0.0 if beta == math.inf else gather_error(len(target.coefficients), beta)
    steep = math.pi * target.frequencies.abs().sum((1, 2))
    return float((target.coefficients.abs() * ((steep / knots) ** 2 / 8 + steep * off)).sum(1).max())


def knots_for(target: TrigPolynomial, error: float) -> int:
    """The fewest knots for which the bound, with exact gathering, is at most ``error``."""
    finite(0, above=True, error=error)
    return max(1, math.ceil(math.sqrt(error_bound(target, 1) / error)))


# --- attention by hand ------------------------------------------------------------------------------------


def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """``softmax(q k^T / sqrt(d)) v`` and its weights, written out: (..., n, d) each, weights (..., n, n)."""
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).exp()
    weights = scores / scores.sum(-1, keepdim=True)
    return weights @ v, weights


def attend_backward(q: Tensor, k: Tensor, v: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v from that of the output, (..., n, d), by the chain rule."""
    _, weights = attend(q, k, v)
    of_weights = gradient @ v.mT
    # The softmax's Jacobian: a weight grows with its own score and falls with all scores.
    of_scores = weights * (of_weights - (of_weights * weights).sum(-1, keepdim=True))
    of_scores = of_scores / math.sqrt(q.shape[-1])
    return of_scores @ k, of_scores.mT @ q, weights.mT @ gradient


# --- finding a value by its key ---------------------------------------------------------------------------


def retrieval(count: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sequences in which every token asks for a value by its key: (count, n, 5), and answers (count, n, 1).

    A token has a query and a key, two random directions of the plane (cosine, sine), and a value uniform in
    [0, 1]. Its answer is the value of the token whose key is nearest to its query.
    Raises ``ValueError`` for count < 1 or n < 2.
    """
    at_least(1, count=count)
    at_least(2, n=n)
    angles = 2 * math.pi * torch.rand(count, n, 2, generator=generator)
    query, key = torch.stack([angles.cos(), angles.sin()], -1).unbind(2)
    value = torch.rand(count, n, 1, generator=generator)
    nearest = (query @ key.mT).argmax(-1, keepdim=True)
    return torch.cat([query, key, value], -1), value.gather(1, nearest)
