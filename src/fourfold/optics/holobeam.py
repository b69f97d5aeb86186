"""HoloBeam: the best beam of a holographic metasurface, found by searching one parameter at a time.

Ghosh, Hanawal and Zlatanov, arXiv 2401.05420, IEEE INFOCOM 2024. A surface of M_x x M_y elements, spacing d
(all lengths in wavelengths), turns element (m, n) by ``-2 pi d (m beta_1 + n beta_2)``. For a far receiver in
direction ``alpha = (sin theta cos phi, sin theta sin phi)`` the power of the sum, over its maximum, is

    G(beta) = g(M_x, alpha_1 - beta_1) g(M_y, alpha_2 - beta_2),
    g(M, u) = (sin(pi M d u) / (M sin(pi d u)))^2.

Implemented: this gain, its grid of beams, the field summed element by element as spherical waves, pilots
(received power with complex Gaussian noise), HoloBeam as one line search with elimination per parameter, and
its rivals: sequential halving (Karnin, Koren and Somekh, ICML 2013) and even sampling, each over all beams or
by coordinate, and one line search over the flattened grid.

All searches run for many trials at once. A search is a function ``(pull, arms, trials, budget, rng)`` that
returns the arm (trials,) it settles on; ``pull(arms (trials, k), m)`` returns mean powers (trials, k) of m
pilots each. ``rng`` is a ``numpy.random.Generator``.

Departures. The paper's body was not available: the line search follows the authors' earlier work as we
recall it (four probes, thirds), with 34 % of a phase's pilots kept for the last three beams, and what the
surface does with the second parameter in the first phase is offered both ways (``hold``).
"""

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.random import Generator

Array = np.ndarray
Pull = Callable[[Array, int], Array]
Search = Callable[[Pull, int, int, int, Generator], Array]

LAST = 3
"""Elimination ends with this many arms."""
RESERVE = 0.34
"""Share of a line search's pilots that is kept for the last arms."""
SCHEDULES = ("flat", "late", "early")
HOLDS = ("row", "fixed")
TIE = 1e-12
"""Gains closer than this, relative to the best, count as equal."""
CELLS = 2_000_000
"""Beams times runs computed at once, which bounds memory."""


def _need(fits: bool, name: str, value: object, expected: str) -> None:
    if not fits:
        raise ValueError(f"{name} must be {expected}, got {value!r}")


# --- the gain ---------------------------------------------------------------------------------------------


def array_factor(m: int, d: float, u: Any) -> Array:
    """``sin(pi m d u) / (m sin(pi d u))``: the field of m elements, counted from their middle; 1 at u = 0.

    ``u``: any shape, the difference of two direction sines. Raises ``ValueError`` unless m >= 1 and
    0 < d <= 0.5.
    """
    _need(m >= 1, "m", m, ">= 1")
    _need(0 < d <= 0.5, "d", d, "in (0, 0.5]")
    turns = d * np.asarray(u, dtype=float)
    # Within half a turn of a lobe both sines are sinc's, and nothing is divided by zero; m even and an odd
    # number of turns changes the sign.
    lobe = np.round(turns)
    sign = np.where((lobe * (m - 1)) % 2 == 0, 1.0, -1.0)
    return sign * np.sinc(m * (turns - lobe)) / np.sinc(turns - lobe)


def array_gain(m: int, d: float, u: Any) -> Array:
    """Power gain of m elements over its maximum, ``g(m, u)``: 1 at u = 0. Shape of ``u``."""
    return array_factor(m, d, u) ** 2


def beta_grid(m: int, d: float, oversample: float = 1) -> Array:
    """The beams of one axis, (K,): from -1 below 1 in steps of ``1 / (m d oversample)``.

    With ``oversample = 1`` the step is the distance of two nulls and K = 2 m d. Raises ``ValueError``
    unless oversample > 0 and there are at least two beams.
    """
    _need(0 < d <= 0.5, "d", d, "in (0, 0.5]")
    _need(oversample > 0, "oversample", oversample, "> 0")
    beams = math.ceil(2 * m * d * oversample - 1e-9)
    _need(beams >= 2, "2 m d oversample, the number of beams,", beams, ">= 2")
    return -1 + np.arange(beams) / (m * d * oversample)


def is_unimodal(v: Array) -> Array:
    """Whether the values strictly rise to one peak and then strictly fall, along the last axis."""
    steps = np.diff(np.asarray(v, dtype=float), axis=-1)
    rising_again = (steps[..., 1:] >= 0) & (steps[..., :-1] <= 0)
    return ~rising_again.any(-1) & (steps != 0).all(-1)


def spherical_field(
    m: int, d: float, alpha: Sequence[float], beta: Sequence[float], distance: float
) -> complex:
    """The field of m x m elements at a finite distance, element by element, over its far-field maximum.

    A spherical wave from every element, amplitude and phase relative to the surface's middle, ``distance``
    wavelengths from the receiver in direction ``alpha``. Raises ``ValueError`` for a direction that is none.
    """
    height = 1 - alpha[0] ** 2 - alpha[1] ** 2
    _need(height >= 0, "alpha", tuple(alpha), "within the unit circle")
    place = d * (np.arange(m) - (m - 1) / 2)
    x, y = place[:, None], place
    path = np.sqrt((distance * alpha[0] - x) ** 2 + (distance * alpha[1] - y) ** 2 + distance**2 * height)
    turns = path - distance + x * beta[0] + y * beta[1]
    return complex((distance / path * np.exp(-2j * np.pi * turns)).mean())


# --- the surface and its pilots ---------------------------------------------------------------------------


def random_directions(n: int, rng: Generator) -> Array:
    """Receivers spread evenly over the half sphere: (n, 2), each of the two sines is even on [-1, 1]."""
    cosine, phi = rng.random(n), 2 * np.pi * rng.random(n)
    return np.sqrt(1 - cosine**2)[:, None] * np.stack([np.cos(phi), np.sin(phi)], -1)


@dataclass(frozen=True)
class HMT:
    """A holographic metasurface transceiver that sends pilots to one receiver per trial."""

    gains: tuple[Array, Array]
    """g of every beam of the first and of the second axis: (trials, K_1), (trials, K_2)."""
    power: float
    """P over the noise's: the mean power of a pilot, without noise, on a beam that points exactly."""
    row_gain: tuple[float, float]
    """What one row (one column) at the same total power has in place of the other axis's gain: 1/M."""
    rest: tuple[int, int]
    """The beam nearest to broadside, beta = 0, of each axis."""

    @classmethod
    def towards(cls, alpha: Array, mx: int, my: int, d: float, snr_db: float, oversample: float = 1) -> "HMT":
        """The mx x my surface with receivers in the directions ``alpha`` (trials, 2).

        The gain is unimodal for d <= 1/4 and oversample 1, or 1 over a whole number.
        """
        betas = beta_grid(mx, d, oversample), beta_grid(my, d, oversample)
        alpha = np.asarray(alpha, dtype=float)
        _need(alpha.ndim == 2 and alpha.shape[1] == 2, "alpha", alpha.shape, "of shape (trials, 2)")
        _need(bool((np.abs(alpha) <= 1).all()), "alpha", float(np.abs(alpha).max()), "in [-1, 1]")
        first = array_gain(mx, d, alpha[:, :1] - betas[0])
        second = array_gain(my, d, alpha[:, 1:] - betas[1])
        rest = int(np.abs(betas[0]).argmin()), int(np.abs(betas[1]).argmin())
        return cls((first, second), 10 ** (snr_db / 10), (1 / mx, 1 / my), rest)

    @property
    def trials(self) -> int:
        """Number of receivers, one per trial."""
        return len(self.gains[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Number of beams of each axis."""
        return self.gains[0].shape[1], self.gains[1].shape[1]

    def shuffled(self, rng: Generator) -> "HMT":
        """The same gains in another order along each axis, drawn anew for every trial: not unimodal."""
        return replace(self, gains=(rng.permuted(self.gains[0], axis=1), rng.permuted(self.gains[1], axis=1)))

    def gain(self, i: Array, j: Array) -> Array:
        """G of the beams (i, j), each (trials, k)."""
        return np.take_along_axis(self.gains[0], i, 1) * np.take_along_axis(self.gains[1], j, 1)

    def pull(self, i: Array, j: Array, m: int, rng: Generator) -> Array:
        """Mean received power of m pilots on each beam (i, j), (trials, k), in units of the noise's."""
        return received(self.power * self.gain(i, j), m, rng)

    def pull_row(self, axis: int, arms: Array, m: int, rng: Generator) -> Array:
        """The same with one row of elements along ``axis``: the other parameter plays no part."""
        gain = np.take_along_axis(self.gains[axis], arms, 1) * self.row_gain[1 - axis]
        return received(self.power * gain, m, rng)

    def best(self) -> Array:
        """The largest G of the grid, (trials,)."""
        return self.gains[0].max(1) * self.gains[1].max(1)


def received(power: Array, m: int, rng: Generator) -> Array:
    """Mean of m values of ``|h + w|^2`` with ``|h|^2 = power`` and complex Gaussian w of power 1.

    Drawn at once: ``2 m`` times it is a noncentral chi-square of 2 m degrees and noncentrality 2 m power.
    """
    _need(m >= 1, "m, the number of pilots,", m, ">= 1")
    return rng.noncentral_chisquare(2 * m, 2 * m * power) / (2 * m)


# --- searches ---------------------------------------------------------------------------------------------


@cache
def interval_sizes(arms: int) -> tuple[int, ...]:
    """Sizes of the interval before each elimination of the line search, from ``arms`` down to four."""
    sizes = []
    while arms > LAST:
        sizes.append(arms)
        arms -= (arms - 1) // 3
    return tuple(sizes)


def smallest_budget(arms: int) -> int:
    """The pilots a line search needs: one for each of its four probes, and for each of the last arms."""
    return 4 * len(interval_sizes(arms)) + min(arms, LAST)


def line_search(
    pull: Pull, arms: int, trials: int, budget: int, rng: Generator | None = None, schedule: str = "flat"
) -> Array:
    """Elimination for a unimodal sequence: (trials,), the arm it settles on.

    Probe both ends and the points at one and two thirds; if the best is one of the two on the left, drop the
    right third, else the left one; with three arms left compare them. Every phase has pilots of its own,
    equally (``flat``) or in proportion to ``(2/3)^phases left`` (``late``) or ``(2/3)^phases done``
    (``early``), at least one per probe; ``RESERVE`` of the budget and what division leaves is for the last
    arms. Raises ``ValueError`` if the budget is below ``smallest_budget``.
    """
    _need(schedule in SCHEDULES, "schedule", schedule, f"one of {SCHEDULES}")
    _need(arms >= 1, "arms", arms, ">= 1")
    _need(budget >= smallest_budget(arms), "budget", budget, f">= {smallest_budget(arms)} for {arms} arms")
    phases = len(interval_sizes(arms))
    slope = {"flat": 0, "late": -1, "early": 1}[schedule]
    weights = (2 / 3) ** (slope * np.arange(phases))
    spare = max(0, int((1 - RESERVE) * budget) // 4 - phases)
    pilots = 1 + (spare * weights / weights.sum() + 1e-9).astype(int)
    low, high = np.zeros(trials, int), np.full(trials, arms - 1)
    for m in pilots:
        third = (high - low) // 3
        probes = np.stack([low, low + third, high - third, high], 1)
        left = pull(probes, int(m)).argmax(1) < 2
        low, high = np.where(left, low, probes[:, 1]), np.where(left, probes[:, 2], high)
    last = low[:, None] + np.arange(min(arms, LAST))
    means = pull(last, (budget - 4 * int(pilots.sum())) // last.shape[1])
    return np.take_along_axis(last, means.argmax(1)[:, None], 1)[:, 0]


@cache
def halving_start(arms: int, budget: int) -> int:
    """How many arms sequential halving can start with: in every round each must get a pilot."""

    def least(start: int) -> int:
        return start if start <= 2 else start + least(-(-start // 2))

    return bisect.bisect_right(range(1, arms + 1), budget, key=least)


def sequential_halving(pull: Pull, arms: int, trials: int, budget: int, rng: Generator) -> Array:
    """Pull all arms equally, keep the better half, and again: (trials,), the last arm.

    The rounds share what is left of the budget equally, at least one pilot an arm. If there are too many arms
    for that, it starts with a random subset as large as possible. Raises ``ValueError`` for a budget below 1.
    """
    _need(budget >= 1, "budget", budget, ">= 1")
    alive = _some(arms, halving_start(arms, budget), trials, rng)
    while (size := alive.shape[1]) > 1:
        m = max(1, budget // (size * math.ceil(math.log2(size))))
        means = pull(alive, m)
        budget -= m * size
        keep = np.argpartition(means, size // 2, axis=1)[:, size // 2 :]
        alive = np.take_along_axis(alive, keep, 1)
    return alive[:, 0]


def even_sampling(pull: Pull, arms: int, trials: int, budget: int, rng: Generator) -> Array:
    """Pull all arms equally often and take the best mean: (trials,). Too many arms: a random subset, once."""
    _need(budget >= 1, "budget", budget, ">= 1")
    chosen = _some(arms, min(arms, budget), trials, rng)
    means = pull(chosen, budget // chosen.shape[1])
    return np.take_along_axis(chosen, means.argmax(1)[:, None], 1)[:, 0]


def _some(arms: int, n: int, trials: int, rng: Generator) -> Array:
    """A random subset of n arms for every trial, (trials, n); all of them in order if n = arms."""
    everyone = np.broadcast_to(np.arange(arms), (trials, arms))
    return everyone if n == arms else rng.permuted(everyone, axis=1)[:, :n]


def over_all_beams(env: HMT, budget: int, rng: Generator, search: Search) -> tuple[Array, Array]:
    """One search over the K_1 K_2 beams, row by row in one list: beams (i, j), each (trials,)."""
    columns = env.shape[1]

    def pull(arms: Array, m: int) -> Array:
        return env.pull(arms // columns, arms % columns, m, rng)

    found = search(pull, env.shape[0] * columns, env.trials, budget, rng)
    return found // columns, found % columns


def by_coordinate(
    env: HMT, budget: int, rng: Generator, search: Search, hold: str = "row", axes: Sequence[int] = (0, 1)
) -> tuple[Array, Array]:
    """One search per axis, each with an equal part of the budget: beams (i, j), each (trials,).

    The first search pulls one row of the surface (``row``) or all of it with the other parameter at broadside
    (``fixed``); a second one holds what the first has found. An axis not in ``axes`` stays at broadside.
    """
    _need(hold in HOLDS, "hold", hold, f"one of {HOLDS}")
    found = [np.full(env.trials, rest) for rest in env.rest]
    for turn, axis in enumerate(axes):

        def pull(arms: Array, m: int, axis: int = axis, by_row: bool = hold == "row" and turn == 0) -> Array:
            if by_row:
                return env.pull_row(axis, arms, m, rng)
            held = np.broadcast_to(found[1 - axis][:, None], arms.shape)
            return env.pull(*((arms, held) if axis == 0 else (held, arms)), m, rng)

        found[axis] = search(pull, env.shape[axis], env.trials, budget // len(axes), rng)
    return found[0], found[1]


def holobeam(
    env: HMT,
    budget: int,
    rng: Generator,
    hold: str = "row",
    schedule: str = "flat",
    axes: Sequence[int] = (0, 1),
) -> tuple[Array, Array]:
    """HoloBeam: a line search with elimination over beta_1, then over beta_2. See ``by_coordinate``."""
    return by_coordinate(env, budget, rng, partial(line_search, schedule=schedule), hold, axes)


Algorithm = Callable[[HMT, int, Generator], tuple[Array, Array]]

sequential_halving_2d: Algorithm = partial(over_all_beams, search=sequential_halving)
uniform: Algorithm = partial(over_all_beams, search=even_sampling)
lse_2d: Algorithm = partial(over_all_beams, search=line_search)
sequential_halving_coord: Algorithm = partial(by_coordinate, search=sequential_halving)
uniform_coord: Algorithm = partial(by_coordinate, search=even_sampling)


def success(env: HMT, algorithm: Algorithm, budget: int, rng: Generator, draws: int = 1) -> Array:
    """Share of runs that end on a best beam, for each receiver: (trials,), over ``draws`` runs."""
    _need(draws >= 1, "draws", draws, ">= 1")
    _need(budget >= 1, "budget", budget, ">= 1")
    runs = np.repeat(np.arange(env.trials), draws)
    at_once = max(1, CELLS // (env.shape[0] * env.shape[1]))
    chosen = []
    for some in (runs[start : start + at_once] for start in range(0, len(runs), at_once)):
        part = replace(env, gains=(env.gains[0][some], env.gains[1][some]))
        i, j = algorithm(part, budget, rng)
        chosen.append(part.gain(i[:, None], j[:, None])[:, 0])
    gain = np.concatenate(chosen).reshape(env.trials, draws)
    return (gain >= env.best()[:, None] * (1 - TIE)).mean(1)


def error_window(
    budgets: Sequence[int], errors: Sequence[float], high: float, low: float
) -> tuple[int, int] | None:
    """The budgets at which an error that falls with the budget passes ``high`` and ``low``.

    ``budgets`` rise; ``errors``, one each, may be noisy: the least so far counts. Between two budgets the
    error is taken for a power law. None if it never falls to ``low``. Raises ``ValueError`` unless
    0 < low < high < 1 and the first error is at least ``high``.
    """
    _need(0 < low < high < 1, "low, high", (low, high), "rising within (0, 1)")
    _need(errors[0] >= high, "the first error", errors[0], f">= {high}")
    fallen = np.minimum.accumulate(np.asarray(errors, dtype=float))
    if fallen[-1] > low:
        return None
    logs = -np.log(np.maximum(fallen, low / 10))  # an error that was not seen is small, not zero
    first, last = np.exp(np.interp(-np.log([high, low]), logs, np.log(budgets)))
    return int(first), int(last)


SCAN = tuple(100 * 4**k for k in range(22))
"""Budgets at which ``decay`` looks for a receiver's own."""


def decay(
    env: HMT, algorithm: Algorithm, rng: Callable[[str], Generator], runs: int, high: float, low: float
) -> list[tuple[Array, Array] | None]:
    """Six budgets and their errors, each (6,), for every receiver that errs at least ``high`` at first.

    A scan of 300 runs a budget finds where a receiver's error passes ``high`` and ``low``; six budgets
    between have ``runs`` of their own. None where the error does not fall so far. ``rng`` makes a generator
    for each purpose. An error that was not seen counts as half a run's.
    """
    scans = [1 - success(env, algorithm, n, rng(f"scan {n}"), 300) for n in SCAN]
    found: list[tuple[Array, Array] | None] = []
    for index, errors in enumerate(np.stack(scans).T):
        if errors[0] < high:
            continue
        if (window := error_window(SCAN, errors.tolist(), high, low)) is None:
            found.append(None)
            continue
        alone = replace(env, gains=(env.gains[0][index : index + 1], env.gains[1][index : index + 1]))
        budgets = np.linspace(*window, 6).astype(int)
        wrong = [1 - success(alone, algorithm, int(n), rng(f"decay {n}"), runs)[0] for n in budgets]
        found.append((budgets, np.maximum(wrong, 0.5 / runs)))
    return found
