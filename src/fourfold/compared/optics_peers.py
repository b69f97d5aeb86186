"""4f simulators, ours and others, behind one face, for ``benchmarks/optics_compared.py``.

Run as a module by the interpreter that has a simulator, this answers the benchmark's questions about it
(`fourfold.recorded.contestants`). Only numpy is imported at the top: no interpreter has all of them.

Two tasks, the wavelength and the pixel the same for all, and the focal length that makes a lens the DFT of
the plane:

- ``field``: one picture and one phase mask on a plane, what a 4f bench is. All planes of light, at the end
  the field on the camera; backward, the gradient of a weighted sum of intensities in every pixel of the mask.
- ``layer``: one picture and one kernel with signs, what a network wants of it. Same padding; backward, the
  gradients in picture and kernel.
"""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from fourfold.recorded.contestants import peak, serve

WAVELENGTH, PITCH = 532e-9, 16e-6
"""Green light, and the pixel of a coarse modulator, metres."""
KERNEL = 9
"""Pixels of a kernel: the most for which optnn's plane, 4 pixels larger than the picture, is enough."""
FINEST = 1 / 8
"""The highest frequency of a picture, cycles a pixel: its light passes lenses as wide as the plane."""
SEED = 0

Precision = Literal["float32", "float64"]
Arrays = dict[str, np.ndarray]


def focal(side: int) -> float:
    """The focal length, metres, at which a lens is the DFT of ``side`` pixels of the pitch."""
    return PITCH**2 * side / WAVELENGTH


# --- what is computed, in numpy and float64 -----------------------------------------------------------------


def picture(side: int, generator: np.random.Generator) -> np.ndarray:
    """A picture (side, side), 0 to 1, amplitudes like 1 / frequency as in photographs, up to `FINEST`."""
    f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    strength = np.where((f > 0) & (f <= FINEST), 1 / np.maximum(f, 1 / side), 0)
    made = np.fft.ifft2(strength * np.fft.fft2(generator.standard_normal((side, side)))).real
    return (made - made.min()) / (made.max() - made.min())


def scene(task: str, side: int, axis: float = 0.0) -> Arrays:
    """The arrays of a task on a plane of ``side`` pixels, float64.

    ``field``: image in the middle half of the plane, phase of the mask (at the middle of an edge two waves of
    defocus and one of coma; frequency 0 stands ``axis`` pixels before pixel side // 2) and weights, each
    (side, side). ``layer``: image and weights, 4 pixels smaller than the plane, and kernel.
    Raises ``ValueError`` for another task and a side that is odd or small.
    """
    if task not in ("field", "layer"):
        raise ValueError(f"task must be 'field' or 'layer', got {task!r}")
    if side < 16 or side % 4:
        raise ValueError(f"side must be a multiple of 4 and >= 16 pixels, got {side}")
    generator = np.random.default_rng(SEED)
    if task == "layer":
        inner = side - 4
        kernel = generator.standard_normal((KERNEL, KERNEL)) / KERNEL
        image, weights = (picture(inner, generator) for _ in range(2))
        return {"image": image, "kernel": kernel, "weights": weights}
    # An edge would scatter light past any lens.
    faded = np.outer(fade := np.hanning(side // 2), fade)
    x = (np.arange(side) + axis) / (side // 2) - 1
    squared = x[:, None] ** 2 + x**2
    return {
        "image": np.pad(faded * picture(side // 2, generator), side // 4),
        "phase": 2 * np.pi * squared * (2 + x),
        "weights": picture(side, generator),
    }


def truth(task: str, arrays: Arrays, axis: float = 0.0) -> tuple[np.ndarray, list[np.ndarray]]:
    """What an ideal bench answers to `scene`, and the gradients of sum(weights * answer), in closed form.

    ``field``: the camera's complex field, upright, and the gradient of its weighted intensities in the phase
    of the mask. ``layer``: the correlation, as torch's ``conv2d``, and its gradients in image and kernel.
    """
    from scipy import ndimage

    if task == "field":
        # Frequencies between those of the FFT: it sees the picture times a wave.
        wave = np.exp(2j * np.pi * axis * np.arange(len(arrays["image"])) / len(arrays["image"]))
        wave = np.outer(wave, wave)
        mask = np.fft.ifftshift(np.exp(1j * arrays["phase"]))
        spectrum = mask * np.fft.fft2(arrays["image"] / wave)
        field = wave * np.fft.ifft2(spectrum)
        back = np.fft.fft2(arrays["weights"] * field / wave).conj()
        return field, [np.fft.fftshift(-2 * (spectrum * back).imag / field.size)]
    image, kernel, weights = arrays["image"], arrays["kernel"], arrays["weights"]
    half, n = KERNEL // 2, len(image)
    around = np.pad(image, half)
    by_kernel = [
        [np.vdot(weights, around[y : y + n, x : x + n]) for x in range(KERNEL)] for y in range(KERNEL)
    ]
    correlated = ndimage.correlate(image, kernel, mode="constant")
    return correlated, [ndimage.convolve(weights, kernel, mode="constant"), np.array(by_kernel)]


def turned(field: np.ndarray, axis: float = 0.0) -> np.ndarray:
    """A field (side, side) turned by 180 degrees about the ``axis`` of `scene`, as two lenses do."""
    return np.roll(np.flip(field), round(1 - 2 * axis), (0, 1))


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the norm of what is expected, up to a phase that a whole field shares."""
    if np.iscomplexobj(found):
        shared = np.vdot(found, expected)
        found = found * (shared / abs(shared))
    elif np.iscomplexobj(expected):
        expected = np.abs(expected)  # a camera sees no phase
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


# --- the simulators -----------------------------------------------------------------------------------------


class Calls(NamedTuple):
    """A contestant that is ready."""

    forward: Callable[[], Any]
    """The answer, an array or tensor."""
    backward: Callable[[], Any]
    """Forward and backward: the gradients, one or several."""


@dataclass(frozen=True)
class Contestant:
    """A simulator, what it is given and what it gives."""

    make: Callable[[Arrays, Precision], Calls]
    """From the arrays of a scene."""
    task: Literal["field", "layer"] = "field"
    environment: str = "book"
    package: str = "torch"
    """Whose version the record keeps."""
    precisions: tuple[Precision, ...] = ("float32", "float64")
    largest: int = 2048
    """Pixels of the largest plane that it is asked for."""
    turned: bool = False
    """Whether its picture is as the light leaves it, upside down."""
    fft_order: bool = False
    """Whether its mask has frequency 0 first."""
    axis: float = 0.0
    """How far before pixel side // 2 its lenses have their axis, pixels."""
    exact_waves: bool = False
    """Whether its free space is that of waves, and not Fresnel's approximation."""


def _torch(arrays: Arrays, precision: Precision) -> list[Any]:
    """A scene's arrays as tensors, in the order of the scene."""
    import torch

    return [torch.from_numpy(array.copy()).to(getattr(torch, precision)) for array in arrays.values()]


def _torch_field(
    field: Callable[[], Any], intensity: Callable[[Any], Any], weights: Any, phase: Any
) -> Calls:
    import torch

    def forward() -> Any:
        with torch.no_grad():
            return field()

    return Calls(forward, lambda: torch.autograd.grad((weights * intensity(field())).sum(), phase))


def _squared(field: Any) -> Any:
    return field.abs().square()


def two_ffts(arrays: Arrays, precision: Precision) -> Calls:
    """The two transforms that the light does, and nothing else: what any simulator could cost."""
    import torch

    image, phase, weights = _torch(arrays, precision)
    phase.requires_grad_()
    one = torch.ones_like(phase)
    return _torch_field(
        lambda: torch.fft.ifft2(torch.fft.fft2(image) * torch.polar(one, phase)), _squared, weights, phase
    )


def bench(arrays: Arrays, precision: Precision) -> Calls:
    """`fourfold.bench4f.propagation.Bench`: Fresnel's free space and thin lenses, plane by plane."""
    import torch

    from fourfold.bench4f.propagation import Bench

    image, phase, weights = _torch(arrays, precision)
    phase.requires_grad_()
    one = torch.ones_like(phase)
    side = len(image)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how paraxial the plane is stands on the page
        light = Bench(side, WAVELENGTH, focal(side), dtype=torch.polar(one, phase.detach()).dtype)
    return _torch_field(
        lambda: light.lens_ft(light.lens_ft(image) * torch.polar(one, phase), 1), _squared, weights, phase
    )


def torchoptics(arrays: Arrays, precision: Precision, **how: Any) -> Calls:
    """A ``System`` of two of its lenses and its phase modulator, measured one focal length behind."""
    import torch
    import torchoptics as optics
    from torchoptics.elements import Lens, PhaseModulator

    image, phase, weights = _torch(arrays, precision)
    side = len(image)
    f = focal(side)
    optics.set_default_dtype(image.dtype)
    optics.set_default_spacing(PITCH)
    optics.set_default_wavelength(WAVELENGTH)
    mask = PhaseModulator(torch.nn.Parameter(phase), z=2 * f)
    system = optics.System(Lens((side, side), f, z=f), mask, Lens((side, side), f, z=3 * f))
    light = optics.Field(image)
    calls = _torch_field(
        lambda: system.measure_at_z(light, 4 * f, **how),
        lambda field: field.intensity(),
        weights,
        mask.phase,
    )
    return Calls(lambda: calls.forward().data, calls.backward)


def torchoptics_on_the_plane(arrays: Arrays, precision: Precision) -> Calls:
    """`torchoptics`, told to use Fresnel's free space and no dark margin: a bench on a circle, as ours."""
    return torchoptics(arrays, precision, propagation_method="ASM_FRESNEL", asm_pad=(0, 0))


def svetlanna(arrays: Arrays, precision: Precision) -> Calls:
    """SVETlANNa's ``ConvLayer4F``: exact free space (angular spectrum), thin lenses, a phase mask."""
    import torch
    from svetlanna import Parameter, SimulationParameters, Wavefront
    from svetlanna.networks import ConvLayer4F

    # Its frequencies have torch's default precision.
    torch.set_default_dtype(getattr(torch, precision))
    image, phase, weights = _torch(arrays, precision)
    side = len(image)
    x = PITCH * (torch.arange(side) - side // 2)
    mask = Parameter(phase)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a method's new name
        layer = ConvLayer4F(SimulationParameters(x=x, y=x, wavelength=WAVELENGTH), focal(side), mask)
    light = Wavefront(image + 0j)
    return _torch_field(lambda: layer(light), lambda field: field.intensity, weights, mask.inner_parameter)


def optnn(arrays: Arrays, precision: Precision) -> Calls:
    """optnn's ``Optics_simulation.convolution_4F``, which wants the mask as the kernel that it transforms.

    It has its own focal length, 10 mm, and the pixel that goes with it. It returns what the camera reads.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from optnn import Optics_simulation
    image, phase, weights = _torch(arrays, precision)
    phase.requires_grad_()
    one = torch.ones_like(phase)
    light = Optics_simulation(len(image))
    return _torch_field(
        lambda: light.convolution_4F(image, torch.fft.ifft2(torch.polar(one, phase))),
        _squared,
        weights,
        phase,
    )


def _jax_field(field: Callable[[Any, Any], Any], arrays: Arrays, precision: Precision) -> Calls:
    """Compiled ahead, so that no call compiles. ``field``: of image and phase."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", precision == "float64")
    image, phase, weights = (jnp.asarray(array, precision) for array in arrays.values())

    def loss(phase: Any, image: Any, weights: Any) -> Any:
        return (weights * jnp.abs(field(image, phase)) ** 2).sum()

    forward = jax.jit(field).lower(image, phase).compile()
    backward = jax.jit(jax.grad(loss)).lower(phase, image, weights).compile()
    return Calls(
        lambda: forward(image, phase).block_until_ready(),
        lambda: (backward(phase, image, weights).block_until_ready(),),
    )


def two_ffts_jax(arrays: Arrays, precision: Precision) -> Calls:
    """`two_ffts` in JAX, compiled."""
    import jax.numpy as jnp

    return _jax_field(
        lambda image, phase: jnp.fft.ifft2(jnp.fft.fft2(image) * jnp.exp(1j * phase)), arrays, precision
    )


def chromatix(arrays: Arrays, precision: Precision) -> Calls:
    """Chromatix 0.6.0: two ``ff_lens``, a Fourier transform each, and a phase between them, compiled."""
    import chromatix.functional as cf
    import jax.numpy as jnp

    side = len(arrays["image"])
    dark = cf.plane_wave((side, side), PITCH, WAVELENGTH, power=None)

    def field(image: Any, phase: Any) -> Any:
        spectrum = cf.ff_lens(dark.replace(u=image + 0j), focal(side), 1.0)
        return cf.ff_lens(spectrum * jnp.exp(1j * phase), focal(side), 1.0).u

    return _jax_field(field, arrays, precision)


def _torch_layer(layer: Callable[[Any, Any], Any], arrays: Arrays, precision: Precision) -> Calls:
    """``layer``: of image and kernel, (1, 1, height, width) each."""
    import torch

    image, kernel, weights = _torch(arrays, precision)
    leaves = [array[None, None].requires_grad_() for array in (image, kernel)]

    def forward() -> Any:
        with torch.no_grad():
            return layer(*leaves)[0, 0]

    def backward() -> Any:
        gradients = torch.autograd.grad((weights * layer(*leaves)[0, 0]).sum(), leaves)
        return [gradient[0, 0] for gradient in gradients]

    return Calls(forward, backward)


def conv2d(arrays: Arrays, precision: Precision) -> Calls:
    """torch's own, without light."""
    from torch.nn.functional import conv2d

    return _torch_layer(lambda x, k: conv2d(x, k, padding=KERNEL // 2), arrays, precision)


def exact(arrays: Arrays, precision: Precision) -> Calls:
    """`fourfold.bench4f.optical_conv.fft_conv2d`: the field with its sign."""
    from fourfold.bench4f.optical_conv import fft_conv2d

    return _torch_layer(lambda x, k: fft_conv2d(x, k, padding="same"), arrays, precision)


def camera(arrays: Arrays, precision: Precision) -> Calls:
    """`fourfold.bench4f.optical_conv.optical_conv2d`: two passes, each read by a camera."""
    from fourfold.bench4f.optical_conv import optical_conv2d

    return _torch_layer(lambda x, k: optical_conv2d(x, k, padding="same"), arrays, precision)


def by_fields(arrays: Arrays, precision: Precision) -> Calls:
    """`fourfold.optics.four_f.field_by_field`: the same two passes, plane by plane."""
    import torch

    from fourfold.optics.four_f import field_by_field

    complex_ = torch.complex64 if precision == "float32" else torch.complex128
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a DFT is exact at any size; how paraxial it is asks nobody here
        return _torch_layer(lambda x, k: field_by_field(x, k, complex_), arrays, precision)


def optnn_layer(arrays: Arrays, precision: Precision) -> Calls:
    """optnn's ``OpticalConv2d`` without noise; it convolves, so its kernel is turned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from optnn import OpticalConv2d
    n = len(arrays["image"])
    layer = OpticalConv2d(1, 1, KERNEL, is_bias=False, pseudo_negativity=True, input_size=n, noise=False)

    def call(x: Any, kernel: Any) -> Any:
        # As a plain attribute the kernel stays a leaf of the benchmark's graph.
        layer._parameters["kernel"] = kernel.flip(-2, -1)
        return layer(x).flip(-2, -1)

    return _torch_layer(call, arrays, precision)


CONTESTANTS = {
    "two FFTs, torch": Contestant(two_ffts, fft_order=True),
    "two FFTs, JAX": Contestant(two_ffts_jax, environment="jax", package="jax", fft_order=True),
    "fourfold, fields": Contestant(bench, turned=True),
    "torchoptics": Contestant(torchoptics_on_the_plane, package="torchoptics", turned=True, axis=0.5),
    "torchoptics, padded": Contestant(
        torchoptics, package="torchoptics", turned=True, axis=0.5, exact_waves=True, largest=256
    ),
    "SVETlANNa": Contestant(
        svetlanna, environment="svetlanna", package="svetlanna", turned=True, exact_waves=True
    ),
    "optnn": Contestant(optnn, package="optnn", precisions=("float64",), turned=True, fft_order=True),
    "Chromatix": Contestant(
        chromatix, environment="chromatix", package="chromatix", precisions=("float32",), turned=True
    ),
    "conv2d, torch": Contestant(conv2d, "layer"),
    "fourfold, exact": Contestant(exact, "layer"),
    "fourfold, camera": Contestant(camera, "layer"),
    "fourfold, fields, layer": Contestant(by_fields, "layer"),
    "optnn, layer": Contestant(optnn_layer, "layer", package="optnn", precisions=("float32",)),
}


# --- the worker ---------------------------------------------------------------------------------------------


def given(name: str, side: int, precision: Precision) -> Arrays:
    """A contestant's scene, in the order that it wants.

    Raises ``ValueError`` for a name, precision or side that it does not have.
    """
    if name not in CONTESTANTS:
        raise ValueError(f"contestant must be one of {', '.join(CONTESTANTS)}, got {name!r}")
    one = CONTESTANTS[name]
    if precision not in one.precisions:
        raise ValueError(f"precision must be one of {', '.join(one.precisions)}, got {precision!r}")
    if side > one.largest:
        raise ValueError(f"side must be at most {one.largest} pixels for {name}, got {side}")
    arrays = scene(one.task, side, one.axis)
    if one.turned:
        arrays["weights"] = turned(arrays["weights"], one.axis)
    if one.fft_order:
        arrays["phase"] = np.fft.ifftshift(arrays["phase"])
    return arrays


class Stand:
    """The contestant of this process, and the questions that it answers."""

    def __init__(self) -> None:
        self.calls: Calls | None = None
        self.number: dict[str, int] = {}

    def prepare(
        self, name: str, side: int, precision: Precision, folder: str, at_least: float
    ) -> dict[str, Any]:
        """Make the contestant, and leave its answer and gradients in a folder: answer.npy, gradient<i>.npy.

        ``at_least``: seconds of a round. Says how long making it and its first calls took, compiling
        included, and the version of its package.
        """
        self.calls, arrays, one = None, given(name, side, precision), CONTESTANTS[name]
        start = time.process_time()
        self.calls = one.make(arrays, precision)
        took = {"make": time.process_time() - start}
        found = {}
        for kind in ("forward", "backward"):
            start = time.process_time()
            found[kind] = getattr(self.calls, kind)()
            took[kind] = time.process_time() - start
            once = self.round(kind, 1)["seconds"]
            self.number[kind] = max(1, math.ceil(at_least / max(once, 1e-9)))
        answer = _numpy(found["forward"])
        np.save(Path(folder) / "answer.npy", turned(answer, one.axis) if one.turned else answer)
        for i, gradient in enumerate(map(_numpy, found["backward"])):
            np.save(
                Path(folder) / f"gradient{i}.npy", np.fft.fftshift(gradient) if one.fft_order else gradient
            )
        return {"first": took, "version": version(one.package)}

    def round(self, kind: str, number: int | None = None) -> dict[str, float]:
        """Processor seconds of a call of a kind, ``forward`` or ``backward``, mean of a round's.

        Raises ``ValueError`` if nothing was prepared.
        """
        if self.calls is None:
            raise ValueError("prepare a contestant first, got 'round'")
        call, number = getattr(self.calls, kind), number or self.number[kind]
        start = time.process_time()
        for _ in range(number):
            call()
        return {"seconds": (time.process_time() - start) / number}

    def memory(self, name: str, side: int, precision: Precision, kind: str) -> dict[str, int]:
        """Bytes at the peak of making a contestant and calling it once; ask a fresh process.

        Libraries are loaded, and a compiler has compiled, on a small plane before.
        """
        small, arrays = given(name, 64, precision), given(name, side, precision)
        make = CONTESTANTS[name].make
        getattr(make(small, precision), kind)()
        return {"bytes": peak(lambda: getattr(make(arrays, precision), kind)())}


def _numpy(array: Any) -> np.ndarray:
    """Whatever holds an array, as numpy's."""
    if not hasattr(array, "detach"):
        return np.asarray(array)
    # A subclass of tensors, such as a wavefront, has no arrays of its own.
    import torch

    return array.detach().as_subclass(torch.Tensor).resolve_conj().numpy()


def main() -> None:
    """Answer the benchmark."""
    stand = Stand()
    serve({"prepare": stand.prepare, "round": stand.round, "memory": stand.memory})


if __name__ == "__main__":
    main()
