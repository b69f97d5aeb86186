"""The comparison's room: each entry is its chapter's mixer, counts are what runs, measures know zero."""

import pytest
import torch
from torch import nn

from fourfold import cost, spectra, training
from fourfold.compared import frequency as compared
from fourfold.compared.frequency import MIXERS, multiply_adds
from fourfold.data import images
from fourfold.frequency import affnet, litv2, sfm, svt
from fourfold.mixers import GlobalFilter, SelfAttention

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}
SIDES = (16, 24, 32, 48, 64)


def build(name: str, channels: int = 8, side: int = 12) -> nn.Module:
    with training.seeded(0):
        return MIXERS[name](channels, side).double()


def theirs(name: str, x: torch.Tensor) -> torch.Tensor:
    """What the chapter's own module makes of x with the same initial weights."""
    channels, side = x.shape[1], x.shape[2]
    with training.seeded(0):
        if name == "attention":
            return SelfAttention(channels).double()(x)
        if name == "static filter":
            return GlobalFilter(channels, side, side).double()(x)
        if name == "AFF":
            return affnet.AFFMixer(channels).double()(x) - x
        if name in ("Hi-Fi", "Lo-Fi"):
            hilo = litv2.HiLo(channels, 4, alpha=float(name == "Lo-Fi")).double()
            half = (hilo.lofi if name == "Lo-Fi" else hilo.hifi)(x.movedim(1, -1))
            return half.movedim(-1, 1)
        if name == "SFM":
            return sfm.modulate(x, sfm.ars_grid(sfm.edge_saliency(x), side / 8))
        mixer = svt.ScatterMixer(channels, side, side, "TTXE").double()
    low, high = svt.dtcwt2(x)
    if name == "SVT low":
        return svt.idtcwt2(mixer.low(low), torch.zeros_like(high))
    return svt.idtcwt2(torch.zeros_like(low), mixer.high(high))


@pytest.mark.parametrize("name", MIXERS)
def test_each_entry_is_its_chapters_mixer(name):
    x = normal(2, 8, 12, 12)
    torch.testing.assert_close(build(name)(x), theirs(name, x), **EXACT)


def test_svts_branches_add_up_to_the_layer():
    x = normal(2, 8, 12, 12)
    with training.seeded(0):
        whole = svt.ScatterMixer(8, 12, 12, "TTXE").double()
    torch.testing.assert_close(build("SVT low")(x) + build("SVT high")(x), whole(x), **EXACT)


@pytest.mark.parametrize("side", [16, 24])
@pytest.mark.parametrize("name", ["attention", "Hi-Fi", "Lo-Fi"])
def test_counts_are_what_torch_counts(name, side):
    assert multiply_adds(name, 16, side) == cost.macs(MIXERS[name](16, side), (1, 16, side, side))


def test_counts_of_what_torch_counts_in_part():
    side, channels = 24, 16
    tokens = side**2
    modulation = cost.macs(MIXERS["SFM"](channels, side), (1, channels, side, side))
    assert multiply_adds("SFM", channels, side) == modulation + 4 * tokens * channels
    blend = cost.macs(svt.EinsteinBlend(channels), (1, channels, 6, side // 2, side // 2, 2))
    high = multiply_adds("SVT high", channels, side)
    low = multiply_adds("SVT low", channels, side)
    assert high - blend == low - tokens * channels == 2 * 3 * 32 * tokens * channels
    counted = svt.multiply_accumulates(
        svt.ScatterMixer(channels, side, side, "TTXE"), torch.zeros(1, channels, side, side)
    )
    assert sum(counted.values()) == high + tokens * channels
    assert multiply_adds("AFF", channels, side) == affnet.mixing_operations("aff", tokens, channels)
    # The two differ in who makes the mask: 8 C^2/blocks for each frequency of the half plane.
    mask = (tokens / 2 + side) * 8 * channels**2 / 8
    assert multiply_adds("AFF", channels, side) - multiply_adds("static filter", channels, side) == mask


def test_exponents_of_the_counts():
    def slope(*names: str) -> float:
        counts = [sum(multiply_adds(name, 32, side) for name in names) for side in SIDES]
        return cost.exponent([side**2 for side in SIDES], counts).slope

    assert 1.85 < slope("attention") < 2
    assert 1 < slope("AFF") < slope("static filter") < 1.2
    for name in ("Hi-Fi", "SVT low", "SVT high"):
        assert slope(name) == pytest.approx(1)
    assert 1 < slope("Hi-Fi", "Lo-Fi") < slope("Lo-Fi") < slope("attention")
    assert 1 < slope("SFM") < 1.5


def test_the_maps_are_the_same_for_the_same_seed_and_normed():
    pictures = images.photographs(["camera", "coffee"], 24, grey=False)
    one, other, different = (
        compared.embedded(pictures, 8, training.stream(seed, "embedding")) for seed in (0, 0, 1)
    )
    assert one.shape == (2, 8, 12, 12)
    assert torch.equal(one, other)
    assert not torch.allclose(one, different)
    torch.testing.assert_close(one.mean((1, 2, 3)), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(one.var((1, 2, 3), correction=0), torch.ones(2), rtol=0, atol=1e-3)


def test_the_answer_leaves_out_what_an_empty_map_gives():
    x = normal(3, 8, 12, 12)
    mixer = nn.Conv2d(8, 8, 1).double()
    torch.testing.assert_close(compared.answer(mixer, x), nn.functional.conv2d(x, mixer.weight), **EXACT)


def test_gain_is_that_of_the_filter_and_scale_free():
    # A low-pass of two pixels on white noise: |cos(pi f)| along the rows.
    x = normal(40, 4, 32, 32)
    _, flat = compared.gain(x, 7 * x)
    torch.testing.assert_close(flat, torch.zeros(16, dtype=torch.float64), **EXACT)
    with training.seeded(0):
        mixed = compared.channels_only(4, 32).double()(x).detach()
    assert compared.gain(x, mixed)[1].abs().max() < 0.1
    frequency, falling = compared.gain(x, x + x.roll(1, -1))
    assert frequency.tolist() == pytest.approx([k / 32 for k in range(1, 17)])
    power = spectra.transfer_function(torch.tensor([[0.0, 1, 1]], dtype=torch.float64), 32).abs().square()
    ring = (spectra.frequencies(32, 32) * 32 + 0.5).long()
    expected = torch.stack([power[ring == k].mean() for k in range(1, 17)]) / 2
    assert (falling - expected.log() / 2).abs().max() < 0.1


def test_above_zero_is_a_share():
    x = compared.contrast(normal(2, 3, 8, 8))
    x = x / x.square().mean().sqrt()
    assert compared.above_zero(x + 2) == pytest.approx(1 / 5)
    assert compared.above_zero(torch.ones(1, 1, 4, 4)) == 0


@pytest.mark.parametrize(
    ("name", "linear", "by_one", "by_two"),
    [
        ("attention", False, True, True),
        ("static filter", True, True, True),
        ("SVT low", True, False, False),
        ("SVT high", False, False, False),  # the mirrored border
        ("AFF", False, False, False),
        ("Hi-Fi", False, False, True),
        ("Lo-Fi", False, False, True),
        ("SFM", False, False, False),
    ],
)
def test_which_mixers_are_linear_and_which_move_with_the_map(name, linear, by_one, by_two):
    x, mixer = normal(2, 8, 16, 16), build(name, side=16)
    assert (compared.superposition_error(mixer, x[:1], x[1:]) < 1e-9) is linear
    assert (compared.shift_error(mixer, x, (1, 1)) < 1e-9) is by_one
    assert (compared.shift_error(mixer, x, (2, 2)) < 1e-9) is by_two


def test_modulation_moves_with_the_map_away_from_the_border():
    x = torch.zeros(1, 8, 48, 48, dtype=torch.float64)
    x[..., 18:30, 18:30] = normal(1, 8, 12, 12)
    assert compared.shift_error(compared.Modulation(1.0), x, (1, 1)) < 1e-9


def test_bands_add_up_and_hold_their_frequencies():
    x = normal(3, 16, 16)
    parts = compared.bands(x, [1 / 8, 1 / 4])
    assert parts.shape == (3, 3, 16, 16)
    torch.testing.assert_close(parts.sum(1), x, **EXACT)
    shares = spectra.band_energy(parts, [0, 1 / 8, 1 / 4, 0.71])
    torch.testing.assert_close(shares, torch.eye(3, dtype=torch.float64).expand(3, 3, 3), **EXACT)


def test_response_is_the_filters_and_blind_to_what_is_not_x():
    x = normal(50, 16, 16)
    slow = compared.bands(x, [1 / 4])[:, 0]
    frequency, response = compared.response(x, 0.5 * slow)
    assert frequency.tolist() == pytest.approx([k / 16 for k in range(9)])
    torch.testing.assert_close(response[:4], torch.full((4,), 0.5, dtype=torch.float64), **EXACT)
    torch.testing.assert_close(response[5:], torch.zeros(4, dtype=torch.float64), **EXACT)
    _, noise = compared.response(x, x.flip(0))
    assert noise[1:].abs().max() < 0.5


@pytest.mark.parametrize("name", ["static filter", "Hi-Fi"])
def test_a_splitter_learns_what_the_control_cannot(name):
    x = compared.contrast(images.textures(64, "train", size=12, generator=training.stream(0, "train")).images)
    y = compared.bands(x, [1 / 4])
    y = y / y.square().mean((0, 2, 3), keepdim=True).sqrt()

    def loss(make):
        splitter = training.train(
            lambda: compared.BandSplitter(8, make(8, 12), 2),
            (0,), training.shuffled(x, y), (x[None], y[None]), training.Recipe(12, 8, 2e-2, 0),
            loss=nn.functional.mse_loss, score=lambda out, goal: (out - goal).square().flatten(1).mean(1),
        )  # fmt: skip
        return float(splitter.score[0, -1])

    assert loss(MIXERS[name]) < 0.9 * loss(compared.channels_only)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"name must be one of attention, .*got 'AFNO'"):
        multiply_adds("AFNO", 32, 16)
    with pytest.raises(ValueError, match="height and width must be even"):
        MIXERS["SVT low"](8, 13)
    with pytest.raises(ValueError, match="blocks must be >= 1 and divide channels"):
        MIXERS["AFF"](12, 12)
