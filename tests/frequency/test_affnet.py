"""AFFNet: the filter is a circular convolution, its mask a complex network, its sizes the published ones."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn
from torch.func import functional_call
from torch.nn.functional import mse_loss

from fourfold import cost, spectra, training
from fourfold.data import images
from fourfold.frequency.affnet import (
    SIZES,
    AFFMixer,
    AFFUnit,
    AveragedAFF,
    Classifier,
    GlobalDepthwise,
    InvertedResidual,
    LocalDepthwise,
    Restorer,
    affnet,
    circular_conv,
    kernel_spread,
    mixing_operations,
    reach,
    shift_error,
    static_limit,
    swap_frequencies,
    with_interference,
)
from fourfold.judging import records
from fourfold.judging.parameters import ParameterError, validate
from fourfold.mixers import GlobalFilter, SelfAttention

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}  # the record's C1
MAPS = [(8, 8), (7, 9), (16, 12), (1, 5), (5, 1), (2, 2), (3, 4)]


def strong(channels: int = 8, blocks: int = 4, shrink: float = 0.0, kind=AFFMixer) -> AFFMixer:
    """A mixer in float64 whose mask is far from zero."""
    with training.seeded(0):
        mixer = kind(channels, blocks, shrink).double()
    with torch.no_grad():
        for weight in mixer.parameters():
            weight *= 20
    return mixer.requires_grad_(False)


# --- the filter -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", MAPS)
@pytest.mark.parametrize("shrink", [0.0, 0.1])
def test_the_filter_is_a_circular_convolution_with_its_kernel(size, shrink):
    mixer, x = strong(shrink=shrink), normal(2, 8, *size)
    y, kernel = mixer(x) - x, mixer.kernel(x)
    torch.testing.assert_close(y, circular_conv(x, kernel), **EXACT)
    for image, taps, made in zip(x.flatten(0, 1), kernel.flatten(0, 1), y.flatten(0, 1), strict=True):
        # scipy's origin is the middle, ours the corner.
        middle = taps.roll([side // 2 for side in size], (0, 1))
        theirs = ndimage.convolve(image.numpy(), middle.numpy(), mode="wrap")
        np.testing.assert_allclose(made.numpy(), theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (16, 12)])
def test_the_mask_is_a_complex_network_on_every_frequency(size):
    mixer, x = strong(12, 3, 0.2), normal(2, 12, *size)
    values = {name: value.numpy() for name, value in mixer.named_parameters()}
    w1, b1, w2, b2 = (values[n][0] + 1j * values[n][1] for n in ("weight_1", "bias_1", "weight_2", "bias_2"))
    plane = np.fft.rfft2(x.numpy(), norm="ortho").reshape(2, 3, 4, size[0], -1)
    u = np.einsum("bkihw,kio->bkohw", plane, w1) + b1[:, :, None, None]
    u = np.maximum(u.real, 0) + 1j * np.maximum(u.imag, 0)
    v = np.einsum("bkihw,kio->bkohw", u, w2) + b2[:, :, None, None]

    def shrunk(part):
        return np.sign(part) * np.maximum(np.abs(part) - 0.2, 0)

    mask = (shrunk(v.real) + 1j * shrunk(v.imag)).reshape(2, 12, size[0], -1)
    np.testing.assert_allclose(mixer.mask(x).numpy(), mask, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (5, 4)])
def test_gradients(size):
    mixer, x = strong(4, 2), normal(1, 4, *size).requires_grad_()
    names = [name for name, _ in mixer.named_parameters()]
    weights = tuple(value.requires_grad_() for value in mixer.parameters())

    def run(x, *weights):
        return functional_call(mixer, dict(zip(names, weights, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *weights))


@pytest.mark.parametrize(("channels", "blocks"), [(8, 8), (16, 8), (104, 8), (144, 8), (12, 3)])
def test_parameters_of_a_mixer(channels, blocks):
    with torch.device("meta"):
        assert cost.parameters(AFFMixer(channels, blocks)) == 4 * channels**2 // blocks + 4 * channels


def test_a_new_mixer_is_nearly_the_identity_and_seeds_decide():
    with training.seeded(1):
        one = AFFMixer(16)
    with training.seeded(1):
        same = AFFMixer(16)
    x = normal(4, 16, 8, 8).float()
    assert torch.equal(one(x), same(x))
    parts = torch.view_as_real(one.mask(x))
    assert (parts == 0).double().mean() > 0.2  # soft shrinkage
    assert (one(x) - x).abs().max() < 0.5
    assert torch.equal(AFFMixer(16, shrink=100.0)(x), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_filtered_in_float32(dtype):
    mixer = strong().float()
    x = normal(1, 8, 7, 5).to(dtype)
    assert mixer(x).dtype == dtype
    assert mixer.mask(x).dtype == torch.complex64
    torch.testing.assert_close(mixer(x), x + (mixer(x.float()) - x.float()).to(dtype), rtol=0, atol=0.02)


def test_float32_keeps_the_identity():
    mixer, x = strong().float(), normal(2, 8, 16, 16).float()
    torch.testing.assert_close(mixer(x) - x, circular_conv(x, mixer.kernel(x)), rtol=0, atol=2e-5)


def test_a_global_depthwise_kernel_is_slid_around_the_map():
    x = normal(2, 8, 7, 6)
    with training.seeded(0):
        wide = GlobalDepthwise(8, 7, 6).double()
    torch.testing.assert_close(wide(x), circular_conv(x, wide.weight[:, 0]), **EXACT)


# --- what a filter of spectra knows -----------------------------------------------------------------------


def test_exchanging_frequencies_commutes_with_the_adaptive_filter_alone():
    x = normal(2, 8, 16, 16)
    exchange = partial(swap_frequencies, one=(2, 3), other=(-1, 5))
    with training.seeded(0):
        gate = GlobalFilter(8, 16, 16).double()
    mixer = strong()
    torch.testing.assert_close(mixer(exchange(x)), exchange(mixer(x)), **EXACT)
    assert (mixer(exchange(x)) - mixer(x)).abs().max() > 0.1
    assert (gate(exchange(x)) - exchange(gate(x))).abs().max() > 1e-3
    torch.testing.assert_close(exchange(exchange(x)), x, **EXACT)


def test_a_fixed_filter_commutes_with_shifts_and_the_adaptive_one_does_not():
    x = normal(2, 8, 9, 8)
    with training.seeded(0):
        gate = GlobalFilter(8, 9, 8).double()
    assert shift_error(gate, x, (2, 3)) < 1e-12
    assert shift_error(strong(), x, (2, 3)) > 0.1
    assert shift_error(strong(), x, (0, 0)) == 0


def test_kernels_without_adaptivity_have_no_spread():
    x = normal(6, 8, 8, 8)
    with training.seeded(0):
        gate = GlobalFilter(8, 8, 8).double().requires_grad_(False)
    assert kernel_spread(strong().kernel(x)) > 0.05
    assert kernel_spread(gate.kernel(x)) == 0
    assert kernel_spread(strong(kind=AveragedAFF).kernel(x)) == 0


def test_kernel_spread_is_deviation_over_norm():
    kernels = torch.zeros(2, 1, 1, 2)
    kernels[0, 0, 0, 0], kernels[1, 0, 0, 1] = 1, 1
    assert kernel_spread(kernels) == pytest.approx(2**-0.5)


def test_a_mask_that_is_shrunk_away_has_neither_spread_nor_shift_error():
    x = normal(3, 8, 8, 8)
    idle = strong()
    idle.shrink = 1e6
    assert kernel_spread(idle.kernel(x)) == 0
    assert shift_error(idle, x, (2, 3)) == 0


@pytest.mark.parametrize(
    ("mixer", "share"),
    [(AFFMixer(8, shrink=0), 1), (SelfAttention(8), 1), (GlobalFilter(8, 8, 8), 1), (nn.Identity(), 1 / 64),
     (nn.Conv2d(8, 8, 3, padding=1, groups=8), 4 / 64)],
)  # fmt: skip
def test_reach(mixer, share):
    assert reach(mixer, normal(1, 8, 8, 8).float()) == share


def test_a_local_mixer_is_torchs_convolution_channel_by_channel():
    mixer, x = LocalDepthwise(4, 7).double(), normal(2, 4, 9, 8)
    planes = [
        nn.functional.conv2d(x[:, [c]], mixer.weight[[c]], mixer.bias[[c]], padding=3) for c in range(4)
    ]
    torch.testing.assert_close(mixer(x), torch.cat(planes, 1))


# --- waves ------------------------------------------------------------------------------------------------


def test_a_planted_wave_is_at_its_frequency():
    clean = torch.zeros(200, 16, 20)
    noisy, frequency = with_interference(clean, 2.0, training.stream(0, "waves"))
    power = spectra.power(noisy)
    assert frequency.abs().max() == 6
    assert frequency.abs().sum(1).min() == 3
    for image, (u, v) in zip(power, frequency.tolist(), strict=True):
        assert float(image[u, v]) == pytest.approx(1, abs=1e-5)
        assert float(image[-u, -v]) == pytest.approx(1, abs=1e-5)
        assert float(image.sum()) == pytest.approx(2, abs=1e-5)
    again = with_interference(clean, 2.0, training.stream(0, "waves"))
    assert torch.equal(again.noisy, noisy)


def test_the_best_static_filter_leaves_the_wieners_error():
    clean, noise = normal(2000, 8, 8), 2 * normal(2000, 8, 8, seed=1)
    assert static_limit(clean, noise) == pytest.approx(0.8, abs=0.01)  # 1 * 4 / (1 + 4)
    # No static gate is better than it: the optimum itself, as a GlobalFilter.
    signal, disturbance = (spectra.power(part).mean(0) for part in (clean, noise))
    gate = GlobalFilter(1, 8, 8).double()
    wiener = (signal / (signal + disturbance))[:, :5]
    gate.weight.data = torch.stack([wiener, torch.zeros_like(wiener)], -1)[None]
    best = mse_loss(gate((clean + noise)[:, None])[:, 0], clean) / clean.var()
    assert float(best.detach()) == pytest.approx(static_limit(clean, noise), abs=0.01)


def error_after_training(kind) -> tuple[float, Restorer]:
    """Error on waves after a short training, and the trained network."""
    made = {}
    for part, n in (("train", 512), ("test", 200)):
        generator = training.stream(3, part)
        clean = images.textures(n, part, generator=generator).images
        made[part] = with_interference(clean, 2.0, generator).noisy, clean
    result = training.train(
        lambda: Restorer(8, kind),
        [3],
        training.shuffled(*made["train"]),
        tuple(part[None] for part in made["test"]),
        training.Recipe(18, 32, 1e-2, weight_decay=0, schedule="constant"),
        loss=mse_loss,
        score=lambda out, y: (out - y).square().mean((1, 2, 3)) / y.var((1, 2, 3)),
    )
    return float(result.score[0, -1]), result.member(0)


def test_adaptivity_removes_waves_and_its_loss_brings_them_back():
    error, net = error_after_training(partial(AFFMixer, blocks=4))
    static, _ = error_after_training(lambda c: GlobalFilter(c, 16, 16))
    generator = training.stream(3, "test")
    clean = images.textures(200, "test", generator=generator).images
    noisy, _ = with_interference(clean, 2.0, generator)
    limit = static_limit(clean, noisy - clean)
    assert error < 0.8 * limit
    assert static > 0.9 * limit
    with torch.no_grad():
        assert net.mixer.mask(net.embed(noisy[:, None])).abs().max() > 0.5  # not shrunk away
        blunt = Restorer(8, partial(AveragedAFF, blocks=4))
        blunt.load_state_dict(net.state_dict())
        assert mse_loss(blunt(noisy), clean) / clean.var() > limit


# --- networks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "count", "gmacs"), [("et", 1436264, 0.356), ("t", 2654232, 0.786), ("base", 5568696, 1.454)]
)
def test_affnet_has_its_published_size_and_attention_would_not(size, count, gmacs):
    with torch.device("meta"):
        net, attending = affnet(size), affnet(size, mixer=SelfAttention)
    assert cost.parameters(net) == count
    assert cost.macs(net, (1, 3, 256, 256)) / 1e9 == pytest.approx(gmacs, abs=0.001)
    widths = SIZES[size][1][2:]
    assert cost.parameters(attending) - count == sum(
        units * 7 * c**2 // 2 for units, c in zip((2, 4, 3), widths, strict=True)
    )


def test_affnet_classifies_odd_sizes():
    with training.seeded(0):
        net = affnet("et", classes=7).eval()
    with torch.no_grad():
        assert net(torch.zeros(2, 3, 75, 66)).shape == (2, 7)


def test_a_unit_has_one_skip_around_both_halves():
    with training.seeded(0):
        unit = AFFUnit(8, AFFMixer).eval()
    x = normal(2, 8, 6, 5).float()
    z = unit.mb(unit.norm_1(x))
    torch.testing.assert_close(unit(x), x + unit.mixer(unit.norm_2(z)))
    nn.init.zeros_(unit.norm_2.weight)  # the mixer's skip passes what the norm gives
    torch.testing.assert_close(unit(x), x + unit.mixer(torch.zeros_like(x)))


@pytest.mark.parametrize(("c_out", "stride", "skip"), [(8, 1, True), (12, 1, False), (8, 2, False)])
def test_inverted_residual_skips_where_shapes_allow(c_out, stride, skip):
    with training.seeded(0):
        block = InvertedResidual(8, c_out, 2, stride).eval()
    x = normal(1, 8, 7, 6).float()
    nn.init.zeros_(block.layers[-1][-1].weight)
    y = block(x)
    assert y.shape == (1, c_out, -(-7 // stride), -(-6 // stride))
    assert torch.equal(y, x if skip else torch.zeros_like(y))


def test_a_classifier_with_a_zero_mask_is_the_one_without_a_mixer():
    with training.seeded(0):
        zero = Classifier(8, partial(AFFMixer, shrink=1e3))
    none = Classifier(8, lambda c: nn.Identity())
    none.load_state_dict({n: v for n, v in zero.state_dict().items() if n in none.state_dict()})
    x = normal(3, 1, 32, 32).float()
    assert torch.equal(none(x), zero(x))
    assert [tuple(f.shape) for f in none.features(x)] == [(3, 8, 8, 8)] * 3


@pytest.mark.parametrize("side", [8, 16])
def test_counted_operations_are_the_counters(side):
    n, c, half = side**2, 32, side * (side // 2 + 1)
    shape = (1, c, side, side)
    assert cost.macs(AFFMixer(c), shape) == half * c**2  # 8 C^2 / 8 blocks
    fft = 2.5 * n * 2 * np.log2(side) * c
    assert mixing_operations("aff", n, c) == pytest.approx(fft + half * (c**2 + 4 * c))
    assert cost.macs(SelfAttention(c), shape) == mixing_operations("attention", n, c)
    assert cost.macs(GlobalDepthwise(c, side, side), shape) == mixing_operations("global", n, c)


# --- bad input --------------------------------------------------------------------------------------------

WIDE = torch.zeros(1, 16, 16)
REFUSED = [
    (lambda: AFFMixer(20), "blocks must be >= 1 and divide channels, got 8 and 20"),
    (lambda: AFFMixer(8, 0), "blocks must be >= 1 and divide channels, got 0 and 8"),
    (lambda: AFFMixer(0), "divide channels, got 8 and 0"),
    (lambda: AFFMixer(8, shrink=-0.1), "shrink must be >= 0, got -0.1"),
    (lambda: AFFMixer(8, shrink=float("nan")), "shrink must be >= 0, got nan"),
    (lambda: affnet("small"), "size must be one of et, t, base, got 'small'"),
    (lambda: mixing_operations("fft", 64, 8), "mixer must be 'aff', 'attention' or 'global', got 'fft'"),
    (lambda: circular_conv(torch.zeros(1, 4, 4), torch.zeros(1, 3, 3)), r"kernel .* 4 x 4, got \(1, 3, 3\)"),
    (lambda: with_interference(WIDE, 0.0, torch.Generator()), "amplitude must be > 0, got 0"),
    (lambda: with_interference(WIDE[..., :12], 1.0, torch.Generator()), r">= 13, got \(1, 16, 12\)"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"channels": 20}, "^channels = 20: expected a multiple of blocks, which is 8$"),
        ({"blocks": 3}, "^channels = 16: expected a multiple of blocks, which is 3$"),
        ({"n_train": 5000}, r"^n_train = 5000: expected int, 64\.\.4000$"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused_by_name(given, message):
    record = records.load("affnet")
    with pytest.raises(ParameterError, match=message):
        validate(record, record.values("quick") | given)


# --- without its heart ------------------------------------------------------------------------------------


def added_mask(mask, frequencies, size):
    """The mask is added to the spectrum instead of multiplied with it."""
    return torch.fft.irfft2(mask + frequencies, s=size, norm="ortho")


def whole_matrix(self, channels, blocks=8, shrink=0.01):
    """The mask network mixes all channels, in one block."""
    nn.Module.__init__(self)
    self.channels, self.blocks, self.shrink = channels, 1, shrink
    for name in ("weight_1", "weight_2"):
        setattr(self, name, nn.Parameter(0.02 * torch.randn(2, 1, channels, channels)))
    for name in ("bias_1", "bias_2"):
        setattr(self, name, nn.Parameter(0.02 * torch.randn(2, 1, channels)))


MASK_OF = AFFMixer.mask_of


def one_mask(self, frequencies):
    """All images of a batch get the same mask, their mean, but for a thousandth of their own."""
    mask = MASK_OF(self, frequencies)
    # What is left of their own keeps the page from dividing by a spread of none.
    return 0.999 * mask.mean(0, keepdim=True) + 0.001 * mask


MUTATIONS = [
    ("filtered", added_mask),
    ("AFFMixer.mask_of", one_mask),
    ("AFFMixer.__init__", whole_matrix),
]


@pytest.mark.parametrize(("target", "mutation"), MUTATIONS)
def test_a_mutation_changes_the_mixer_and_keeps_its_shape(monkeypatch, target, mutation):
    x = normal(2, 8, 6, 5)
    y = strong()(x)
    monkeypatch.setattr(f"fourfold.frequency.affnet.{target}", mutation)
    changed = strong()(x)
    assert changed.shape == y.shape
    assert (changed - y).abs().max() > 0.01
