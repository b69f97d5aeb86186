"""The engine: conv2d by light in every geometry, a camera as noisy as derived, a layer that trains."""

import threading
from functools import partial
from itertools import pairwise
from math import inf, sqrt

import optnn
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import fftconvolve
from torch import nn
from torch.autograd import gradcheck
from torch.nn.functional import conv2d, cross_entropy, pad

from fourfold.bench4f import exact, optical_conv, passes
from fourfold.bench4f.camera import IDEAL, Noise
from fourfold.bench4f.geometry import prepare
from fourfold.bench4f.optical_conv import (
    MODES,
    OpticalConv2d,
    fft_conv2d,
    optical_conv2d,
    optical_passes,
)
from fourfold.recorded import benchmark

from ..draws import normal

CAMERAS = ("pm", "offset", "reference")
REAL = Noise(photons=1e4, read_sigma=2, slm_bits=6, filter_bits=8, camera_bits=10)


def bright(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def seeded(seed: int = 100) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def oracle(x, weight, bias=None, *, stride=1, padding="valid", dilation=1, groups=1):
    """``conv2d`` on pixels that are padded by hand: torch has no "full", nor "same" with a stride."""
    sizes = [(k - 1) * d for k, d in zip(weight.shape[-2:], pair(dilation), strict=True)]
    if padding == "same":
        edges = [(size // 2, size - size // 2) for size in sizes]
    elif padding == "full":
        edges = [(size, size) for size in sizes]
    else:
        edges = [(p, p) for p in pair(0 if padding == "valid" else padding)]
    x = pad(x, (*edges[1], *edges[0]))
    return conv2d(x, weight, bias, stride=stride, dilation=dilation, groups=groups)


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    assert got.shape == wanted.shape
    return float((got.detach() - wanted.detach()).abs().max() / wanted.detach().abs().max())


# --- every geometry ---------------------------------------------------------------------------------------

# x, weight, geometry
GEOMETRIES = [
    ((2, 3, 8, 8), (4, 3, 3, 3), {}),
    ((1, 2, 9, 6), (2, 2, 5, 2), {"padding": "same"}),
    ((2, 2, 7, 10), (3, 2, 4, 6), {"padding": "full"}),
    ((2, 1, 6, 6), (2, 1, 2, 2), {"padding": "same", "stride": 2}),
    ((1, 2, 5, 4), (2, 2, 3, 3), {"padding": 6}),
    ((1, 2, 5, 7), (2, 2, 7, 3), {"padding": (3, 0), "stride": (1, 3)}),
    ((2, 1, 5, 4), (3, 1, 1, 1), {"padding": (0, 2)}),
    ((1, 1, 4, 5), (2, 1, 9, 8), {"padding": "same"}),
    ((1, 1, 6, 7), (2, 1, 6, 7), {}),
    ((2, 2, 9, 8), (3, 2, 3, 2), {"dilation": (2, 3), "padding": "same"}),
    ((1, 2, 9, 9), (3, 2, 3, 3), {"dilation": 3, "padding": 4, "stride": 2}),
    ((2, 6, 6, 6), (6, 1, 3, 3), {"groups": 6, "padding": 1}),
    ((2, 4, 6, 5), (8, 1, 3, 3), {"groups": 4, "padding": "same"}),
    ((1, 6, 7, 6), (4, 3, 3, 2), {"groups": 2, "padding": "full", "stride": (2, 1), "dilation": (1, 2)}),
    ((1, 2, 47, 5), (2, 2, 3, 3), {"padding": 1}),
    ((1, 2, 48, 5), (2, 2, 3, 3), {"padding": 1}),
    ((1, 2, 53, 20), (3, 2, 5, 4), {"padding": "same"}),
    ((1, 2, 30, 51), (2, 2, 3, 4), {"padding": 7, "stride": 2}),
    ((1, 4, 50, 9), (4, 2, 3, 3), {"padding": "full", "groups": 2, "dilation": (4, 1)}),
]
IDS = [f"{x[-2]}x{x[-1]}-{w[-2]}x{w[-1]}-{kw}" for x, w, kw in GEOMETRIES]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("x", "weight", "geometry"), GEOMETRIES, ids=IDS)
def test_every_mode_is_conv2d_in_every_geometry(x, weight, geometry, mode, dtype, tolerance):
    x, weight, bias = bright(*x), normal(*weight, seed=1), normal(weight[0], seed=2)
    wanted = oracle(x, weight, bias, **geometry)
    got = optical_conv2d(*(t.to(dtype) for t in (x, weight, bias)), mode=mode, **geometry)
    assert got.dtype == dtype
    assert error(got.double(), wanted) < tolerance


@settings(max_examples=60)
@given(
    batch=st.integers(1, 3), groups=st.integers(1, 3), i=st.integers(1, 3), o=st.integers(1, 3),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)), k=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.sampled_from(["same", "full", "valid", 0, 2, (7, 1)]), mode=st.sampled_from(MODES),
    signed=st.sampled_from([None, "split", "offset"]), by_fft=st.booleans(),
    way=st.sampled_from(["windows", "rows", "planes"]), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_shape_that_is_a_convolution_is_conv2d(
    batch, groups, i, o, size, k, dilation, stride, padding, mode, signed, by_fft, way, seed
):
    geometry = {"padding": padding, "dilation": dilation, "stride": stride, "groups": groups}
    x, weight = bright(batch, groups * i, *size, seed=seed), normal(groups * o, i, *k, seed=seed + 1)
    x = x if signed is None and mode != "exact" else x - 0.5
    call = {**geometry, "mode": mode, "signed": signed}
    spread = [(taps - 1) * gap + 1 for taps, gap in zip(k, dilation, strict=True)]
    room = [
        n + 2 * p for n, p in zip(size, pair(padding if not isinstance(padding, str) else 0), strict=True)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "cheaper", lambda *_: "fft" if by_fft else "matrices")
        patch.setattr(passes, "cheaper", lambda *_: way)
        if padding not in ("same", "full") and any(s > r for s, r in zip(spread, room, strict=True)):
            with pytest.raises(ValueError, match="take a smaller kernel"):
                optical_conv2d(x, weight, **call)
            return
        got, wanted = optical_conv2d(x, weight, **call), oracle(x, weight, **geometry)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-11)


@pytest.mark.parametrize("side", [20, 60])
@pytest.mark.parametrize("padding", ["same", "valid", "full"])
def test_scipy_agrees(side, padding):
    x, kernel = normal(side, side + 3), normal(5, 7, seed=1)
    got = fft_conv2d(x[None, None], kernel.flip(0, 1)[None, None], padding=padding)
    assert error(got[0, 0], torch.from_numpy(fftconvolve(x, kernel, padding))) < 1e-12


@pytest.mark.parametrize("mode", MODES)
def test_memory_layout_does_not_matter(mode):
    x, weight = bright(2, 4, 8, 8), normal(4, 2, 3, 3, seed=1)
    plain = optical_conv2d(x, weight, groups=2, mode=mode)
    for layout in (
        lambda t: t.contiguous(memory_format=torch.channels_last),
        lambda t: t.mT.contiguous().mT,
        lambda t: torch.stack([t, t], -1)[..., 0],
    ):
        got = optical_conv2d(layout(x), layout(weight), groups=2, mode=mode)
        torch.testing.assert_close(got, plain, rtol=0, atol=1e-13)
    same = optical_conv2d(x, weight[:1].expand(4, -1, -1, -1), groups=2, mode=mode)
    torch.testing.assert_close(same, oracle(x, weight[:1].expand(4, -1, -1, -1), groups=2))


def test_an_unsplit_pass_loses_the_sign():
    # What pseudo-negativity is for: |U| of a kernel with zero mean.
    x, weight = bright(1, 1, 16, 16), normal(1, 1, 5, 5, seed=1)
    wanted = oracle(x, weight - weight.mean())
    assert float((wanted.abs() - wanted).norm() / wanted.norm()) > 1


# --- signs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", CAMERAS)
@pytest.mark.parametrize("signed", ["split", "offset"])
@pytest.mark.parametrize("padding", ["valid", "same", "full", 5])
def test_images_with_signs_are_conv2d_too(mode, signed, padding):
    x, weight = normal(2, 4, 7, 8), normal(6, 2, 3, 4, seed=1)
    x[0] += 4  # a sample without a sign
    got = optical_conv2d(x, weight, padding=padding, groups=2, mode=mode, signed=signed)
    assert error(got, oracle(x, weight, padding=padding, groups=2)) < 1e-12


@pytest.mark.parametrize("mode", CAMERAS)
def test_images_with_signs_are_refused_unless_they_are_signed(mode):
    x, weight = normal(1, 1, 6, 6), normal(1, 1, 3, 3)
    with pytest.raises(ValueError, match=rf"got a pixel of {float(x.min()):.3g}; use signed='split'"):
        optical_conv2d(x, weight, mode=mode)
    for remedy in ("split", "offset"):
        assert error(optical_conv2d(x, weight, mode=mode, signed=remedy), oracle(x, weight)) < 1e-12
    assert error(optical_conv2d(x, weight, mode="exact"), oracle(x, weight)) < 1e-12


@pytest.mark.parametrize("mode", CAMERAS)
@pytest.mark.parametrize("noise", [IDEAL, Noise(photons=100, slm_bits=4, filter_bits=4, camera_bits=4)])
def test_dark_images_and_empty_kernels_answer_with_a_finite_nothing(mode, noise):
    x, weight = bright(2, 1, 5, 5), normal(2, 1, 3, 3, seed=1)
    x[1], weight[1] = 0, 0
    got = optical_conv2d(x, weight, mode=mode, noise=noise, generator=seeded())
    assert got.isfinite().all()
    if mode == "pm" or noise == IDEAL:
        assert got[1].abs().max() < 1e-12
        assert got[:, 1].abs().max() < 1e-12


# --- gradients --------------------------------------------------------------------------------------------

GEOMETRY = {"padding": "same", "stride": (1, 2), "dilation": (2, 1), "groups": 2}


@pytest.mark.parametrize("way", ["fft", "matrices"])
def test_gradients_of_the_engine(way, monkeypatch):
    monkeypatch.setattr(exact, "cheaper", lambda *_: way)
    inputs = (normal(2, 2, 4, 5), normal(4, 1, 2, 3, seed=1), normal(4, seed=2))
    inputs = [tensor.requires_grad_() for tensor in inputs]
    assert gradcheck(lambda x, w, b: fft_conv2d(x, w, b, **GEOMETRY), inputs)


@pytest.mark.parametrize("mode", CAMERAS)
@pytest.mark.parametrize("signed", [None, "split", "offset"])
def test_gradients_of_every_mode(mode, signed):
    x = bright(1, 2, 3, 4) + 0.1 if signed is None else normal(1, 2, 3, 4)
    inputs = [t.requires_grad_() for t in (x, normal(2, 1, 2, 3, seed=1), normal(2, seed=2))]
    assert gradcheck(
        lambda x, w, b: optical_conv2d(x, w, b, mode=mode, signed=signed, **GEOMETRY), inputs, atol=1e-6
    )


@pytest.mark.parametrize("mode", CAMERAS)
@pytest.mark.parametrize("noise", [IDEAL, REAL])
def test_gradients_are_those_of_conv2d_whatever_the_noise(mode, noise):
    inputs = [t.requires_grad_() for t in (bright(2, 2, 6, 6), normal(4, 1, 3, 3, seed=1), normal(4, seed=2))]
    got = optical_conv2d(*inputs, mode=mode, noise=noise, generator=seeded(), **GEOMETRY)
    wanted = oracle(*inputs, **GEOMETRY)
    ahead = normal(*wanted.shape, seed=3)
    for ours, theirs in zip(
        torch.autograd.grad(got, inputs, ahead), torch.autograd.grad(wanted, inputs, ahead), strict=True
    ):
        assert error(ours, theirs) < 1e-12


@pytest.mark.parametrize("frozen", ["x", "weight"])
def test_what_is_frozen_gets_no_gradient(frozen):
    x, weight = bright(1, 1, 5, 5), normal(1, 1, 3, 3, seed=1)
    (weight if frozen == "x" else x).requires_grad_()
    optical_conv2d(x, weight).sum().backward()
    assert (x.grad is None, weight.grad is None) == (frozen == "x", frozen == "weight")


# --- noise and bits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("photons", [1e4, 1e6])
@pytest.mark.parametrize("read_sigma", [0.0, 30.0])
def test_pm_noise_is_flat_and_as_derived(photons, read_sigma):
    """Each pass has a std of 1 / (2 sqrt(photons)) times its filter's scale, here 3 for k+ and for k-."""
    x = torch.ones(8, 1, 64, 64, dtype=torch.float64)
    x[:4] = 0.6  # electronics undo what fills the display, so both halves are scaled
    weight = torch.tensor([[1.0, -1], [-1, 1], [1, -1]], dtype=torch.float64)[None, None]
    noise = Noise(photons=photons, read_sigma=read_sigma)
    got = optical_conv2d(x, weight, noise=noise, generator=seeded())
    wrong = got - oracle(x, weight)
    # Read noise: std sigma / photons of an intensity of 1, halved by the root.
    one = sqrt(1 / photons + (read_sigma / photons) ** 2) / 2
    for half, brightest in ((wrong[:4], 0.6), (wrong[4:], 1.0)):
        derived = brightest * 3 * sqrt(2) * one
        assert float(half.std()) == pytest.approx(derived, rel=3 / sqrt(2 * half.numel()) + 1 / photons**0.5)
        assert abs(float(half.mean())) < 3 * derived / sqrt(half.numel()) + derived / sqrt(photons)
    if not read_sigma:
        assert float(wrong[4:].std()) / 3 == pytest.approx(1 / sqrt(2 * photons), rel=0.03)


def test_noise_adds_up_over_channels_and_falls_10_db_per_decade_of_photons():
    def std(channels, photons):
        x, weight = torch.ones(4, channels, 40, 40, dtype=torch.float64), normal(2, channels, 3, 3, seed=1)
        got = optical_conv2d(x, weight, noise=Noise(photons=photons), generator=seeded())
        scale = sum(part.clamp(min=0).sum((2, 3)).square().sum(1) for part in (weight, -weight)).sqrt()
        return ((got - oracle(x, weight)) / scale[:, None, None]).std() * 2 * sqrt(photons)

    for channels in (1, 5):
        for photons in (1e3, 1e5):
            assert float(std(channels, photons)) == pytest.approx(1, rel=0.05)


def test_offset_costs_more_noise_than_pm():
    x, weight = bright(4, 1, 24, 24), normal(4, 1, 5, 5, seed=1)
    wrong = {}
    for mode in CAMERAS:
        got = optical_conv2d(x, weight, mode=mode, noise=Noise(photons=1e4), generator=seeded())
        wrong[mode] = float((got - oracle(x, weight)).std())
    assert wrong["offset"] > 1.5 * wrong["pm"] > 0


@pytest.mark.parametrize("mode", CAMERAS)
@pytest.mark.parametrize("padding", ["valid", "same", "full", 4])
def test_a_camera_without_noise_is_ideal(mode, padding):
    # An imperfection too small to show takes the real camera's path.
    x, weight = bright(2, 4, 7, 6), normal(6, 2, 3, 3, seed=1)
    got = optical_conv2d(
        x, weight, padding=padding, groups=2, mode=mode, noise=Noise(photons=1e17), generator=seeded()
    )
    assert error(got, oracle(x, weight, padding=padding, groups=2)) < 1e-6
    wanted = optical_conv2d(x, weight, mode=mode, groups=2)
    nothing = Noise(slm_bits=None, filter_bits=None, camera_bits=None)
    assert optical_conv2d(x, weight, mode=mode, groups=2, noise=nothing).equal(wanted)


def snr(x, weight, **how) -> float:
    wanted = oracle(x, weight, padding="same")
    wrong = optical_conv2d(x, weight, padding="same", **how) - wanted
    return float(20 * torch.log10(wanted.norm() / wrong.norm()))


@pytest.mark.parametrize("mode", CAMERAS)
def test_16_filter_bits_are_near_ideal_and_2_are_far(mode):
    x, weight = bright(2, 2, 12, 12) * 0.937 + 0.011, normal(3, 2, 3, 4, seed=1)
    at = [snr(x, weight, mode=mode, noise=Noise(filter_bits=bits)) for bits in (2, 5, 10, 16)]
    assert at == sorted(at)
    assert at[0] < 15
    assert at[-1] > 50


@pytest.mark.parametrize("mode", CAMERAS)
def test_each_camera_bit_helps_and_few_are_far(mode):
    x, weight = bright(2, 2, 12, 12) * 0.937 + 0.011, normal(3, 2, 3, 3, seed=1)
    at = [snr(x, weight, mode=mode, noise=Noise(camera_bits=bits)) for bits in (2, 6, 10, 16)]
    assert at == sorted(at)
    assert at[0] < 15
    assert at[-1] > at[0] + 35


def test_an_input_display_gains_6_db_a_bit_and_is_worth_more_than_the_camera():
    x, weight = bright(4, 1, 32, 32) * 0.937 + 0.011, normal(4, 1, 5, 5, seed=1)
    display = [snr(x, weight, noise=Noise(slm_bits=bits)) for bits in range(4, 11)]
    camera = [snr(x, weight, noise=Noise(camera_bits=bits)) for bits in range(4, 11)]
    steps = [b - a for a, b in pairwise(display)]
    assert steps == pytest.approx([6.02] * 6, abs=0.7)
    assert all(c < d for c, d in zip(camera, display, strict=True))


def test_the_brightest_pixel_of_each_channel_fills_the_display():
    x, weight = bright(2, 3, 6, 6), normal(2, 3, 3, 3, seed=1)
    dimmed = x * torch.tensor([1e-3, 1.0, 50.0], dtype=torch.float64)[:, None, None]
    lifted = weight / torch.tensor([1e-3, 1.0, 50.0], dtype=torch.float64)[:, None, None]
    noise = Noise(slm_bits=4, filter_bits=6, camera_bits=8)
    torch.testing.assert_close(
        optical_conv2d(dimmed, lifted, noise=noise), optical_conv2d(x, weight, noise=noise)
    )


# --- determinism and memory -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", CAMERAS)
def test_the_generator_decides_the_noise(mode):
    x, weight = bright(2, 4, 6, 6), normal(4, 2, 3, 3, seed=1)
    first, again, other = (
        optical_conv2d(x, weight, groups=2, mode=mode, noise=REAL, generator=seeded(s)) for s in (7, 7, 8)
    )
    assert first.equal(again)
    assert not first.equal(other)


@pytest.mark.parametrize("mode", CAMERAS)
@pytest.mark.parametrize("noise", [IDEAL, Noise(slm_bits=5, filter_bits=7, camera_bits=9)])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_blocks_of_any_size_give_the_same(mode, noise, groups, monkeypatch):
    x, weight = bright(2, 6, 7, 8), normal(6, 6 // groups, 3, 2, seed=1)
    how = {"padding": "same", "groups": groups, "mode": mode, "noise": noise, "signed": None}
    wanted = optical_conv2d(x, weight, **how)
    one_channel = 8 * 7 * 2 * {"pm": 12, "offset": 7, "reference": 6}[mode] // groups
    for channels in (0, 1, 2, 4, 5, 6):  # parts of groups, a group, groups, all
        monkeypatch.setattr(passes, "FIELDS_AT_ONCE", channels * (one_channel + groups))
        monkeypatch.setattr(passes, "SHOWN_AT_ONCE", 1000 * channels)
        torch.testing.assert_close(optical_conv2d(x, weight, **how), wanted, rtol=0, atol=1e-12)


def layers() -> list[tuple[torch.Tensor, torch.Tensor, dict]]:
    return [
        (bright(2, 2, size, 7, seed=size), normal(4, 2, k, 3, seed=k), {"mode": mode, "signed": signed})
        for size, k in ((9, 3), (6, 5), (12, 2))
        for mode in CAMERAS
        for signed in (None, "split")
    ]


def test_a_result_stays_valid_while_other_layers_run():
    results = [optical_conv2d(x, weight, **how) for x, weight, how in layers()]
    for (x, weight, _), result in zip(layers(), results, strict=True):
        assert error(result, oracle(x, weight)) < 1e-12


def test_inputs_are_left_as_they_were():
    for x, weight, how in layers():
        before = x.clone(), weight.clone()
        optical_conv2d(x, weight, noise=REAL, generator=seeded(), **how)
        assert x.equal(before[0])
        assert weight.equal(before[1])


def test_threads_do_not_disturb_each_other():
    x, weight = bright(2, 4, 16, 16), normal(8, 4, 5, 5, seed=1)
    wrong: list[float] = []

    def work(seed: int) -> None:
        for turn in range(8):
            y = optical_conv2d(x + seed, weight * (turn + 1))
            wrong.append(error(y, oracle(x + seed, weight * (turn + 1))))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 32
    assert max(wrong) < 1e-12


@pytest.mark.parametrize("mode", MODES)
def test_training_works_after_inference_mode_has_made_the_lenses(mode):
    optical_conv.forget()
    x, weight = bright(2, 2, 9, 9), normal(4, 2, 3, 3, seed=1).requires_grad_()
    with torch.inference_mode():
        seen = optical_conv2d(x, weight, mode=mode)
    assert error(seen.clone(), oracle(x, weight)) < 1e-12
    got = optical_conv2d(x, weight, mode=mode)
    (gradient,) = torch.autograd.grad(got.sum(), weight)
    assert error(gradient, torch.autograd.grad(oracle(x, weight).sum(), weight)[0]) < 1e-12


# --- cost -------------------------------------------------------------------------------------------------

# batch, in, out, k, n: each far from where the two ways cost the same
LAYERS = [
    (1, 1, 1, 10, 28), (1, 1, 1, 32, 64), (2, 4, 4, 48, 64), (1, 3, 16, 32, 64), (4, 16, 16, 3, 28),
    (8, 16, 32, 7, 16),
]  # fmt: skip


DEARER = 3
"""How much longer the way that is taken may measure: costs were counted on one processor, tests on any."""


def fastest(ways: dict, turns: int = 12, calls: int = 3) -> dict[str, float]:
    """Seconds of each call, the shortest of some, in turns."""
    times: dict[str, float] = dict.fromkeys(ways, inf)
    for _ in range(turns):
        for name, way in ways.items():
            times[name] = min(times[name], benchmark.seconds(way, calls))
    return times


@pytest.mark.parametrize(("batch", "i", "o", "k", "n"), LAYERS)
def test_the_exact_bench_goes_no_way_that_measures_far_dearer(batch, i, o, k, n):
    x, weight = bright(batch, i, n, n, dtype=torch.float32), normal(o, i, k, k, dtype=torch.float32)
    y_axis, x_axis, _ = prepare(x, weight, "same", 1, 1)
    ways = {"matrices": exact.by_matrices, "fft": exact.by_fft}
    times = fastest({name: partial(way, x, weight, y_axis, x_axis, 1) for name, way in ways.items()})
    assert times[exact.cheaper(batch, o, i, y_axis, x_axis)] < DEARER * min(times.values())


@pytest.mark.parametrize(
    ("shape", "k", "n", "way"),
    [
        ((2, 8, 16), 3, 28, "windows"), ((2, 8, 16), 5, 16, "windows"), ((2, 8, 16), 20, 20, "rows"),
        ((1, 1, 1), 3, 252, "windows"), ((1, 1, 1), 9, 508, "planes"), ((1, 1, 1), 31, 508, "planes"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_passes_go_no_way_that_measures_far_dearer(shape, k, n, way, dtype, monkeypatch):
    batch, i, o = shape
    x, weight = bright(batch, i, n, n, dtype=dtype), normal(o, i, k, k, dtype=dtype)
    y_axis, x_axis, _ = prepare(x, weight, "same", 1, 1)
    assert passes.cheaper(y_axis, x_axis, k, k, 2 * o) == way

    def run(chosen):
        monkeypatch.setattr(passes, "cheaper", lambda *_: chosen)
        optical_conv2d(x, weight, padding="same")

    # Windows of 31 x 31 pixels of a large plane take a gigabyte.
    ways = [name for name in ("windows", "rows", "planes") if name != "windows" or k**2 * n**2 < 10**8]
    often = {"turns": 12, "calls": 3} if n < 100 else {"turns": 3, "calls": 1}
    times = fastest({chosen: partial(run, chosen) for chosen in ways}, **often)
    assert times[way] < DEARER * min(times.values())


@pytest.mark.parametrize(("side", "enlarged"), [(7, 8), (11, 12), (509, 512), (512, 512), (1021, 1024)])
def test_planes_have_small_factors_unless_responses_fill_them(side, enlarged):
    (y_axis, x_axis, _), k = prepare(torch.ones(1, 1, side, side), torch.ones(1, 1, 1, 1), 0, 1, 1), 1
    assert passes.Planes(y_axis, x_axis, k, k, 1).sides == (enlarged, enlarged)
    assert passes.Planes(y_axis, x_axis, side, side, 1).sides == (side, side)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("mode", CAMERAS)
@pytest.mark.parametrize("padding", ["valid", "same", "full", 9])
@pytest.mark.parametrize("bits", [None, 8])
def test_the_ways_agree_on_any_plane(mode, padding, bits, dtype, tolerance, monkeypatch):
    # Planes of 11, 13 and more pixels, which have no small factors.
    x, weight = bright(2, 4, 11, 13, dtype=dtype), normal(6, 2, 4, 3, seed=1, dtype=dtype)
    how = {"padding": padding, "groups": 2, "mode": mode, "noise": Noise(slm_bits=6, filter_bits=bits)}
    seen = {}
    for way in ("rows", "planes") if bits else ("windows", "rows", "planes"):
        monkeypatch.setattr(passes, "cheaper", lambda *_, way=way: way)
        seen[way] = optical_conv2d(x, weight, **how)
    for picture in seen.values():
        assert error(picture, seen["rows"]) < tolerance


def test_a_large_plane_takes_little_more_memory_than_its_spectra():
    x, weight = bright(1, 1, 508, 508), normal(1, 1, 9, 9)
    peak = benchmark.peak_memory(lambda: optical_conv2d(x, weight, padding="same"))
    assert peak < 15 * x.nbytes  # windows alone are 81 times the picture


@pytest.mark.parametrize(
    ("shape", "k", "n"), [((4, 16, 16), 3, 28), ((1, 1, 1), 9, 252), ((1, 1, 1), 31, 124)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_go_no_way_that_measures_far_dearer(shape, k, n, dtype, monkeypatch):
    batch, i, o = shape
    x, weight = bright(batch, i, n, n, dtype=dtype), normal(o, i, k, k, dtype=dtype)
    y_axis, x_axis, _ = prepare(x, weight, "same", 1, 1)
    ahead = bright(batch, o, n, n, dtype=dtype)
    taken = exact._cheaper_gradient(x, weight, y_axis, x_axis)

    def run(chosen):
        monkeypatch.setattr(exact, "_cheaper_gradient", lambda *_: chosen)
        exact.gradients(ahead, x, weight, y_axis, x_axis, 1, (True, True))

    ways = {chosen: partial(run, chosen) for chosen in ("direct", "matrices", "fft")}
    times = fastest(ways, turns=3, calls=1)
    assert times[taken] < DEARER * min(times.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("way", ["direct", "matrices", "fft"])
@pytest.mark.parametrize("at_once", [1, 10**9])
def test_gradients_of_every_way_and_block_are_conv2ds(way, at_once, dtype, monkeypatch):
    monkeypatch.setattr(exact, "_cheaper_gradient", lambda *_: way)
    monkeypatch.setattr(exact, "NUMBERS_AT_ONCE", at_once)
    inputs = [bright(2, 6, 7, 8), normal(4, 3, 3, 4, seed=1)]
    wanted = [tensor.clone().requires_grad_() for tensor in inputs]
    got = [tensor.to(dtype).requires_grad_() for tensor in inputs]
    how = {"padding": (1, 5), "groups": 2}
    seen = oracle(*wanted, **how)
    ahead = normal(*seen.shape, seed=3)
    truth = torch.autograd.grad(seen, wanted, ahead)
    ours = torch.autograd.grad(optical_conv2d(*got, **how), got, ahead.to(dtype))
    for one, other in zip(ours, truth, strict=True):
        assert error(one.double(), other) < (1e-5 if dtype == torch.float32 else 1e-12)


def test_memory_stays_small_whatever_the_number_of_channels():
    def peak(channels):
        x, weight = bright(2, channels, 16, 16), normal(16, channels, 5, 5)
        return benchmark.peak_memory(lambda: optical_conv2d(x, weight, padding="same"))

    peak(1)  # the lenses
    assert peak(64) < 1.1 * peak(16)


# --- the layer --------------------------------------------------------------------------------------------

ARGUMENTS = [
    ((3, 6, 3), {}),
    ((3, 6, (3, 2), 2, 1), {}),
    ((4, 8, 3, 1, "same", 2, 4, False), {}),
    ((3, 6, 5), {"stride": (2, 1), "padding": (2, 3), "dilation": (1, 2), "groups": 3}),
    ((3, 6, 3), {"padding": "valid", "bias": False, "dtype": torch.float64}),
]


@pytest.mark.parametrize(("args", "kwargs"), ARGUMENTS)
@pytest.mark.parametrize("mode", MODES)
def test_the_layer_is_a_drop_in_for_conv2d(args, kwargs, mode):
    theirs, ours = nn.Conv2d(*args, **kwargs), OpticalConv2d(*args, **kwargs, mode=mode)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = bright(2, args[0], 12, 11, dtype=theirs.weight.dtype)
    assert error(ours(x), theirs(x)) < 1e-5
    assert repr(ours).startswith(repr(theirs).replace("Conv2d", "OpticalConv2d")[:-1] + ", mode=")
    for name in nn.Conv2d.__constants__:
        assert getattr(ours, name) == getattr(theirs, name)


def test_the_same_seed_gives_conv2d_and_the_layer_the_same_weights():
    weights = []
    for kind in (nn.Conv2d, OpticalConv2d):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            weights.append(kind(2, 3, 3).weight)
    assert weights[0].equal(weights[1])


def test_the_layer_takes_full_padding_and_says_so():
    layer = OpticalConv2d(2, 3, (3, 4), padding="full", mode="reference", signed="split", noise=REAL)
    assert "padding=full" in repr(layer)
    assert f"mode='reference', signed='split', noise={REAL}" in repr(layer)
    layer.noise = IDEAL
    x = normal(2, 2, 6, 6, dtype=torch.float32)
    assert error(layer(x), oracle(x, layer.weight, layer.bias, padding="full")) < 1e-5


def test_a_layer_on_a_noisy_bench_learns():
    x, axes = bright(64, 1, 8, 8, dtype=torch.float32), torch.arange(64) % 2
    x[axes == 0, :, ::2] += 1  # stripes across, or down
    x[axes == 1, :, :, ::2] += 1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = OpticalConv2d(1, 4, 3, noise=Noise(1e3, 5, 4, 6, 8), generator=seeded())
        model = nn.Sequential(layer, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    optimiser, losses = torch.optim.Adam(model.parameters(), 0.05), []
    for _ in range(60):
        loss = cross_entropy(model(x), axes)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 0.5
    assert losses[-1] < 0.2 * losses[0]


# --- optnn, the simulator of FatNet's authors -------------------------------------------------------------


def by_optnn(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Its output upright: turned back by 180 degrees, of which its crop leaves "same" padding."""
    o, i, k, _ = weight.shape
    layer = optnn.OpticalConv2d(
        i, o, k, is_bias=False, pseudo_negativity=True, input_size=x.shape[-1], noise=False
    )
    layer.kernel.data = weight
    return layer(x).detach().flip(-2, -1)


def against_optnn(batch: int, i: int, o: int, k: int, n: int = 12) -> float:
    x = bright(batch, i, n, n, seed=k, dtype=torch.float32)
    weight = normal(o, i, k, k, seed=1, dtype=torch.float32)
    # It convolves where torch correlates.
    ours = optical_conv2d(x, weight.flip(-2, -1), padding="same")
    assert error(ours, oracle(x, weight.flip(-2, -1), padding="same")) < 1e-6
    return error(by_optnn(x, weight), ours)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("n", [12, 28])
def test_optnn_agrees_on_one_image_of_one_channel_and_one_kernel(k, n):
    assert against_optnn(1, 1, 1, k, n) < 1e-6


@pytest.mark.parametrize(("batch", "i", "o"), [(2, 1, 1), (3, 1, 1), (1, 2, 1), (2, 2, 2), (1, 1, 3)])
def test_optnn_mixes_up_batches_and_channels(batch, i, o):
    assert against_optnn(batch, i, o, 3) > 0.1


def test_optnn_swaps_the_samples_of_a_batch():
    # Its fftshift names no dimension, and so rolls the batch too.
    x = bright(2, 1, 12, 12, dtype=torch.float32)
    weight = normal(1, 1, 3, 3, seed=1, dtype=torch.float32)
    ours = optical_conv2d(x, weight.flip(-2, -1), padding="same")
    assert error(by_optnn(x, weight).roll(1, 0), ours) < 1e-6


def test_optnn_kernels_wrap_onto_the_pixels_it_keeps_from_11_on():
    assert against_optnn(1, 1, 1, 9) < 1e-6
    assert against_optnn(1, 1, 1, 11) > 0.01


# --- passes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "signed", "expected"),
    [
        ("exact", None, 105), ("reference", None, 105), ("pm", None, 210), ("offset", None, 120),
        ("reference", "split", 210), ("pm", "split", 420), ("offset", "split", 240), ("pm", "offset", 210),
    ],
)  # fmt: skip
def test_passes_are_counted_as_derived(mode, signed, expected):
    assert optical_passes(3, 5, 7, mode, signed) == expected


@pytest.mark.parametrize("mode", CAMERAS)
@pytest.mark.parametrize("signed", [None, "split", "offset"])
@pytest.mark.parametrize("groups", [1, 2])
def test_passes_are_those_that_are_simulated(mode, signed, groups, monkeypatch):
    shown, fields = [], passes.Passes.fields

    def counting(light, images, responses, per_group):
        for block, field in fields(light, images, responses, per_group):
            shown.append(field.numel() // light.pixels)
            yield block, field

    monkeypatch.setattr(passes.Passes, "fields", counting)
    x, weight = bright(3, 4, 6, 6), normal(10, 4 // groups, 3, 3)
    optical_conv2d(x, weight, groups=groups, mode=mode, signed=signed)
    assert sum(shown) == optical_passes(3, 4, 10 // groups, mode, signed)


# --- bad input --------------------------------------------------------------------------------------------

X, W = bright(2, 4, 6, 7), normal(6, 4, 3, 3)
REFUSED = [
    (lambda: fft_conv2d(X[0], W), r"expected x \(batch, channels, height, width\).* got \(4, 6, 7\) and"),
    (lambda: fft_conv2d(X, W[0]), r"expected .*got \(2, 4, 6, 7\) and \(4, 3, 3\)"),
    (lambda: fft_conv2d(X, W[:, :3]), "groups = 1 .*the 4 channels of x into 3 a group"),
    (lambda: fft_conv2d(X, W[:, :1], groups=3), "groups = 3 must divide 6 kernels, and the 4 channels"),
    (lambda: fft_conv2d(X, W[:5, :2], groups=2), "groups = 2 must divide 5 kernels"),
    (lambda: fft_conv2d(X, W, groups=0), "groups = 0"),
    (lambda: fft_conv2d(X, W.float()), r"both be float32 or float64, got torch\.float64 and torch\.float32"),
    (lambda: fft_conv2d(X.half(), W.half()), r"float32 or float64, got torch\.float16"),
    (lambda: fft_conv2d(X, W, dilation=0), "dilation must be .*>= 1, got 0"),
    (lambda: fft_conv2d(X, W, dilation=(1, -1)), r"dilation must be .*>= 1, got \(1, -1\)"),
    (lambda: fft_conv2d(X, W, stride=0), "stride must be .*>= 1, got 0"),
    (lambda: fft_conv2d(X, W, stride=(1, 0)), r"stride must be .*>= 1, got \(1, 0\)"),
    (lambda: fft_conv2d(X, W, stride=(1, 1, 1)), r"stride must be .*got \(1, 1, 1\)"),
    (lambda: fft_conv2d(X, W, padding=(1, 1, 1)), r"padding must be .*got \(1, 1, 1\)"),
    (lambda: fft_conv2d(X, W, padding=-1), "padding must be 'same', .* integer >= 0, got -1"),
    (lambda: fft_conv2d(X, W, padding="reflect"), "padding must be .*got 'reflect'"),
    (lambda: fft_conv2d(X, W, padding=1.5), r"padding must be .*got 1\.5"),
    (lambda: fft_conv2d(X, normal(1, 4, 7, 3)), "kernel height must be at most 6 .*padding 'valid', got 7"),
    (lambda: fft_conv2d(X, normal(1, 4, 3, 12), padding=2), "kernel width must be at most 11 pixels.*got 12"),
    (lambda: fft_conv2d(X, W, dilation=3), "kernel height must be at most 6 pixels.*got 7"),
    (lambda: fft_conv2d(X, W, torch.zeros(5)), r"bias must .*\(6,\).*got \(5,\)"),
    (lambda: fft_conv2d(X, W, torch.zeros(6, 1, 1)), r"bias must .*\(6,\).*got \(6, 1, 1\)"),
    (lambda: fft_conv2d(X[:0], W), r"empty.*got \(0, 4, 6, 7\)"),
    (lambda: optical_conv2d(X[:0], W), r"empty.*got \(0, 4, 6, 7\)"),
    (lambda: optical_conv2d(X, W, mode="abs"), "mode must be one of 'exact', 'pm', .*got 'abs'"),
    (lambda: optical_conv2d(X, W, signed="both"), "signed must be one of None, .*got 'both'"),
    (lambda: optical_conv2d(X, W, mode="exact", noise=REAL), "mode must be 'pm', .*10000.*got 'exact'"),
    (lambda: optical_conv2d(X, W[:, :3]), "groups = 1 .*the 4 channels of x into 3 a group"),
    (lambda: optical_conv2d(X, W, stride=0), "stride must be .*>= 1, got 0"),
    (lambda: optical_conv2d(X - 1, W), r"x must not be negative.*got a pixel of -\d"),
    (lambda: optical_conv2d(X - inf, W), "got a pixel of -inf"),
    (lambda: OpticalConv2d(1, 1, 3, mode="sum"), "mode must be one of .*got 'sum'"),
    (lambda: OpticalConv2d(1, 1, 3, signed="no"), "signed must be one of .*got 'no'"),
    (lambda: OpticalConv2d(1, 1, 3, mode="exact", noise=REAL), "mode must be 'pm', .*got 'exact'"),
    (lambda: OpticalConv2d(1, 1, 3, padding_mode="circular"), "padding_mode must be 'zeros'.*got 'circular'"),
    (lambda: OpticalConv2d(1, 1, 3)(-torch.ones(1, 1, 5, 5)), "x must not be negative"),
    (lambda: optical_passes(0, 1, 1), "batch must be >= 1, got 0"),
    (lambda: optical_passes(1, -1, 1), "channels must be >= 1, got -1"),
    (lambda: optical_passes(1, 1, 0), "kernels must be >= 1, got 0"),
    (lambda: optical_passes(1, 1, 1, "all"), "mode must be one of .*got 'all'"),
    (lambda: optical_passes(1, 1, 1, "pm", "all"), "signed must be one of .*got 'all'"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_bad_geometry_is_refused_before_any_light(monkeypatch):
    monkeypatch.setattr(torch, "bmm", None)
    for mode in MODES:
        with pytest.raises(ValueError, match="stride must be"):
            optical_conv2d(X, W, mode=mode, stride=0)


def test_forgetting_frees_what_calls_keep_and_changes_no_result():
    x, weight = torch.rand(1, 1, 8, 8), torch.randn(1, 1, 3, 3)
    how = {"noise": Noise(filter_bits=16)}  # whose responses need lenses
    before = optical_conv2d(x, weight, **how)
    assert exact.first_lens.cache_info().currsize
    optical_conv.forget()
    assert not exact.first_lens.cache_info().currsize
    torch.testing.assert_close(optical_conv2d(x, weight, **how), before, rtol=0, atol=0)
