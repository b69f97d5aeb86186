"""Calibration: how wrong probabilities are, traditional maps that mend them, and the fit of a map.

Probabilities are (n, classes), labels (n,), and a map takes logits (n, classes) to log-probabilities.
"""

import copy
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.optimize import brentq, minimize_scalar
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import nll_loss, one_hot

from fourfold.checks import at_least, finite, one_of

Measure = Callable[[Tensor, Tensor], Tensor | float]
"""Of (log-)probabilities (n, classes) and labels (n,): one number."""

# --- how wrong probabilities are --------------------------------------------------------------------------


def reliability(q: Tensor, outcome: Tensor, bins: int = 15, mass: bool = False) -> Tensor:
    """Of each bin the number of events, the sum of q and the sum of outcomes: (n,), (n,) -> (3, bins).

    Bins of equal width, each open below, or with ``mass`` of equally many events, to within one.
    Raises ``ValueError`` for bins < 1.
    """
    at_least(1, bins=bins)
    if mass:
        of = torch.empty(len(q), dtype=torch.long)
        of[q.argsort(stable=True)] = torch.arange(len(q)) * bins // len(q)
    else:
        of = (q * bins).ceil().long().clamp(1, bins) - 1
    parts = torch.stack([torch.ones_like(q), q, outcome.to(q)])
    return torch.zeros(3, bins, dtype=q.dtype).index_add(1, of, parts)


def binned_error(q: Tensor, outcome: Tensor, bins: int = 15, mass: bool = False) -> float:
    """The mean over events of |mean q - mean outcome| of an event's bin: (n,), (n,)."""
    _, sums, hits = reliability(q, outcome, bins, mass)
    return float((sums - hits).abs().sum()) / len(q)


def class_wise_error(probs: Tensor, labels: Tensor, bins: int = 15, mass: bool = False) -> float:
    """The mean over classes of the binned error of each class's probability."""
    hits = one_hot(labels, probs.shape[1])
    return float(np.mean([binned_error(q, o, bins, mass) for q, o in zip(probs.T, hits.T, strict=True)]))


def top_label(probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The largest probability and whether its class is the label, (n,) each; their binned error is ECE."""
    confidence, guess = probs.max(1)
    return confidence, (guess == labels).to(probs)


def errors(probs: Tensor, labels: Tensor) -> dict[str, float]:
    """Class-wise errors in 15 bins of equal width and of equal mass, ECE, likelihood in nats, share wrong."""
    return {
        "class-wise, equal width": class_wise_error(probs, labels),
        "class-wise, equal mass": class_wise_error(probs, labels, mass=True),
        "top label": binned_error(*top_label(probs, labels)),
        "negative log likelihood": float(nll_loss(probs.log(), labels)),
        "wrong": float((probs.argmax(1) != labels).double().mean()),
    }


def kernel_error(probs: Tensor, labels: Tensor) -> float:
    """The squared kernel calibration error, unbiased: 0 on average if all classes together are calibrated.

    The mean over pairs of rows of exp(-|p - p'|) (e_y - p) . (e_y' - p'), Widmann et al. 2019; it costs n^2.
    Raises ``ValueError`` for less than two rows.
    """
    at_least(2, rows=len(probs))
    residual = one_hot(labels, probs.shape[1]).to(probs) - probs
    pairs = torch.exp(-torch.cdist(probs, probs)) * (residual @ residual.T)
    return float((pairs.sum() - pairs.diagonal().sum()) / (len(probs) * (len(probs) - 1)))


def brier(log_probs: Tensor, labels: Tensor) -> Tensor:
    """The mean squared distance of probabilities from the one-hot label: a scalar."""
    return (log_probs.exp() - one_hot(labels, log_probs.shape[1])).square().sum(1).mean()


# --- predictions whose truth is known ---------------------------------------------------------------------


def draw_labels(truth: Tensor, generator: torch.Generator) -> Tensor:
    """One label a row, with these probabilities: (n, classes) -> (n,)."""
    return torch.multinomial(truth, 1, generator=generator)[:, 0]


def sharpened(probs: Tensor, power: float) -> Tensor:
    """probs ** power, normalised: too sure for a power above 1 where ``probs`` is the truth.

    Raises ``ValueError`` for a power that is not finite and above 0.
    """
    finite(above=True, power=power)
    raised = probs**power
    return raised / raised.sum(1, keepdim=True)


def distance(truth: Tensor, probs: Tensor) -> float:
    """The mean over rows of the sum of absolute differences."""
    return float((truth - probs).abs().sum(1).mean())


def too_sure(probs: Tensor, far: float) -> Tensor:
    """``probs`` sharpened until they are ``far`` away from what they were.

    Raises ``ValueError`` where no power up to 50 brings them so far.
    """
    most = distance(sharpened(probs, 50), probs)
    if not 0 <= far < most:
        raise ValueError(f"far must be in [0, {most:.3g}), got {far}")
    power = 1.0
    if far:
        power = brentq(lambda a: distance(sharpened(probs, a), probs) - far, 1, 50, xtol=1e-5)
    return sharpened(probs, power)


def best_power(measure: Measure, probs: Tensor, labels: Tensor) -> float:
    """The power, between 1/2 and 2, to which to raise ``probs`` so that a measure is smallest, to 0.5 %."""
    found = minimize_scalar(
        lambda t: float(measure(sharpened(probs, math.exp(t)), labels)),
        bounds=(-math.log(2), math.log(2)),
        options={"xatol": 0.005},
    )
    return math.exp(found.x)


# --- maps -------------------------------------------------------------------------------------------------


def log_probs(logits: Tensor) -> Tensor:
    """Logits less their log-sum-exp: (n, classes), at most 0."""
    return logits - logits.logsumexp(1, keepdim=True)


class VectorScaling(nn.Module):
    """A scale and a shift for each class; the order of classes may change. Starts as the identity."""

    def __init__(self, classes: int):
        """Raises ``ValueError`` for less than two classes."""
        super().__init__()
        at_least(2, classes=classes)
        self.scale = nn.Parameter(torch.ones(classes, dtype=torch.float64))
        self.shift = nn.Parameter(torch.zeros(classes, dtype=torch.float64))

    def forward(self, logits: Tensor) -> Tensor:
        """(n, classes) -> (n, classes)."""
        return log_probs(log_probs(logits) * self.scale + self.shift)


Kind = Literal["beta", "isotonic", "histogram"]


def one_vs_rest(kind: Kind, probs: Tensor, labels: Tensor, new: Tensor, bins: int = 15) -> Tensor:
    """Calibrate each class alone on ``probs`` and ``labels``, apply to ``new`` (m, classes), normalise.

    "beta" is logistic regression on log p and -log(1 - p) (Kull et al. 2017), "isotonic" a rising step
    function, "histogram" the share of the class in bins of equal mass. Returns (m, classes), none below 1e-6
    before they are normalised. Raises ``ValueError`` for an unknown kind.
    """
    one_of(("beta", "isotonic", "histogram"), kind=kind)
    columns = []
    for k in range(probs.shape[1]):
        p, x = (one[:, k].double().numpy().clip(1e-12, 1 - 1e-12) for one in (probs, new))
        hit = (labels == k).numpy().astype(float)
        if kind == "isotonic":
            columns.append(IsotonicRegression(out_of_bounds="clip").fit(p, hit).predict(x))
        elif kind == "histogram":
            edges = np.quantile(p, np.arange(1, bins) / bins)
            of = np.searchsorted(edges, p)
            share = np.bincount(of, hit, bins) / np.bincount(of, minlength=bins).clip(1)
            columns.append(share[np.searchsorted(edges, x)])
        else:
            fitted = LogisticRegression(C=1e6, max_iter=1000).fit(_beta(p), hit)
            columns.append(fitted.predict_proba(_beta(x))[:, 1])
    raised = torch.tensor(np.stack(columns, 1)).clamp_min(1e-6)
    return raised / raised.sum(1, keepdim=True)


def _beta(p: np.ndarray) -> np.ndarray:
    return np.stack([np.log(p), -np.log1p(-p)], 1)


class Fit(NamedTuple):
    """A map after fitting, without gradients; its class-wise error on the rows that fitted it; its losses."""

    mapping: nn.Module
    error: float
    losses: list[float]


def fit(
    mapping: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    logits: Tensor,
    labels: Tensor,
    *,
    steps: int,
    lr: float,
    choose: bool = True,
) -> Fit:
    """Fit a map by Adam on all rows at once; keep the step after which the class-wise error on them is least.

    Without ``choose`` the last one is kept. ``loss`` takes log-probabilities and labels. The map changes.
    Raises ``ValueError`` for steps < 1 or a rate that is not finite and above 0.
    """
    at_least(1, steps=steps)
    finite(above=True, lr=lr)
    optimizer = torch.optim.Adam(mapping.parameters(), lr=lr)
    least, kept, losses = math.inf, mapping.state_dict(), []
    for _ in range(steps):
        value = loss(mapping(logits), labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
        with torch.no_grad():
            error = class_wise_error(mapping(logits).exp(), labels)
        if error <= least or not choose:
            least, kept = error, copy.deepcopy(mapping.state_dict())
    mapping.load_state_dict(kept)
    return Fit(mapping.requires_grad_(False), least, losses)
