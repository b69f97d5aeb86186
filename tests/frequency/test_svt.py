"""SVT: its transform is the library's, its models have the published sizes, and its blends are complex."""

import warnings
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from fourfold import cost, spectra
from fourfold.frequency import svt
from fourfold.frequency.svt import (
    DENSE,
    WAVE_VECTORS,
    ComplexMLP,
    DenseBlend,
    EinsteinBlend,
    EinsteinTokenBlend,
    ScatterMixer,
    TensorBlend,
    TwoLayerNet,
    dtcwt2,
    filters,
    idtcwt2,
    mixer_parameters,
    multiply_accumulates,
    svt_h,
    svt_param_count,
)
from fourfold.judging import records
from fourfold.judging.parameters import ParameterError, validate
from fourfold.training import Recipe, seeded, shuffled, train

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}
VARIANTS = ("TTTT", "TTXE", "TTEX", "TTEE")
SMALL_AND_LARGE = [(8, 8), (2, 4), (16, 12), (16, 16), (18, 16), (64, 30)]


def drawn(make, *args, seed: int = 0, **kwargs):
    with seeded(seed):
        return make(*args, **kwargs).double()


# --- the transform ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def library():
    """pytorch_wavelets' forward and inverse; its filters take torch's default dtype at construction."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorch_wavelets import DTCWTForward, DTCWTInverse
    torch.set_default_dtype(torch.float64)
    try:
        names = {"biort": "near_sym_b", "qshift": "qshift_b"}
        return DTCWTForward(J=1, **names), DTCWTInverse(**names)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("size", SMALL_AND_LARGE)
def test_split_and_inverse_are_the_librarys(library, size):
    forward, inverse = library
    x = normal(2, 3, *size)
    low, (high,) = forward(x)
    torch.testing.assert_close(dtcwt2(x), (low, high), **EXACT)
    low, high = normal(*low.shape, seed=1), normal(*high.shape, seed=2)  # not the transform of any map
    torch.testing.assert_close(idtcwt2(low, high), inverse((low, [high])), **EXACT)


@given(h=st.integers(1, 12), w=st.integers(1, 12))
def test_the_split_is_invertible_linear_and_fourfold(h, w):
    x = normal(2, 2 * h, 2 * w)
    low, high = dtcwt2(x)
    assert low.numel() + high.numel() == 4 * x.numel()
    torch.testing.assert_close(idtcwt2(low, high), x, **EXACT)
    torch.testing.assert_close(dtcwt2(3 * x)[1], 3 * high, **EXACT)
    # Without the high band most of the finest checkerboard is gone: the control of C1.
    board = torch.ones(2 * h, 2 * w, dtype=torch.float64)
    board[::2, ::2] = board[1::2, 1::2] = -1
    low, high = dtcwt2(board)
    assert (idtcwt2(low, torch.zeros_like(high)) - board).abs().max() > 0.5


def test_a_constant_is_all_low_and_filters_have_the_published_taps():
    low, high = dtcwt2(torch.full((1, 8, 8), 3.0, dtype=torch.float64))
    torch.testing.assert_close(low, torch.full_like(low, 3.0), **EXACT)
    assert high.abs().max() < 1e-10
    assert [len(taps) for taps in filters()] == [13, 19, 19, 13]


@pytest.mark.parametrize("size", [(8, 8), (18, 16)])
def test_gradients_of_split_and_inverse(size):
    assert (size[0] * size[1] <= DENSE) == (size == (8, 8))  # both routes
    x = normal(1, *size).requires_grad_()
    low, high = (part.detach().requires_grad_() for part in dtcwt2(x))
    assert gradcheck(dtcwt2, x, fast_mode=True)
    assert gradcheck(idtcwt2, (low, high), fast_mode=True)


def test_bands_follow_orientation_and_a_real_wavelet_would_not():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")

    def energy(degrees):
        angle = torch.deg2rad(torch.tensor(float(degrees)))
        grating = torch.cos(2 * torch.pi * 0.33 * (x * angle.cos() + y * angle.sin()))
        power = dtcwt2(grating.double())[1].square().sum((-1, -2, -3))
        return power / power.sum()

    for band in (0, 2, 3, 5):
        degrees = WAVE_VECTORS[band]
        assert energy(degrees).argmax() == band
        assert energy(degrees)[band] >= 0.6
    # What a real wavelet sees is the sum of each band and its mirror image, equal for both gratings.
    mirrored = [energy(degrees) + energy(degrees).flip(0) for degrees in (15, 165)]
    torch.testing.assert_close(*mirrored, rtol=0, atol=0.02)


# --- the blends -------------------------------------------------------------------------------------------


def test_complex_mlp_is_a_block_diagonal_complex_network():
    mlp, z = drawn(ComplexMLP, 3, 4), normal(3, 7, 8)
    value = torch.complex(*z.chunk(2, -1)).transpose(0, 1).flatten(1)
    for layer, (weight, bias) in enumerate(zip(mlp.weights, mlp.biases, strict=True)):
        matrix = torch.block_diag(*torch.complex(*weight))
        value = value @ matrix + torch.complex(*bias).flatten()
        if layer == 0:
            value = torch.complex(value.real.relu(), value.imag.relu())
    value = value.unflatten(1, (3, 4)).transpose(0, 1)
    torch.testing.assert_close(mlp(z), torch.cat([value.real, value.imag], -1), **EXACT)


def test_einstein_blend_mixes_channels_of_a_block_and_nothing_else():
    blend, high = drawn(EinsteinBlend, 8, 4), normal(2, 8, 6, 3, 2, 2)
    changed = high.clone()
    changed[1, 4, 2, 1, 0] += 1
    touched = (blend(changed) - blend(high)).abs().amax(-1) > 0
    channels = torch.zeros_like(touched)
    channels[1, 4:6, 2, 1, 0] = True
    assert (touched == channels).all()


def test_token_blend_mixes_columns_of_a_row_and_nothing_else():
    blend, high = drawn(EinsteinTokenBlend, 3, 2), normal(2, 4, 6, 3, 2, 2)
    changed = high.clone()
    changed[1, 3, 2, 1, 0] += 1
    touched = (blend(changed) - blend(high)).abs().amax(-1) > 0
    row = torch.zeros_like(touched)
    row[1, 3, 2, 1, :] = True
    assert (touched == row).all()


@pytest.mark.parametrize("channels", [16, 64])
@pytest.mark.parametrize("blocks", [1, 4])
def test_blends_cost_what_the_formula_says(channels, blocks):
    blend = EinsteinBlend(channels, blocks)
    assert cost.parameters(blend) == 4 * (channels**2 // blocks + channels)
    counted = multiply_accumulates(blend, torch.zeros(1, channels, 6, 4, 4, 2))["blends"]
    assert counted == cost.macs(blend, (1, channels, 6, 4, 4, 2)) == 8 * channels**2 // blocks * 96
    assert cost.parameters(DenseBlend(channels, 4, 4)) == 2 * 6 * channels * 16


# --- the mixers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_mixer_keeps_the_shape_has_the_counted_weights_and_gradients(variant):
    mixer, x = drawn(ScatterMixer, 8, 4, 6, variant), normal(1, 8, 4, 6).requires_grad_()
    assert mixer(x).shape == x.shape
    assert cost.parameters(mixer) == mixer_parameters(8, 4, 6, variant)
    assert gradcheck(mixer, x, fast_mode=True)


def test_with_an_open_gate_and_no_high_path_the_mixer_is_the_identity():
    mixer, x = drawn(ScatterMixer, 4, 16, 8, "TTXE"), normal(2, 4, 16, 8)
    assert (mixer(x) - x).abs().max() > 0.1  # as drawn it is not
    mixer.high = torch.nn.Identity()
    torch.nn.init.ones_(mixer.low.weight)
    torch.testing.assert_close(mixer(x), x, **EXACT)


def test_half_variants_interleave_the_convolution_with_the_split():
    mixer, x = drawn(ScatterMixer, 8, 4, 4, "TTEE"), normal(1, 8, 4, 4)
    y = mixer(x)
    torch.testing.assert_close(y[:, ::2], mixer.local(x[:, :4]), **EXACT)
    low, high = dtcwt2(x[:, 4:])
    torch.testing.assert_close(y[:, 1::2], idtcwt2(mixer.low(low), mixer.high(high)), **EXACT)


# --- networks ---------------------------------------------------------------------------------------------

PUBLISHED = [
    ("S", "TTEE", 22_019_248), ("B", "TTEE", 32_845_200), ("L", "TTEE", 54_091_536),
    ("S", "TTXE", 22_257_392), ("S", "TTEX", 21_998_384), ("S", "TTTT", 25_187_312),
]  # fmt: skip


@pytest.mark.parametrize(("size", "variant", "count"), PUBLISHED)
def test_models_have_the_published_sizes(size, variant, count):
    with torch.device("meta"):
        model = svt_h(size, variant)
    assert cost.parameters(model) == svt_param_count(size, variant) == count


def test_other_readings_miss_the_published_sizes():
    assert svt_param_count("S", "TTXE", alpha=1) == 22_052_592
    assert svt_param_count("S", "TTEE", aux_head=False) == 21_570_248
    # A mixer without weights: the paper's row of 21.17 M.
    mixers = 3 * mixer_parameters(64, 56, 56, "TTXE") + 4 * mixer_parameters(128, 28, 28, "TTXE")
    assert svt_param_count("S", "TTXE") - mixers == 21_173_232


def test_backbone_runs_and_its_work_is_counted():
    with torch.device("meta"):
        model = svt_h("S", "TTEE", aux_head=False).eval()
    image = torch.empty(2, 3, 224, 224, device="meta")
    logits, auxiliary = model(image)
    assert logits.shape == (2, 1000)
    assert auxiliary is None
    work = multiply_accumulates(model, image[:1])
    assert round(work["layers"] / 1e9, 2) == 3.89
    assert round(sum(work.values()) / 1e9, 2) == 4.35
    assert multiply_accumulates(model, image) == {kind: 2 * number for kind, number in work.items()}


@pytest.mark.parametrize("arm", ["scatter", "attention", "gate", "none"])
def test_every_arm_learns_its_data_twice_the_same_way(arm):
    x, y = normal(40, 1, 16, 16).float(), torch.arange(40) % 4
    make = partial(TwoLayerNet, arm, side=16, width=8, classes=4)
    how = {"recipe": Recipe(epochs=15, batch=20, lr=1e-2), "together": False}
    first, second = (train(make, [3], shuffled(x, y), (x[None], y[None]), **how) for _ in range(2))
    assert torch.equal(first.loss, second.loss)
    assert first.loss[0, -4:].mean() < first.loss[0, :4].mean() - 0.05
    logits, maps = first.member(0)(x)
    assert logits.shape == (40, 4)
    assert [stage.shape for stage in maps] == [(40, 8, 4, 4)] * 3
    assert spectra.rel_log_amplitude(maps).shape == (3, 3)


def test_arms_differ_in_the_first_mixer_alone():
    counts = {
        arm: cost.parameters(net) - cost.parameters(net.blocks[0].mixer)
        for arm in ("scatter", "attention", "gate", "none")
        for net in [TwoLayerNet(arm, side=16, width=8)]
    }
    assert len(set(counts.values())) == 1
    silent = TwoLayerNet("none", side=16, width=8).blocks[0].mixer
    assert silent(torch.ones(1, 8, 4, 4)).abs().max() == 0


# --- bad input --------------------------------------------------------------------------------------------

REFUSED = [
    (lambda: dtcwt2(torch.zeros(1, 7, 8)), "height and width must be even and >= 2, got 7 x 8"),
    (lambda: dtcwt2(torch.zeros(1, 8, 0)), "height and width must be even and >= 2, got 8 x 0"),
    (
        lambda: idtcwt2(torch.zeros(1, 4, 4), torch.zeros(1, 6, 2, 2)),
        r"high must be \(1, 6, 2, 2, 2\) .*got \(1, 6, 2, 2\)",
    ),
    (lambda: EinsteinBlend(8, 3), "blocks must be >= 1 and divide the channels, 8, got 3"),
    (lambda: EinsteinBlend(8, 0), "blocks must be >= 1 and divide the channels, 8, got 0"),
    (lambda: ScatterMixer(8, 4, 4, "EEEE"), "variant must be one of TTTT, .*got 'EEEE'"),
    (lambda: ScatterMixer(8, 4, 5), "height and width must be even and >= 2, got 4 x 5"),
    (lambda: ScatterMixer(7, 4, 4, "TTEX"), "channels must be even for TTEX, got 7"),
    (lambda: ScatterMixer(4, 4, 4, "TTEE"), "blocks must be >= 1 and divide the channels, 2, got 4"),
    (lambda: TwoLayerNet("fft", side=32, width=8), "arm must be one of scatter, .*got 'fft'"),
    (lambda: TwoLayerNet("scatter", side=28, width=8), "side must be a multiple of 8.*got 28"),
    (
        lambda: TwoLayerNet("attention", side=32, width=7),
        "heads must be >= 1 and divide channels, got 2 and 7",
    ),
    (lambda: svt_h("M"), "size must be one of S, B, L, got 'M'"),
    (lambda: svt_h("S", alpha=4), r"alpha must be in 0\.\.3, .*got 4"),
    (lambda: svt_param_count("S", "FFFF"), "variant must be one of TTTT, .*got 'FFFF'"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"width": 25}, "^width = 25: expected a multiple of 8$"),
        ({"width": 4}, "^width = 4: expected int, 8..256, a multiple of 8$"),
        ({"blocks": 3}, r"^blocks = 3: expected int, 1 \| 2 \| 4$"),
        ({"n_train": 50000}, r"^n_train = 50000: expected int, 100\.\.4000$"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused_by_name(given, message):
    record = records.load("svt")
    with pytest.raises(ParameterError, match=message):
        validate(record, record.values("quick") | given)


@pytest.mark.parametrize("variant", ["TTTT", "TTXE", "TTEX", "TTEE"])
@pytest.mark.parametrize("side", records.load("svt").parameters["image_size"].choices)
def test_every_arm_can_be_built_of_what_the_record_allows(variant, side):
    spec = records.load("svt").parameters
    image = torch.zeros(1, 1, side, side)
    for blocks in spec["blocks"].choices:
        for arm in ("scatter", "attention", "gate", "none"):
            net = TwoLayerNet(arm, side=side, width=int(spec["width"].min), variant=variant, blocks=blocks)
            assert net(image)[0].shape == (1, 10)


def test_gates_are_elementwise():
    gate, low = drawn(TensorBlend, 2, 3, 4), normal(5, 2, 3, 4)
    torch.testing.assert_close(gate(low), low * gate.weight, **EXACT)


# --- without its heart ------------------------------------------------------------------------------------

SYNTHESIS = svt._synthesise


def low_band_only(low, high):
    """The inverse forgets the high band."""
    return SYNTHESIS(low, torch.zeros_like(high))


def whole_matrix(self, channels, blocks=4):
    """The Einstein blend mixes all channels, in one block."""
    torch.nn.Module.__init__(self)
    self.mlp = ComplexMLP(1, channels)


def separate_trees(band):
    """The four trees are not combined: both orientations of a pair see the same numbers."""
    a, b, _, _ = (band[..., i::2, j::2] for i in (0, 1) for j in (0, 1))
    return torch.stack([a, b], -1), torch.stack([a, b], -1)


MUTATIONS = [
    ("_synthesise", low_band_only),
    ("EinsteinBlend.__init__", whole_matrix),
    ("_complex", separate_trees),
]


@pytest.mark.parametrize(("target", "mutation"), MUTATIONS)
def test_a_mutation_changes_the_mixer_and_keeps_its_shape(monkeypatch, target, mutation):
    x = normal(1, 8, 32, 32)
    y = drawn(ScatterMixer, 8, 32, 32, "TTXE")(x)
    monkeypatch.setattr(f"fourfold.frequency.svt.{target}", mutation)
    changed = drawn(ScatterMixer, 8, 32, 32, "TTXE")(x)
    assert changed.shape == y.shape
    assert (changed - y).abs().max() > 1e-6
