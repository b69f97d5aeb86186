"""The light room: one pass computes what it should, costs what is derived, and fails where it must."""

from math import ceil, inf, log2, nan

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import fftconvolve
from torch.nn.functional import conv2d, scaled_dot_product_attention

from fourfold.bench4f import light
from fourfold.bench4f.light import (
    MODES,
    capacity,
    light_pass,
    linear_passes,
    optical_attention,
    optical_linear,
    optical_mix,
    tight_pitch,
    tile,
    untile,
)
from fourfold.bench4f.throughput import (
    FATNET_CHANNELS,
    FILTERS,
    RATES,
    RESNET18_CHANNELS,
    SIGN_PASSES,
    Bench4f,
    ViTShape,
    conversion_samples,
    converted_seconds_per_image,
    convolution_count,
    fatnet_seconds,
    group_size,
    passes,
    seconds_per_image,
    total_samples,
)

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-10}  # the record's C2 threshold; float64 reaches about 1e-13
FCSA = ViTShape(tokens=145, dim=64, depth=8, heads=4, mlp_ratio=2)


def every_map(x: torch.Tensor, kernels: torch.Tensor, padding: str) -> torch.Tensor:
    return conv2d(x[:, None], kernels[:, None], padding=kernels.shape[-1] // 2 if padding == "same" else 0)


def us(R: int, batch: int, tiling: str = "mix", **kwargs) -> float:
    return 1e6 * seconds_per_image(FCSA, Bench4f(R, RATES["paper"]), batch, tiling, **kwargs)


# --- one pass ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("R", "m", "k"), [(16, 12, 5), (17, 11, 7), (31, 31, 1), (9, 1, 9)])
def test_a_pass_is_the_linear_convolution_when_the_plane_has_room(R, m, k):
    image, kernel = normal(m, m), normal(k, k, seed=1)
    plane = torch.zeros(R, R, dtype=torch.float64)
    plane[:m, :m] = image
    out = light_pass(plane, kernel)[: m + k - 1, : m + k - 1]
    torch.testing.assert_close(out, torch.from_numpy(fftconvolve(image.numpy(), kernel.numpy())), **EXACT)


@pytest.mark.parametrize("R", [6, 7])
def test_a_pass_wraps_around_and_takes_complex_fields(R):
    plane, kernel = normal(2, R, R, seed=2), torch.complex(normal(R, R), normal(R, R, seed=1))
    direct = sum(
        kernel[i, j] * plane.roll((i, j), dims=(-2, -1)) for i in range(R) for j in range(R)
    )  # the definition
    torch.testing.assert_close(light_pass(plane, kernel), direct, **EXACT)
    torch.testing.assert_close(light_pass(plane, kernel.real), direct.real, **EXACT)


def test_gradients_pass_through_the_plane():
    x, w = normal(3, 2, 2).requires_grad_(), normal(2, 2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: optical_linear(x, w, 5, mode="mix")[0], (x, w))
    q, k, v = (normal(3, 4, seed=s).requires_grad_() for s in range(3))
    assert torch.autograd.gradcheck(lambda q, k, v: optical_attention(q, k, v, 7)[0], (q, k, v))


# --- tiles ------------------------------------------------------------------------------------------------


@given(p=st.integers(1, 5), slack=st.integers(0, 3), rest=st.integers(0, 9), n=st.integers(1, 9))
def test_untile_undoes_tile_also_on_planes_with_a_remainder(p, slack, rest, n):
    x, pitch = normal(2, n, p, p), p + slack
    R = 3 * pitch + rest
    plane = tile(x, R, pitch)
    assert plane.shape == (2, R, R)
    assert torch.equal(untile(plane, n, p, pitch), x)
    torch.testing.assert_close(plane.sum(), x.sum(), **EXACT)  # nothing else is lit


def test_tile_pass_untile_is_one_valid_layer_by_hand():
    x, kernel = normal(9, 4, 4), normal(3, 3, seed=1)
    spot = torch.zeros(14, 14, dtype=torch.float64)
    spot[:3, :3] = kernel.flip(0, 1)
    camera = light_pass(tile(x, 14, 4), spot.roll((-2, -2), dims=(0, 1)))
    torch.testing.assert_close(untile(camera, 9, 2, 4), every_map(x, kernel[None], "valid")[:, 0], **EXACT)


# --- linear layers ----------------------------------------------------------------------------------------


@given(
    tokens=st.integers(1, 12), d=st.integers(1, 8), p=st.integers(1, 6), k=st.integers(1, 7),
    padding=st.sampled_from(["valid", "same"]), mode=st.sampled_from(MODES),
    extra=st.integers(0, 25), slack=st.integers(0, 2), seed=st.integers(0, 99),
)  # fmt: skip
def test_optical_linear_is_conv2d_and_passes_are_the_closed_form(
    tokens, d, p, k, padding, mode, extra, slack, seed
):
    k = min(k, p) if padding == "valid" else k - (k + 1) % 2
    pitch = tight_pitch(p, k, padding) + slack
    R = pitch + extra
    x, w = normal(tokens, p, p, seed=seed), normal(d, k, k, seed=seed + 1)
    y, used = optical_linear(x, w, R, padding, mode, pitch if slack else None)
    torch.testing.assert_close(y, every_map(x, w, padding), **EXACT)
    n = (R // pitch) ** 2
    closed = {"batch": d * ceil(tokens / n), "kernel": tokens * ceil(d / n)}
    assert used == closed.get(mode, used) == linear_passes(tokens, d, R, pitch, mode)


@given(tokens=st.integers(1, 80), d=st.integers(1, 80), side=st.integers(1, 9))
def test_mix_takes_the_fewest_passes_of_all_arrays_that_fit(tokens, d, side):
    span = range(1, side + 1)
    arrays = [
        (ay * ax, by * bx)
        for ay in span for by in span if ay * by <= side
        for ax in span for bx in span if ax * bx <= side
    ]  # fmt: skip
    mix = linear_passes(tokens, d, side, 1, "mix")
    assert mix == min(ceil(tokens / a) * ceil(d / b) for a, b in arrays)
    assert ceil(tokens * d / side**2) <= mix <= min(linear_passes(tokens, d, side, 1, m) for m in MODES)
    assert (linear_passes(tokens, tokens, side, 1, "mix") == 1) == (tokens <= side)  # T^2 <= n_h


def test_the_tight_pitch():
    assert [tight_pitch(8, k, "valid") for k in (1, 5, 8)] == [8, 8, 8]
    assert [tight_pitch(8, k, "same") for k in (1, 3, 7)] == [8, 9, 11]


@pytest.mark.parametrize("mode", MODES)
def test_a_valid_layer_with_k_equal_to_p_is_a_matmul(mode):
    x, w = normal(20, 8, 8), normal(24, 8, 8, seed=1)
    y, used = optical_linear(x, w, 61, mode=mode)  # 7 x 7 tiles and a remainder of 5 pixels
    expected = x.flatten(1).numpy() @ w.flatten(1).numpy().T
    np.testing.assert_allclose(y[..., 0, 0].numpy(), expected, rtol=0, atol=1e-10)
    assert used == {"batch": 24, "kernel": 20, "mix": linear_passes(20, 24, 61, 8, "mix")}[mode]


def test_all_256_products_of_16_tokens_and_16_kernels_in_one_pass():
    x, w = normal(16, 4, 4), normal(16, 4, 4, seed=1)
    y, used = optical_linear(x, w, 64, mode="mix")
    assert used == 1
    torch.testing.assert_close(y, every_map(x, w, "valid"), **EXACT)


@pytest.mark.parametrize("k", [3, 5, 7])
def test_same_padding_is_exact_at_the_tight_and_the_safe_pitch_and_fails_one_pixel_below(k):
    x, w = normal(30, 8, 8), normal(6, k, k, seed=1)
    for mode in MODES:
        for pitch in (8 + k // 2, 8 + k - 1):
            y, _ = optical_linear(x, w, 64, "same", mode, pitch)
            torch.testing.assert_close(y, every_map(x, w, "same"), **EXACT)
        y, _ = optical_linear(x, w, 64, "same", mode, pitch=8 + k // 2 - 1)
        assert (y - every_map(x, w, "same")).abs().max() > 1


def test_one_filter_cannot_realise_two_token_kernels():
    # Only the first or only the second token is lit with the same content; the layer asks for <x, K1> and
    # <x, K2>. Any filter whatever answers both alike, so one answer is off by half the difference at least.
    x, kernels = normal(1, 8, 8), normal(2, 8, 8, seed=1)
    wanted = (kernels * x).sum(dim=(-2, -1))
    first, second = torch.cat((x, 0 * x)), torch.cat((0 * x, x))
    for seed in range(5):
        any_filter = normal(32, 32, seed=seed)
        a = untile(light_pass(tile(first, 32, 8), any_filter), 2, 1, 8)[0, 0, 0]
        b = untile(light_pass(tile(second, 32, 8), any_filter), 2, 1, 8)[1, 0, 0]
        torch.testing.assert_close(a, b, **EXACT)
        assert torch.stack((a, b)).sub(wanted).abs().max() >= wanted.diff().abs().item() / 2 - 1e-10 > 1
    shared, _ = optical_linear(normal(2, 8, 8, seed=2), kernels.mean(0, keepdim=True), 32)
    own = (normal(2, 8, 8, seed=2) * kernels).sum(dim=(-2, -1))
    assert (shared[:, 0, 0, 0] - own).abs().max() > 1


def test_float32_and_chunked_exposures_agree_with_one_batch(monkeypatch):
    x, w = normal(12, 5, 5), normal(9, 3, 3, seed=1)
    y, used = optical_linear(x, w, 23, "same")
    single, _ = optical_linear(x.float(), w.float(), 23, "same")
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, y.float(), rtol=0, atol=1e-4)
    monkeypatch.setattr("fourfold.bench4f.light._PIXELS_AT_ONCE", 1)
    again, used_again = optical_linear(x, w, 23, "same")
    assert used == used_again
    torch.testing.assert_close(again, y, **EXACT)


# --- attention --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("T", "d", "R", "tiling", "each"),
    [
        (16, 16, 64, "naive", 16), (16, 16, 64, "mix", 1), (16, 16, 67, "mix", 1), (16, 16, 63, "mix", 2),
        (7, 9, 25, "mix", 1), (5, 6, 17, "naive", 5), (5, 6, 17, "mix", 1), (10, 4, 5, "naive", 30),
    ],
)  # fmt: skip
def test_attention_on_the_plane_is_scaled_dot_product_attention(T, d, R, tiling, each):
    q, k, v = (normal(2, 3, T, d, seed=s) for s in range(3))  # image, head, token, feature
    y, used = optical_attention(q, k, v, R, tiling)
    torch.testing.assert_close(y, scaled_dot_product_attention(q, k, v), **EXACT)
    assert used == 2 * 3 * 2 * each  # images, heads, two products


@given(
    m=st.integers(1, 9), n=st.integers(1, 9), d=st.integers(1, 10), extra=st.integers(0, 20),
    tiling=st.sampled_from(["naive", "mix"]),
)  # fmt: skip
def test_optical_mix_is_a_matmul(m, n, d, extra, tiling):
    weights, values = normal(m, n), normal(n, d, seed=1)
    y, used = optical_mix(weights, values, ceil(d**0.5) + extra, tiling)
    torch.testing.assert_close(y, weights @ values, **EXACT)
    side = (ceil(d**0.5) + extra) // ceil(d**0.5)
    assert used == linear_passes(n, m, side, 1, "batch" if tiling == "naive" else "mix")


def test_grouped_attention_puts_several_problems_into_one_pass():
    shape = ViTShape(tokens=5, dim=12, depth=1, heads=3, mlp_ratio=2)  # 2 x 2 tiles for each head
    g = group_size(shape, 33)
    assert g == 3  # floor(16 / 5)
    q, k, v = (normal(g, 5, 4, seed=s) for s in range(3))
    together, used = optical_linear(q.reshape(15, 2, 2), k.reshape(15, 2, 2), 33, mode="mix")
    blocks = together[..., 0, 0].unflatten(0, (g, 5)).unflatten(-1, (g, 5))
    weights = [torch.softmax(blocks[i, :, i] / 2, dim=-1) for i in range(g)]  # cross terms thrown away
    y, used_values = optical_mix(torch.block_diag(*weights), v.flatten(0, 1), 33)
    torch.testing.assert_close(y.unflatten(0, (g, 5)), scaled_dot_product_attention(q, k, v), **EXACT)
    assert (used, used_values) == (1, 1)
    counted = passes(shape, Bench4f(33, 1e6), batch=1, tiling="grouped")
    assert (counted["scores"], counted["values"]) == (1, 1)


# --- cost -------------------------------------------------------------------------------------------------

CURVE = [
    (256, 7, 4096, 2 * 1344, 1938.3), (512, 28, 4096, 2 * 1792, 548.6), (1080, 125, 4096, 2 * 4000, 193.5),
    (2160, 502, 4096, 2 * 16064, 144.3), (4320, 2011, 4096, 2 * 64352, 132.1), (2160, 1, 4096, 64, 8320.0),
    (2160, 64, 4096, 4096, 256.0), (2160, 512, 8192, 32768, 160.0),
]  # fmt: skip


@pytest.mark.parametrize(("R", "batch", "static", "dynamic", "expected_us"), CURVE)
def test_our_curve_at_fcsa_size(R, batch, static, dynamic, expected_us):
    counted = passes(FCSA, Bench4f(R, 1e6), batch)
    assert counted == {"static": static, "scores": dynamic // 2, "values": dynamic // 2}
    assert us(R, batch) == pytest.approx(expected_us, abs=0.06)
    assert us(R, batch) == pytest.approx(2 * (static + dynamic) / batch)
    slow = seconds_per_image(FCSA, Bench4f(R, RATES["dmd"]), batch)
    assert slow == pytest.approx(100e-6 * us(R, batch))


def test_time_falls_with_the_plane_down_to_the_dynamic_floor_and_jumps_past_capacity():
    full = [us(R, capacity(R, 8) // 145) for R in (256, 512, 1080, 2160, 4320, 17280)]
    assert full == sorted(full, reverse=True)
    assert 128 < full[-1] < 128.5
    assert us(2160, 503) == pytest.approx(128 + 16384 / 503)  # one image past 502: a second plane of tokens
    assert us(2160, 503) > 1.1 * us(2160, 502)


def test_grouping_lowers_the_dynamic_floor_to_a_third():
    assert group_size(FCSA, 2160) == 3
    counted = passes(FCSA, Bench4f(2160, 1e6), 502, "grouped")
    assert counted["scores"] == counted["values"] == 8 * 670  # ceil(502 * 4 / 3) = 670, the last one not full
    floor = us(2160, 502, "grouped") - 8192 / 502
    assert floor == pytest.approx(128 / 3, rel=2e-3)  # 43 us
    assert us(512, 28, "grouped") == us(512, 28)  # no room for two


def test_sharing_saves_exactly_the_tokens_while_the_batch_fits():
    bench = Bench4f(2160, 1e6)
    for batch in (1, 64, 502):
        own = passes(FCSA, bench, batch, shared=False)["static"]
        assert own == 145 * passes(FCSA, bench, batch)["static"]
    assert passes(FCSA, bench, 503, shared=False)["static"] == 145 / 2 * passes(FCSA, bench, 503)["static"]


def test_naive_attention_and_unshared_kernels_never_reach_439_us():
    assert us(2160, 502, "naive") == pytest.approx(18.6e3, rel=2e-3)
    for R in (256, 512, 1080, 2160, 4320):
        for batch in range(1, 513):
            assert us(R, batch, "naive") > 18000
            assert us(R, batch, shared=False) > 2000
    assert 3.04 * us(2160, 502) == pytest.approx(439, rel=1e-3)  # the GPU time at which 3.04 would hold


def test_sign_and_latency_enter_as_stated():
    plain = {sign: seconds_per_image(FCSA, Bench4f(512, 1e6, sign), 4) for sign in SIGN_PASSES}
    assert plain["pm"] == pytest.approx(2 * plain["offset"])
    assert plain["pm_signed"] == pytest.approx(4 * plain["offset"])
    late = seconds_per_image(FCSA, Bench4f(512, 1e6, layer_latency_s=1e-3), 4)
    assert late - plain["pm"] == pytest.approx(8 * 1e-3 / 4)


# --- conversion -------------------------------------------------------------------------------------------


@pytest.fixture
def converted(monkeypatch):
    """What the simulated bench shows and reads: pixels that are not dark, by plane, pass and read-out."""
    seen = {"display": 0, "filter": 0, "pixels": 0, "camera": 0}

    def passing(planes, filters, light_pass=light.light_pass):
        camera = light_pass(planes, filters)
        seen["display"] += int(planes.count_nonzero())
        seen["filter"] += int(filters.broadcast_to(camera.shape).count_nonzero())
        seen["pixels"] += camera.numel()
        return camera

    def reading(plane, corners, size, read=light._read):
        squares = read(plane, corners, size)
        seen["camera"] += squares.numel()
        return squares

    monkeypatch.setattr(light, "light_pass", passing)
    monkeypatch.setattr(light, "_read", reading)
    return seen


@pytest.mark.parametrize(
    ("tokens", "heads", "R", "batch", "groups"),
    [
        (4, 4, 8, 4, 1),  # all tokens on one plane, all scores of a head in one pass
        (4, 1, 16, 8, 1),  # two planes for the batch
        (8, 4, 8, 1, 2),  # a head's tokens need two planes
        (16, 4, 8, 1, 1),  # one key a pass
    ],
)
def test_samples_are_what_a_whole_block_shows_and_reads_on_the_simulated_bench(
    converted, tokens, heads, R, batch, groups
):
    """One block of a small transformer, every layer and head run through light; a pass a product (offset)."""
    d, p, r = 16, 4, 2
    shape, bench = ViTShape(tokens, d, depth=1, heads=heads, mlp_ratio=r), Bench4f(R, 1e6, "offset")
    tiling, mode = ("naive", "batch") if tokens == 16 else ("mix", "mix")
    assert light.token_groups(tokens, tokens, R, shape.head_pitch, mode) == groups
    counted = {
        filters: conversion_samples(shape, bench, batch, tiling, filters=filters) for filters in FILTERS
    }

    def assert_seen(*layers):
        for way, of in counted.items():
            shown = "pixels" if way == "spectrum" else "filter"
            for part, where in (("display", "display"), ("filter", shown), ("camera", "camera")):
                assert sum(of[layer][part] for layer in layers) == converted[where], (layers, way, part)
        converted.update(dict.fromkeys(converted, 0))

    for layer, vectors, kernels in (
        ("qkv", 1, 3 * d), ("projection", 1, d), ("mlp_up", 1, r * d), ("mlp_down", r, d)
    ):  # fmt: skip
        for _ in range(vectors):
            optical_linear(normal(tokens * batch, p, p), normal(kernels, p, p), R)
        assert_seen(layer)
    optical_attention(*normal(3, batch, heads, tokens, d // heads), R, tiling)
    assert_seen("scores", "values")


def test_samples_of_an_image_in_closed_form():
    """By hand, at the size of the authors' earlier code: 8 blocks, 145 tokens of 64, 4 heads, 502 images."""
    bench = Bench4f(2160, 1e6)
    counted = conversion_samples(FCSA, bench, 502)
    assert total_samples(counted, "display") == 502 * 8 * 145 * 64 * 8  # v twice
    assert total_samples(counted, "filter") == (2 * 4096 + 3 * 502 * 32) * 2160**2
    assert total_samples(counted, "camera") == 502 * 2 * 8 * 145 * (8 * 64 + 4 * 145 + 64)
    assert total_samples(counted) / 502 == pytest.approx(527.3e6, rel=1e-4)
    written = conversion_samples(FCSA, bench, 502, filters="impulse")
    assert total_samples(written, "filter") == 2 * 4096 * 64 + 502 * 8 * 145 * (2 * 64 + 4 * 145)
    assert total_samples(written, "display", "camera") == total_samples(counted, "display", "camera")
    assert total_samples(written) / 502 == pytest.approx(4.098e6, rel=1e-4)


def test_spectra_of_attention_s_filters_take_more_operations_than_the_network():
    """What the chapter says: 2.5 n log2 n operations for a real Fourier transform of n pixels."""
    pixels, filters = 2160**2, 3 * FCSA.depth * FCSA.heads  # k+, k- and the weights
    network = 2 * FCSA.depth * FCSA.tokens * FCSA.dim * (8 * FCSA.dim + 2 * FCSA.tokens)
    assert filters == 96
    assert filters * 2.5 * pixels * log2(pixels) / network == pytest.approx(208, abs=0.5)


def test_signs_and_sharing_enter_samples_as_stated():
    one, two, four = (
        conversion_samples(FCSA, Bench4f(2160, 1e6, sign), 64) for sign in ("offset", "pm", "pm_signed")
    )
    own = conversion_samples(FCSA, Bench4f(2160, 1e6), 64, shared=False)
    for layer, of in one.items():
        doubled = {part: 2 * samples for part, samples in of.items()}
        kept = "filter" if layer == "values" else "display"  # stays while a sign changes
        assert two[layer] == doubled | {kept: of[kept]}
        assert four[layer]["filter"] == 2 * two[layer]["filter"]
        assert four[layer]["display"] == doubled["display"]
        assert four[layer]["camera"] == 2 * two[layer]["camera"]
        tokens = 1 if layer in ("scores", "values") else 145
        assert own[layer] == two[layer] | {"filter": tokens * two[layer]["filter"]}


@pytest.mark.parametrize("filters", FILTERS)
def test_conversion_hides_behind_light_down_to_one_rate(filters):
    bench = Bench4f(2160, 1e6)
    free = seconds_per_image(FCSA, bench, 502)
    rate = total_samples(conversion_samples(FCSA, bench, 502, filters=filters)) / (502 * free)
    assert rate == pytest.approx({"spectrum": 3.653e12, "impulse": 2.840e10}[filters], rel=1e-3)
    for share, slower in ((1e-3, 1000), (0.5, 2), (1 + 1e-9, 1), (1e3, 1)):
        found = converted_seconds_per_image(FCSA, bench, 502, rate * share, filters=filters)
        assert found == pytest.approx(slower * free)


def test_fatnet_anchor_to_four_digits():
    assert convolution_count(RESNET18_CHANNELS) == 1_220_800
    assert convolution_count(FATNET_CHANNELS) == 148_637
    assert (len(RESNET18_CHANNELS), len(FATNET_CHANNELS)) == (17, 17)
    table = [f"{fatnet_seconds(n, batch):.3e}" for n in (1_220_800, 148_637) for batch in (64, 3136)]
    assert table == ["3.815e-02", "7.786e-04", "4.645e-03", "9.479e-05"]
    assert capacity(2160, 32 + 7 - 1) == 3136


# --- bad input --------------------------------------------------------------------------------------------

X, W = normal(4, 4, 4), normal(2, 3, 3)
REFUSED = [
    (lambda: optical_linear(X, normal(2, 5, 5), 16), r"k must be in 1\.\.4 .*, got 5"),
    (lambda: optical_linear(X, normal(2, 2, 2), 16, "same"), "k = 2: expected an odd number"),
    (lambda: optical_linear(X, W, 3), "R = 3 pixels: expected at least the pitch, 4"),
    (lambda: optical_linear(X, W, 16, "full"), "padding must be one of 'valid', 'same', got 'full'"),
    (lambda: optical_linear(X, W, 16, mode="all"), "mode must be one of 'batch', 'kernel', 'mix', got 'all'"),
    (lambda: optical_linear(X, W, 16, pitch=3), "pitch = 3: expected at least the token side, 4"),
    (lambda: optical_linear(X[:, :3], W, 16), r"x of shape \(4, 3, 4\): expected token images"),
    (lambda: optical_linear(X, W[:, :2], 16), r"kernels of shape \(2, 2, 3\): expected"),
    (lambda: optical_linear(X[:0], W, 16), "tokens must be >= 1, got 0"),
    (lambda: optical_linear(X, W[:0], 16), "kernels must be >= 1, got 0"),
    (lambda: light_pass(X[0], normal(5, 5)), r"kernel of \(5, 5\) pixels: expected at most the plane's"),
    (lambda: tile(X, 7, 4), r"4 tokens: expected at most floor\(7 / 4\)\^2 = 1; use R >= 8"),
    (lambda: tile(X, 16, 0), "pitch = 0: expected at least the token side, 4"),
    (lambda: capacity(16, 0), "pitch must be >= 1, got 0"),
    (lambda: untile(normal(8, 8), 5, 4, 4), r"count = 5: expected 1\.\.4"),
    (lambda: untile(normal(8, 8), 4, 5, 4), r"size = 5: expected 1\.\.4"),
    (lambda: optical_mix(X[0], X[0], 8, "grouped"), "tiling must be one of 'naive', 'mix', got 'grouped'"),
    (lambda: optical_mix(X[0], X[0], 1), "R = 1 pixels: expected at least the pitch, 2"),
    (lambda: Bench4f(0, 1e6), "plane must be >= 1, got 0"),
    (lambda: Bench4f(512, 0), "frame_hz must be finite and > 0, got 0"),
    (lambda: Bench4f(512, -1e6), r"frame_hz must be finite and > 0, got -1000000\.0"),
    (lambda: Bench4f(512, inf), "frame_hz must be finite and > 0, got inf"),
    (lambda: Bench4f(512, nan), "frame_hz must be finite and > 0, got nan"),
    (lambda: Bench4f(512, 1e6, "minus"), "sign must be one of 'pm', 'pm_signed', 'offset', got 'minus'"),
    (lambda: Bench4f(512, 1e6, layer_latency_s=-1), "layer_latency_s must be finite and >= 0, got -1"),
    (lambda: ViTShape(145, 64, 0, 4, 2), "depth must be >= 1, got 0"),
    (lambda: ViTShape(145, 64, 8, 5, 2), "heads must be >= 1 and divide dim = 64, got 5"),
    (lambda: passes(FCSA, Bench4f(512, 1e6), 0), "batch must be >= 1, got 0"),
    (lambda: passes(FCSA, Bench4f(512, 1e6), 1, "all"), "tiling must be one of .*, got 'all'"),
    (lambda: passes(FCSA, Bench4f(7, 1e6), 1), "R = 7 pixels: expected at least the pitch, 8"),
    (lambda: conversion_samples(FCSA, Bench4f(8, 1e6), 1, filters="lens"), "filters must be .*, got 'lens'"),
    (lambda: conversion_samples(FCSA, Bench4f(512, 1e6), 0), "batch must be >= 1, got 0"),
    (lambda: converted_seconds_per_image(FCSA, Bench4f(512, 1e6), 1, 0), "sample_hz must be .* > 0, got 0"),
    (lambda: fatnet_seconds(1, 3137), r"batch must be in 1\.\.3136 .*, got 3137"),
    (lambda: fatnet_seconds(1, 64, 0), "frame_hz must be finite and > 0, got 0"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_one_image_needs_few_passes_if_static_layers_mix_kernels_too():
    """What the chapter says of batches: 192 µs for one image on 2160 pixels, where the formula has 8320."""
    counted = passes(FCSA, Bench4f(2160, 1e6), 1)
    kernels = [3 * FCSA.dim, FCSA.dim, FCSA.mlp_ratio * FCSA.dim, FCSA.mlp_ratio * FCSA.dim]
    mixed = FCSA.depth * sum(linear_passes(FCSA.tokens, k, 2160, FCSA.pitch, "mix") for k in kernels)
    attention = counted["scores"] + counted["values"]
    assert 2 * (counted["static"] + attention) == 8320
    assert 2 * (mixed + attention) == 192
