"""How long a full tensor product of degrees L, L -> 2L takes, densely, path by path in e3nn, and by Fourier.

All three compute the same product of the same batch (checked first), interleaved in one process on one thread
in float32. Every contestant of every degree runs once a round; a row keeps every round's time.
"""

import statistics
import warnings
from collections.abc import Callable

import torch
from e3nn import o3
from torch import Tensor

from fourfold import training
from fourfold.frequency import gaunt_tensor_product as paper
from fourfold.recorded import benchmark

ROUNDS, BATCH = 15, 64
DEGREES = {"dense": (1, 2, 3, 4, 6, 8), "e3nn": (1, 2, 3, 4, 6), "fourier": (1, 2, 3, 4, 6, 8, 10, 12)}

Product = Callable[[Tensor, Tensor], Tensor]


def dense(L: int) -> Product:
    """Outer product, then one matrix product with all Gaunt coefficients."""
    coupling = paper.gaunt_tensor(L, L, 2 * L).float().flatten(0, 1)
    return lambda x, y: (x[:, :, None] * y[:, None]).flatten(1) @ coupling


def by_e3nn(L: int) -> Product:
    """e3nn's compiled ``TensorProduct``: one channel, paths with an even sum of degrees, Gaunt's factors."""
    irreps, result = (
        o3.Irreps([(1, (degree, (-1) ** degree)) for degree in range(top + 1)]) for top in (L, 2 * L)
    )
    paths = [path for path in paper.paths(L, L, 2 * L) if sum(path) % 2 == 0]
    product = o3.TensorProduct(
        irreps,
        irreps,
        result,
        [(*path, "uuu", True) for path in paths],
        irrep_normalization="none",
        path_normalization="none",
        internal_weights=False,
        shared_weights=True,
    )
    coupling = paper.gaunt_tensor(L, L, 2 * L)
    weights = torch.stack([paper.path_factor(path, coupling) for path in paths]).float()
    return lambda x, y: product(x, y, weights)


def by_fourier(L: int) -> Product:
    """The chapter's route."""
    return paper.GauntTP(L, L, 2 * L)


def main() -> None:
    """Measure, print a table, keep the record."""
    training.deterministic()
    make = {"dense": dense, "e3nn": by_e3nn, "fourier": by_fourier}
    generator = torch.Generator().manual_seed(0)
    operands = {
        L: torch.randn(2, BATCH, (L + 1) ** 2, generator=generator).unbind() for L in DEGREES["fourier"]
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # e3nn compiles with TorchScript, which torch calls deprecated
        products = {(method, L): make[method](L) for method, degrees in DEGREES.items() for L in degrees}
        for (_, L), product in products.items():
            expected = products["fourier", L](*operands[L])
            torch.testing.assert_close(product(*operands[L]), expected, rtol=0, atol=1e-4)
        calls = {
            f"{method} {L}": lambda product=product, pair=operands[L]: product(*pair)
            for (method, L), product in products.items()
        }
        times = benchmark.interleaved(calls, rounds=ROUNDS)
    rows = []
    for method, L in products:
        ms = [1e3 * seconds for seconds in times[f"{method} {L}"]]
        median, low, high = statistics.median(ms), min(ms), max(ms)
        rows.append({"method": method, "degree": L, "median_ms": median, "rounds_ms": ms})
        print(f"{method:>8} L = {L:>2}: {median:8.3f} ms ({low:.3f} to {high:.3f})")
    benchmark.keep("gaunt_tensor_product", rows, batch=BATCH, rounds=ROUNDS, dtype="float32")


if __name__ == "__main__":
    main()
