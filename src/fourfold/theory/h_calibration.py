"""h-calibration: a loss on local averages of probability minus outcome, and maps that keep the order.

Huang, Cao, Xia, Chen, Wang and Zhang, arXiv 2506.17968, TPAMI 2025. An *event* is a row and a class, with the
predicted probability q and the outcome o, 1 if the row has that class. All events are sorted by q; wherever a
moving average of q - o is not zero, predictions of that size are wrong on average. The loss is its mean
absolute value, with equal weight on 15 clusters of q, and averaged over subsets that leave out the rows of
one class each. A map of the logits is fitted to it on held-out data.

Implemented from the authors' code (WenjianHuang93/h-Calibration, MIT): the loss with the weighting that they
use, and two of its three kinds of map; the monotone network is not. Ours: the loss that noise alone gives a
calibrated predictor, a truth that no class alone can tell from the prediction, and what leaving out a class
does to calibrated Dirichlet predictions, in closed form.

Departures: all events are sorted and clustered once, and each subset inherits order and clusters; the authors
do both for each subset, with faiss's k-means of a random sample. The tolerance is left out: theirs is 1e-20,
which changes no float. So is their factor of 1e5 on the loss, which Adam does not see.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from scipy.stats import beta as beta_law
from torch import Tensor, nn
from torch.nn.functional import one_hot

from fourfold.calibration import log_probs
from fourfold.checks import at_least, one_of

# --- the loss ---------------------------------------------------------------------------------------------


def moving_average(values: Tensor, window: int) -> Tensor:
    """Mean over window + 1 neighbours, with zeros beyond both ends: (n,) -> (n,).

    Raises ``ValueError`` unless window is even and in 0..n.
    """
    if window % 2 or not 0 <= window <= len(values):
        raise ValueError(f"window must be even and in 0..{len(values)}, the events, got {window}")
    half = window // 2
    sums = torch.cat([values.new_zeros(1), values.cumsum(0)])
    place = torch.arange(len(values))
    ends = (place + half + 1).clamp(max=len(values)), (place - half).clamp(min=0)
    return (sums[ends[0]] - sums[ends[1]]) / (window + 1)


def kmeans_1d(values: Tensor, k: int, rounds: int = 100) -> Tensor:
    """The cluster of each of n sorted numbers, in order: (n,) integers from 0, at most k of them.

    Lloyd's algorithm. Clusters are intervals, so that a round takes k look-ups in running sums. It starts
    with centres as dense as the cube root of the numbers, as a good quantiser has them; empty clusters are
    dropped.
    Raises ``ValueError`` for k < 1, no numbers, or numbers that are not sorted.
    """
    at_least(1, k=k, values=len(values))
    if (values[1:] < values[:-1]).any():
        raise ValueError("values must be sorted, got a smaller one after a larger one")
    values = values.detach().double()
    marks = values[torch.linspace(0, len(values) - 1, 20 * k + 1).long()]
    share = np.append(0, (marks.diff() ** (2 / 3)).cumsum(0))  # density is one over gap
    centres = torch.tensor(np.interp((np.arange(k) + 0.5) / k * share[-1], share, marks))
    sums = torch.cat([values.new_zeros(1), values.cumsum(0)])
    edges = torch.tensor([0, len(values)])
    for _ in range(rounds):
        cut = torch.searchsorted(values, (centres[1:] + centres[:-1]) / 2)
        before, edges = edges, torch.cat([cut.new_zeros(1), cut, cut.new_tensor([len(values)])]).unique()
        if torch.equal(before, edges):
            break
        centres = (sums[edges[1:]] - sums[edges[:-1]]) / (edges[1:] - edges[:-1])
    return torch.repeat_interleave(torch.arange(len(edges) - 1), edges[1:] - edges[:-1])


def sorted_events(probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All events by their probability: that, the outcome, and the label of the event's row, (events,) each.

    ``probs`` (n, classes), ``labels`` (n,). Raises ``ValueError`` for other shapes.
    """
    if probs.ndim != 2 or labels.shape != probs.shape[:1]:
        raise ValueError(
            f"expected probs (n, classes) and labels (n,), got {tuple(probs.shape)} and {tuple(labels.shape)}"
        )
    q, order = probs.flatten().sort(stable=True)
    outcome = one_hot(labels, probs.shape[1]).flatten()[order].to(q)
    return q, outcome, labels[order // probs.shape[1]]


def averaged(
    probs: Tensor, labels: Tensor, clusters: int, leave_one_out: bool, measure: Callable[..., Tensor]
) -> Tensor:
    """The mean over subsets and clusters of a measure of sorted events, (q, outcome) -> (events,): a scalar.

    A subset is without the rows of one class. It inherits the order of all events, and their clusters.
    """
    q, outcome, label = sorted_events(probs, labels)
    cluster = kmeans_1d(q, clusters)
    means = []
    for left_out in range(probs.shape[1]) if leave_one_out else [-1]:
        kept = label != left_out
        values, of = measure(q[kept], outcome[kept]), cluster[kept]
        counts = torch.bincount(of, minlength=int(cluster[-1]) + 1)
        sums = torch.zeros(len(counts), dtype=q.dtype).index_add(0, of, values)
        means.append((sums / counts)[counts > 0].mean())
    return torch.stack(means).mean()


def h_loss(
    probs: Tensor, labels: Tensor, window: int = 200, clusters: int = 15, leave_one_out: bool = True
) -> Tensor:
    """The loss of ``probs`` (n, classes) with ``labels`` (n,): a scalar. Order and clusters are constants.

    Raises ``ValueError`` as ``sorted_events`` and ``moving_average`` do.
    """

    def error(q: Tensor, outcome: Tensor) -> Tensor:
        return moving_average(q - outcome, window).abs()

    return averaged(probs, labels, clusters, leave_one_out, error)


def noise_floor(
    probs: Tensor, labels: Tensor, window: int = 200, clusters: int = 15, leave_one_out: bool = True
) -> Tensor:
    """What ``h_loss`` is on average where each event has the outcome 1 with probability q: a scalar.

    A mean of many independent q - o is close to normal, with variance mean q (1 - q) / (window + 1); its
    absolute value has sqrt(2 / pi) standard deviations on average. Zeros beyond the ends are no noise.
    Raises ``ValueError`` as ``h_loss`` does.
    """

    def noise(q: Tensor, outcome: Tensor) -> Tensor:
        return (2 / math.pi * moving_average(q * (1 - q), window) / (window + 1)).sqrt()

    return averaged(probs, labels, clusters, leave_one_out, noise)


def over_floor(probs: Tensor, labels: Tensor, **how: Any) -> float:
    """The loss in units of its noise floor; ``how`` as in ``h_loss``."""
    return float(h_loss(probs, labels, **how) / noise_floor(probs, labels, **how))


def profile(
    probs: Tensor, labels: Tensor, window: int, grid: np.ndarray, left_out: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The signed moving average without the rows of a class, and the standard deviation of its noise.

    Both at the probabilities of ``grid`` (m,), interpolated between events that have a full window.
    """
    q, outcome, label = sorted_events(probs, labels)
    q, outcome = q[label != left_out], outcome[label != left_out]
    inner = slice(window // 2, len(q) - window // 2)
    noise = (moving_average(q * (1 - q), window) / (window + 1)).sqrt()
    average = moving_average(q - outcome, window)
    return tuple(np.interp(grid, q[inner].numpy(), one[inner].numpy()) for one in (average, noise))


# --- predictions whose truth is known ---------------------------------------------------------------------


def cyclic(probs: Tensor, strength: float = 1.0) -> Tensor:
    """A truth for which each class alone is calibrated, and all together are not: (n, classes), same shape.

    r_k = p_k (1 + strength (p_(k+1) - p_(k-1))), classes in a circle: the sum stays 1. Where all classes are
    alike before the draw, as in Dirichlet(1), the bracket is 1 on average whatever p_k is.
    Raises ``ValueError`` for a strength outside 0..1 and for less than three classes, where nothing is left.
    """
    at_least(3, classes=probs.shape[1])
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be in 0..1, got {strength}")
    return probs * (1 + strength * (probs.roll(-1, 1) - probs.roll(1, 1)))


def draw_dirichlet(n: int, alpha: Tensor, generator: torch.Generator) -> Tensor:
    """Rows from a Dirichlet law: alpha (classes,), integers -> (n, classes), float64.

    An integer alpha is so many exponential variables. Raises ``ValueError`` for n < 1.
    """
    at_least(1, n=n)
    uniform = torch.rand(n, int(alpha.sum()), dtype=torch.float64, generator=generator)
    parts = (-(1 - uniform).log()).split(alpha.tolist(), 1)
    mass = torch.stack([part.sum(1) for part in parts], 1)
    return mass / mass.sum(1, keepdim=True)


def left_out_bias(q: Tensor, alpha: Tensor, left_out: int) -> Tensor:
    """The mean of q - o without the rows of one class, for calibrated Dirichlet(alpha) rows: (m,) -> (m,).

    The limit of the moving average as the rows grow, and the window, but slower. An event (row, k) with
    p_k = q stays with probability 1 - E[p_c | p_k = q]; if k is the class c itself, its outcome is then 0.
    Classes that are alike cancel; others do not.
    """
    total = float(alpha.sum())
    bias, mass = torch.zeros_like(q), torch.zeros_like(q)
    for k, a in enumerate(alpha.tolist()):
        density = torch.tensor(beta_law.pdf(q.numpy(), a, total - a))
        gone = q if k == left_out else (1 - q) * float(alpha[left_out]) / (total - a)
        bias += density * (q * (1 - q) if k == left_out else -q * gone)
        mass += density * (1 - gone)
    return bias / mass


# --- maps of logits ---------------------------------------------------------------------------------------


class Ensemble(nn.Module):
    """A mean of k softmaxes at their own temperatures: logits (n, classes) -> log-probabilities."""

    def __init__(self, k: int, generator: torch.Generator):
        """Scales and weights start uniform in +-1 / sqrt(k), as in the authors' code; only sizes count."""
        super().__init__()
        at_least(1, k=k)
        start = (2 * torch.rand(2, k, dtype=torch.float64, generator=generator) - 1) / math.sqrt(k)
        self.scales, self.weights = nn.Parameter(start[0]), nn.Parameter(start[1])

    def forward(self, logits: Tensor) -> Tensor:
        """(n, classes) -> (n, classes)."""
        weights = self.weights.abs() / self.weights.abs().sum()
        each = (log_probs(logits)[..., None] * self.scales.abs()).softmax(1)
        return (each @ weights).clamp_min(1e-25).log()


class PiecewiseLinear(nn.Module):
    """A piecewise linear map of v = -log p: logits (n, classes) -> log-probabilities, same shape.

    [0, 100] has ``segments`` equal parts of width d. In part j, v from j d on, the map starts at the height
    h_j = d (|a_0| + ... + |a_j| - 1) and has the slope |a_(j+1)|; all start at 1, the identity. The
    ``anchor`` is what the slope is multiplied by: v - j d for "knot", so that the map is continuous and
    rises; v - h_j for "value", as the authors' code has it. They differ as soon as h_j is not j d.
    """

    def __init__(self, segments: int, anchor: Literal["value", "knot"] = "knot"):
        """Raises ``ValueError`` for segments < 1 or an unknown anchor."""
        super().__init__()
        at_least(1, segments=segments)
        one_of(("value", "knot"), anchor=anchor)
        self.segments, self.anchor, self.width = segments, anchor, 100 / segments
        self.slopes = nn.Parameter(torch.ones(segments + 1, dtype=torch.float64))

    def curve(self, v: Tensor) -> Tensor:
        """The map itself: v >= 0, any shape -> the same shape. Beyond 100 it is flat."""
        part = (v / self.width).floor().clamp(max=self.segments).long()
        slopes = torch.cat([self.slopes.abs(), self.slopes.new_zeros(1)])
        start = self.width * (slopes.cumsum(0) - 1)[part]
        return start + slopes[part + 1] * (v - (part * self.width if self.anchor == "knot" else start))

    def forward(self, logits: Tensor) -> Tensor:
        """(n, classes) -> (n, classes)."""
        return log_probs(-self.curve(-log_probs(logits).clamp(max=0)))
