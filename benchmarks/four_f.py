"""The 4f engine against optnn, torchoptics, our own field-by-field bench, and torch's conv2d.

Every contestant's error against conv2d in float64 stands beside its time. Two races, in turns within one run
and on one thread:

- with a camera: the same passes for all, pseudo-negativity, each read before channels are summed; in float64,
  and ours and optnn with inputs in float32 besides (which optnn takes to double precision on its way);
- exact: the field with its sign, through the Fourier plane, against conv2d, in float32.

What the machine can do at best is measured in the same run, and what ours computes and moves is counted, so
that a reader sees how far a layer is from the limit. ``--device cuda`` runs the same on a GPU. Results go to
data/benchmarks.
"""

import argparse
import statistics
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from fourfold import training
from fourfold.bench4f import exact, passes
from fourfold.bench4f.geometry import prepare
from fourfold.bench4f.optical_conv import fft_conv2d, forget, optical_conv2d
from fourfold.bench4f.propagation import FOCAL, WAVELENGTH, critical_pitch, embed, lens_phase, upright
from fourfold.optics.four_f import field_by_field
from fourfold.recorded import benchmark

# Of a run; two runs, an hour or more apart, are pooled.
ROUNDS = 12
# Seconds a round of each contestant: several calls in a row, as in training. The first one after another
# contestant pays for the memory that this one gave back to the system.
AT_LEAST = 0.3
# batch, in, out, k, n: the layers of the card, same padding.
LAYERS = ((4, 16, 16, 3, 28), (8, 16, 32, 5, 16), (4, 32, 32, 10, 10))
EXACT = (
    (4, 16, 16, 3, 28), (4, 16, 16, 7, 28), (4, 32, 32, 10, 10), (4, 16, 16, 10, 28), (1, 1, 1, 10, 28),
    (4, 16, 16, 16, 32), (1, 1, 1, 32, 64), (1, 3, 16, 32, 64), (4, 8, 8, 32, 64), (2, 4, 4, 48, 64),
)  # fmt: skip

Layer = Callable[[Tensor, Tensor], Tensor]
SINGLE, DOUBLE = torch.float32, torch.float64


def same_conv2d(x: Tensor, weight: Tensor) -> Tensor:
    """torch's conv2d with same padding; padded by hand, since torch warns of even kernels."""
    k = weight.shape[-1]
    if k % 2:
        return conv2d(x, weight, padding=k // 2)
    return conv2d(pad(x, ((k - 1) // 2, k // 2) * 2), weight)


def ours(x: Tensor, weight: Tensor) -> Tensor:
    """The engine with a camera."""
    return optical_conv2d(x, weight, padding="same")


def ideal(x: Tensor, weight: Tensor) -> Tensor:
    """The engine, its field read with signs."""
    return fft_conv2d(x, weight, padding="same")


def pair_by_pair(x: Tensor, weight: Tensor) -> Tensor:
    """A Fourier-plane convolution that does not contract channels there: one FFT per pair."""
    n, k = x.shape[-1], weight.shape[-1]
    size = (n + k // 2,) * 2
    spectra = torch.fft.rfft2(x, s=size)[:, None] * torch.fft.rfft2(weight.flip(-2, -1), s=size)
    first = k - 1 - (k - 1) // 2
    return torch.fft.irfft2(spectra, s=size)[..., first : first + n, first : first + n].sum(2)


class Optnn(nn.Module):
    """optnn's layer, its picture turned upright; it convolves where conv2d correlates."""

    def __init__(self, weight: Tensor, n: int):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from optnn import OpticalConv2d
        out, channels, k, _ = weight.shape
        self.layer = OpticalConv2d(
            channels, out, k, is_bias=False, pseudo_negativity=True, input_size=n, noise=False
        ).to(weight.device)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """(batch, in, n, n) -> (batch, out, n, n)."""
        # As a plain attribute, the weight stays a leaf of the benchmark's graph.
        self.layer._parameters["kernel"] = weight.flip(-2, -1)
        return self.layer(x).flip(-2, -1)


def torchoptics_layer(x: Tensor, weight: Tensor) -> Tensor:
    """The same passes with torchoptics: fields of all passes, four propagations, two lenses, a filter."""
    from torchoptics import Field

    n, k = x.shape[-1], weight.shape[-1]
    side = 2 * -(-(n + k // 2) // 2)
    pitch = float(critical_pitch(side, WAVELENGTH, FOCAL))
    lens = lens_phase(side, pitch, WAVELENGTH, FOCAL).to(x.device)
    kernels = weight.flip(-2, -1)
    kernels = embed(torch.cat([kernels.clamp(min=0), (-kernels).clamp(min=0)]), side).double()
    middle = (-2, -1)
    filters = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(kernels, middle)), middle)

    def through_lens(field: Tensor) -> Tensor:
        for optic in (lens, None):
            made = Field(field, wavelength=WAVELENGTH, z=0, spacing=pitch)
            made = made.propagate_to_z(FOCAL, propagation_method="ASM_FRESNEL", asm_pad=(0, 0))
            field = made.data if optic is None else made.data * optic
        return field

    field = through_lens(embed(x, side)[:, None].double() + 0j)
    seen = upright(through_lens(field * filters)).abs()
    first = side // 2 - n // 2
    plus, minus = seen[..., first : first + n, first : first + n].sum(2).chunk(2, dim=1)
    return plus - minus


def forward(layer: Layer, x: Tensor, weight: Tensor) -> benchmark.Call:
    """One forward pass."""

    def call() -> None:
        with torch.no_grad():
            layer(x, weight)

    return call


def training_step(layer: Layer, x: Tensor, weight: Tensor) -> benchmark.Call:
    """One forward and backward pass."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    return lambda: torch.autograd.grad(layer(x, weight).sum(), (x, weight))


def race(layers: dict[str, tuple[Layer, torch.dtype]], shape: tuple[int, ...], device: str) -> dict:
    """Errors, milliseconds, peak MB of each contestant on one layer, and every ratio to the first, ours."""
    batch, channels, out, k, n = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, channels, n, n, generator=generator).to(device)
    weight = (torch.randn(out, channels, k, k, generator=generator) / k).to(device)
    inputs = {dtype: (x.to(dtype), weight.to(dtype)) for dtype in (SINGLE, DOUBLE)}
    truth = same_conv2d(*inputs[DOUBLE])
    row: dict = {"shape": list(shape), "contestants": {name: {} for name in layers}}
    first = next(iter(layers))
    for kind, make in (("forward", forward), ("training", training_step)):
        calls = {name: make(layer, *inputs[dtype]) for name, (layer, dtype) in layers.items()}
        memory = {}
        for name, call in calls.items():
            forget()  # what the engine keeps for the next call counts, too
            memory[name] = benchmark.peak_memory(call, device)
        samples = benchmark.interleaved(calls, rounds=ROUNDS, at_least=AT_LEAST, device=device)
        for name in layers:
            spread = benchmark.ratio(samples, name, first)
            row["contestants"][name][kind] = {
                "ms": 1e3 * statistics.median(samples[name]),
                "ratio": [spread.median, spread.low, spread.high],
                "rounds": spread.rounds,
                "mb": memory[name] / 1e6,
            }
        ratios = (f"{name} {benchmark.ratio(samples, name, first)}" for name in layers)
        print(f"{shape} {kind:>8}:", *ratios)
    for name, (layer, dtype) in layers.items():
        with torch.no_grad():
            error = (layer(*inputs[dtype]) - truth).abs().max() / truth.abs().max()
        row["contestants"][name]["error"] = float(error)
    return row


def work(shape: tuple[int, ...], camera: bool) -> dict:
    """What ours does in a forward pass: multiply-adds, and numbers that must be moved, written or read.

    Numbers: pictures, kernels and answer once; with a camera each field twice, as it is formed and read.
    """
    batch, channels, out, k, n = shape
    y_axis, x_axis, _ = prepare(
        torch.empty((*shape[:2], n, n)), torch.empty(out, channels, k, k), "same", 1, 1
    )
    numbers = n**2 * batch * (channels + out) + channels * out * k**2
    if camera:
        fields = 2 * batch * channels * out * n**2
        way = passes.cheaper(y_axis, x_axis, k, k, 2 * out)
        each = passes.multiplications(way, y_axis, x_axis, k, k)
        return {"way": way, "multiply_adds": fields * each, "numbers": numbers + 2 * fields}
    counts = (batch, out, channels, y_axis, x_axis)
    chosen = exact.cheaper(*counts)
    return {
        "way": chosen,
        "multiply_adds": sum(exact.multiplications(chosen, *counts)),
        "numbers": numbers,
    }


def limits(device: str) -> dict:
    """What the machine can do: GFLOP/s of a matrix product, GB/s of a copy in the cache and in memory."""
    found: dict = {}
    for name, dtype in (("float32", SINGLE), ("float64", DOUBLE)):
        matrix = torch.rand(1024, 1024, dtype=dtype, device=device)
        block = torch.rand(passes.FIELDS_AT_ONCE // 2, dtype=dtype, device=device)
        large = torch.rand(2**25, dtype=dtype, device=device)
        calls = {
            "gemm": partial(torch.mm, matrix, matrix, out=torch.empty_like(matrix)),
            "cache": partial(torch.empty_like(block).copy_, block),
            "memory": partial(torch.empty_like(large).copy_, large),
        }
        samples = benchmark.interleaved(calls, rounds=ROUNDS, at_least=0.05, device=device)
        seconds = {call: statistics.median(times) for call, times in samples.items()}
        found[name] = {
            "gemm": 2 * 1024**3 / seconds["gemm"] / 1e9,
            "cache": 2 * block.nbytes / seconds["cache"] / 1e9,
            "memory": 2 * large.nbytes / seconds["memory"] / 1e9,
        }
    return found


def single(device: str) -> float:
    """optnn's error with one image, channel and kernel, where it is right: so the race is a fair one."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 1, 16, 16, generator=generator).to(device)
    weight = torch.randn(1, 1, 5, 5, generator=generator).to(device)
    with torch.no_grad():
        truth = same_conv2d(x.double(), weight.double())
        return float((Optnn(weight, 16)(x, weight) - truth).abs().max() / truth.abs().max())


def main() -> None:
    """Race on one device, print ratios, keep the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    device = parser.parse_args().device
    training.deterministic()
    speeds = limits(device)
    print("The machine's limits, GFLOP/s and GB/s:", speeds)
    print("Time over that of the first, median (smallest to largest) over rounds:")
    camera = []
    for shape in LAYERS:
        n, out, channels, k = shape[4], shape[2], shape[1], shape[3]
        peer = Optnn(torch.zeros(out, channels, k, k, device=device), n)
        layers: dict[str, tuple[Layer, torch.dtype]] = {
            "ours": (ours, DOUBLE),
            "conv2d": (same_conv2d, DOUBLE),
            "field by field": (partial(field_by_field, dtype=torch.complex128), DOUBLE),
            "optnn": (peer, DOUBLE),
            "torchoptics": (torchoptics_layer, DOUBLE),
            "ours, float32": (ours, SINGLE),
            "optnn, float32": (peer, SINGLE),
        }
        camera.append(race(layers, shape, device) | {"work": work(shape, camera=True)})
    layers = {
        "exact": (ideal, SINGLE),
        "conv2d": (same_conv2d, SINGLE),
        "pair by pair": (pair_by_pair, SINGLE),
    }
    signed = [race(layers, shape, device) | {"work": work(shape, camera=False)} for shape in EXACT]
    about: dict = {"single": single(device), "threads": 1, "limits": speeds}
    if device == "cuda":
        about["gpu"] = torch.cuda.get_device_name()
    print(benchmark.keep("four_f", {"camera": camera, "exact": signed}, device, **about))


if __name__ == "__main__":
    main()
