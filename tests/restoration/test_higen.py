"""HiGen: the switch, prior and cues are the official code's, noise and sampling the closed form's."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch.nn.functional import scaled_dot_product_attention

from fourfold.judging import parameters, records
from fourfold.judging.card import judge
from fourfold.restoration.higen import (
    DIRECTIONS,
    Block,
    Clips,
    Conditions,
    HiGenNet,
    Rows,
    TemporalAttention,
    TemporalConvolution,
    alignment,
    appearance_cue,
    appearance_toeplitz,
    brightness_code,
    class_distance,
    correlation,
    ddim_sample,
    digit_clips,
    digits_of_writers,
    displacement,
    energy_distance,
    faded,
    handed_out,
    losses_by_time,
    motion_amount,
    motion_code,
    motion_cue,
    moved_at,
    moved_like,
    no_conditions,
    noised,
    offset_noise,
    panned,
    pixel_guess_loss,
    scaled_linear_abar,
    second_step,
    shifted,
    sinusoid,
    spectrum,
    still_images,
    told,
    training_batches,
    training_rows,
    two_step_sample,
    v_target,
    x0_from_v,
    zero_snr_abar,
)
from fourfold.training import seeded, stream

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}
SIZE = (1, 8, 8)


def random_given(n, frames, longest, size=SIZE):
    return Conditions(
        torch.arange(n) % 4,
        normal(n, *size, dtype=torch.float32),
        torch.randint(500, (n, max(1, frames - 1)), generator=stream(0, "motion")),
        torch.rand(n, frames, longest, generator=stream(0, "appearance")),
    )


def clips_of(n=40, frames=5, seed=0, **how):
    return digit_clips(digits_of_writers()[0], n, frames, stream(seed, "clips"), **how)


@pytest.fixture
def net(jolted):
    with seeded(0):
        return jolted(HiGenNet(8, 5, 4), by=0.2).eval()


# --- noise ------------------------------------------------------------------------------------------------


def test_the_schedule_is_the_rescaled_one():
    """By the published rule on betas, step by step, which the official code and diffusers share."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    root = np.sqrt(np.cumprod(1 - betas))
    first, last = root[0], root[-1]
    root = (root - last) * first / (first - last)
    alphas = np.append(root[0] ** 2, root[1:] ** 2 / root[:-1] ** 2)
    np.testing.assert_allclose(zero_snr_abar(), np.cumprod(alphas), **EXACT)
    assert zero_snr_abar()[-1] == 0
    assert zero_snr_abar()[0] == pytest.approx(float(scaled_linear_abar()[0]), abs=1e-12)
    assert float(scaled_linear_abar()[-1]) == pytest.approx(0.0047, abs=5e-5)


def test_noising_is_a_rotation():
    x, noise, abar = normal(1000, 7), normal(1000, 7, seed=1), zero_snr_abar()[:, None]
    noisy, v = noised(x, noise, abar), v_target(x, noise, abar)
    torch.testing.assert_close(x0_from_v(noisy, v, abar), x, **EXACT)
    torch.testing.assert_close((1 - abar).sqrt() * noisy + abar.sqrt() * v, noise, **EXACT)
    torch.testing.assert_close(noisy.square() + v.square(), x.square() + noise.square(), rtol=0, atol=1e-10)


def test_noise_has_a_part_that_a_frame_has_in_common():
    noise = offset_noise(400, 5, SIZE, stream(0, "noise"))
    assert noise.shape == (400, 5, *SIZE)
    assert float(noise.mean((2, 3, 4)).var()) == pytest.approx(1 / 64 + 0.01, rel=0.1)


@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
def test_sampling_with_the_true_v_gives_the_clip(steps):
    wanted, abar = normal(2, 3, 1, 5, 4, dtype=torch.float32).clamp(-1, 1), zero_snr_abar().float()
    seen = []

    def true_v(x, times):
        seen.append(int(times[0]))
        share = abar[times][:, None, None, None, None]
        return (share.sqrt() * x - wanted) / (1 - share).sqrt()

    made = ddim_sample(true_v, normal(*wanted.shape, dtype=torch.float32), steps)
    torch.testing.assert_close(made, wanted, rtol=0, atol=2e-4)
    assert len(seen) == steps
    assert seen[0] == 999
    assert seen == sorted(seen, reverse=True)


# --- cues -------------------------------------------------------------------------------------------------


def test_the_motion_cue_is_the_official_one_at_the_official_size():
    clips = normal(2, 3, 4, 32, 56, dtype=torch.float32)
    by_axes = (clips[:, 1:] - clips[:, :-1]).abs().norm(dim=(3, 4)).norm(dim=2) * 10
    assert (motion_cue(clips) - by_axes.long()).abs().max() <= 1  # at the edge of a whole number
    assert motion_cue(clips).shape == (2, 2)
    assert motion_cue(clips).dtype == torch.int64


def test_a_still_clip_has_no_motion_and_one_look():
    still = normal(2, 1, *SIZE).expand(-1, 4, -1, -1, -1)
    assert not motion_cue(still).any()
    torch.testing.assert_close(appearance_cue(still), torch.ones(2, 4, 4, dtype=torch.float64), **EXACT)


def test_the_appearance_cue_sees_a_fade_and_no_shift():
    cue = appearance_cue(clips_of(fade=0.0).clips)
    torch.testing.assert_close(cue, torch.ones_like(cue), rtol=0, atol=0.05)  # rounding at the torus' edge
    faint = appearance_cue(clips_of(fade=0.6).clips)
    assert (faint[:, 0].mean(0).diff() < 0).all()
    assert faint[:, 0, -1].min() < 0.5
    torch.testing.assert_close(faint, faint.mT)
    torch.testing.assert_close(brightness_code(clips_of().clips).norm(dim=-1), torch.ones(40, 5))


def test_what_is_asked_for_is_the_official_toeplitz_matrix():
    a, frames = 0.6, 5
    row = torch.cat([torch.linspace(1 - a, 1, frames)[:-1], torch.linspace(1, 1 - a, frames)])
    official = torch.stack([row[i : i + frames] for i in range(len(row) - frames, -1, -1)])
    torch.testing.assert_close(appearance_toeplitz(torch.tensor([a]), frames)[0], official)


def test_the_sinusoid_is_the_formula():
    for value in (0, 3, 499):
        wanted = [math.cos(value / 10000 ** (i / 4)) for i in range(4)]
        wanted += [math.sin(value / 10000 ** (i / 4)) for i in range(4)]
        np.testing.assert_allclose(sinusoid(torch.tensor([value]), 8)[0], wanted, rtol=0, atol=1e-4)


# --- the denoiser -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "frames"), [(4, 4, 5), (3, 5, 2), (1, 1, 3)])
def test_attention_is_torchs(jolted, height, width, frames):
    layer = jolted(TemporalAttention, 8, 6)
    x = normal(2 * frames, 8, height, width)
    at = layer.attention
    tokens = x.unflatten(0, (2, frames)).permute(0, 3, 4, 1, 2)  # clip, place, frame, channel
    h = layer.norm(tokens) + layer.places[:frames]
    mixed = at.projection(scaled_dot_product_attention(at.query(h), at.key(h), at.value(h)))
    wanted = (tokens + mixed).permute(0, 3, 4, 1, 2).flatten(0, 1)
    torch.testing.assert_close(layer(x, frames), wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("height", "width", "frames"), [(4, 4, 5), (3, 5, 2)])
def test_the_convolution_over_frames_is_torchs_in_three_dimensions(jolted, height, width, frames):
    layer = jolted(TemporalConvolution, 8)
    x = normal(2 * frames, 8, height, width)
    h = torch.nn.functional.silu(layer.norm(x)).unflatten(0, (2, frames)).transpose(1, 2)
    kernel = layer.convolution.weight[..., None]
    mixed = torch.nn.functional.conv3d(h, kernel, layer.convolution.bias, padding=(1, 0, 0))
    torch.testing.assert_close(layer(x, frames), x + mixed.transpose(1, 2).flatten(0, 1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("make", [lambda: TemporalAttention(8, 6), lambda: TemporalConvolution(8)])
def test_what_mixes_frames_is_nothing_on_one(jolted, make):
    layer = jolted(make)
    x = normal(3, 8, 4, 4)
    assert torch.equal(layer(x, 1), x)
    assert not torch.allclose(layer(x, 3), x)


@torch.no_grad()
def test_without_mixing_a_clip_is_its_frames(net):
    for name, value in net.named_parameters():
        if "temporal" in name:
            value.zero_()
    x, labels = normal(2, 5, *SIZE, dtype=torch.float32), torch.tensor([1, 3])
    together = net(x, torch.full((2,), 300), no_conditions(labels, 5, 5, SIZE))
    alone = no_conditions(labels.repeat_interleave(5), 1, 5, SIZE)
    each = net(x.flatten(0, 1)[:, None], torch.full((10,), 300), alone)
    torch.testing.assert_close(together.flatten(0, 1), each[:, 0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_prior_and_cues_are_nothing_at_birth():
    with seeded(0):
        net = HiGenNet(8, 5, 4)
        torch.nn.init.normal_(net.out.weight)
        # What the cues are added to goes through layers that start at 0, too.
        for name, value in net.named_parameters():
            if "conv_out" in name:
                torch.nn.init.normal_(value)
    x, given = normal(4, 5, *SIZE, dtype=torch.float32), random_given(4, 5, 5)
    times = torch.arange(4) * 300
    blank = no_conditions(given.labels, 5, 5, SIZE)
    assert torch.equal(net(x, times, given), net(x, times, blank))
    for part in (net.prior.weight, net.motion[-1].weight, net.appearance[-1].weight):
        torch.nn.init.normal_(part)
        assert not torch.equal(net(x, times, given), net(x, times, blank))
        torch.nn.init.zeros_(part)


@torch.no_grad()
def test_motion_is_spread_over_the_frames_as_in_the_official_code(net):
    given, times = random_given(2, 5, 5), torch.tensor([10, 700])
    official = torch.nn.functional.interpolate(
        sinusoid(given.motion, 8).transpose(1, 2), size=5, mode="linear"
    ).transpose(1, 2)
    wanted = (
        (net.time(sinusoid(times, 8)) + net.label(given.labels)).repeat_interleave(5, 0)
        + net.motion(official).flatten(0, 1)
        + net.appearance(given.appearance).flatten(0, 1)
    )
    torch.testing.assert_close(net.embed(times, given, 5), wanted)


@torch.no_grad()
@pytest.mark.parametrize(("size", "frames"), [((1, 8, 8), 5), ((2, 7, 5), 3), ((1, 6, 9), 4)])
def test_odd_sizes_and_more_channels_work(size, frames):
    with seeded(0):
        net = HiGenNet(4, frames, 4, size[0])
    x = normal(3, frames, *size, dtype=torch.float32)
    assert net(x, torch.arange(3), random_given(3, frames, frames, size)).shape == x.shape
    image = no_conditions(torch.arange(3), 1, frames, size)
    assert net(x[:, :1], torch.arange(3), image).shape == (3, 1, *size)


def test_gradients_are_those_of_differences(jolted):
    block = jolted(lambda: Block(4, 8, 6, 3), by=0.1)
    x, embedding = normal(3, 4, 3, 3).requires_grad_(), normal(3, 6, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, e: block(x, e, 3), (x, embedding))


def test_rows_are_images_first_and_then_clips(net):
    drawn = clips_of(6)
    images = still_images(digits_of_writers()[0], drawn.labels, 5, stream(1, "stills"))
    x = torch.cat([images[:2], drawn.clips[2:]])
    given = Conditions(drawn.labels, drawn.clips[:, 2], motion_cue(drawn.clips), appearance_cue(drawn.clips))
    rows, v = training_rows(x, given, stream(0, "rows"))
    times = rows[:, -2].long()
    noisy = rows[:, : 5 * 64].view(6, 5, *SIZE)
    share = zero_snr_abar().float()[times][:, None, None, None, None]
    torch.testing.assert_close(x0_from_v(noisy, v, share), x, rtol=0, atol=1e-5)
    with torch.no_grad():
        made = Rows(net, 5, 8, 2)(rows)
        torch.testing.assert_close(
            made[2:], net(noisy[2:], times[2:], Conditions(*(g[2:] for g in given))), rtol=0, atol=1e-5
        )
        alone = no_conditions(drawn.labels[:1].expand(5), 1, 5, SIZE)
        images = net(noisy[0, :, None], times[:1].expand(5), alone)
        torch.testing.assert_close(made[0], images[:, 0], rtol=0, atol=1e-5)


def test_a_network_learns_from_middle_frames_and_cues_or_from_the_class_alone():
    drawn = clips_of(6)
    given, blind = told(drawn, True), told(drawn, False)
    assert torch.equal(given.prior, drawn.clips[:, 2])
    assert torch.equal(given.motion, motion_cue(drawn.clips))
    assert torch.equal(given.appearance, appearance_cue(drawn.clips))
    assert all(map(torch.equal, blind, no_conditions(drawn.labels, 5, 5, SIZE)))


def test_batches_begin_with_images():
    rows, v = training_batches(digits_of_writers()[0], 3, 4, 2, 5, True, stream(0, "batches"))
    assert torch.equal(
        rows, training_batches(digits_of_writers()[0], 3, 4, 2, 5, True, stream(0, "batches"))[0]
    )
    share = zero_snr_abar().float()[rows[:, -2].long()][:, None, None, None, None]
    x = x0_from_v(rows[:, : 5 * 64].view(18, 5, *SIZE), v, share)
    direction = displacement(x) * DIRECTIONS[rows[:, -1].long()][:, None]
    assert x.shape == (18, 5, *SIZE)
    # Clips are given their own middle frames; images are of several digits, so that nothing moves steadily.
    prior = rows[:, 5 * 64 : 6 * 64].view(18, *SIZE)
    own = (x[:, 2] - prior).abs().amax((1, 2, 3)) < 1e-3
    assert own.tolist() == ([False] * 2 + [True] * 4) * 3
    assert (direction[own].sum((1, 2)) >= 0).all()


def test_the_loss_by_time_is_the_mean_square(net):
    drawn = clips_of(16)
    found = losses_by_time(net, drawn, False, 4, stream(0, "noise"))
    with torch.no_grad():
        noise = offset_noise(16, 5, SIZE, stream(0, "noise"))
        times = torch.tensor([62 * i + i // 2 for i in range(16)])
        share = zero_snr_abar().float()[times][:, None, None, None, None]
        v = net(noised(drawn.clips, noise, share), times, told(drawn, False))
    errors = (v - v_target(drawn.clips, noise, share)).square().flatten(1).mean(1)
    np.testing.assert_allclose(found, errors.view(4, 4).mean(1), rtol=1e-5)


def test_every_parameter_learns():
    with seeded(0):
        net = HiGenNet(4, 5, 4)
        for value in net.parameters():
            torch.nn.init.normal_(value, std=0.3)
    net(
        normal(4, 5, *SIZE, dtype=torch.float32), torch.arange(4), random_given(4, 5, 5)
    ).square().sum().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in net.parameters())


@torch.no_grad()
def test_the_second_step_is_given_the_firsts_picture(net):
    labels, cues = torch.arange(4), (torch.full((4, 4), 200), appearance_toeplitz(torch.full((4,), 0.3), 5))
    drawn = two_step_sample(net, labels, *cues, 3, SIZE, stream(0, "noise"))
    again = two_step_sample(net, labels, *cues, 3, SIZE, stream(0, "noise"))
    assert torch.equal(drawn.clip, again.clip)
    assert drawn.prior.shape == (4, *SIZE)
    assert drawn.clip.shape == (4, 5, *SIZE)
    generator = stream(0, "noise")
    torch.randn(4, 1, *SIZE, generator=generator)
    assert torch.equal(drawn.clip, second_step(net, labels, drawn.prior, *cues, 3, generator))
    generator = stream(0, "noise")
    torch.randn(4, 1, *SIZE, generator=generator)
    assert not torch.equal(drawn.clip, second_step(net, labels, -drawn.prior, *cues, 3, generator))


# --- clips and measures -----------------------------------------------------------------------------------


def test_a_shift_by_whole_pixels_is_a_roll():
    images = normal(3, 6, 7)
    by = torch.tensor([[1.0, 2.0], [-2.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    rolled = [
        image.roll((int(down), int(right)), (0, 1)) for image, (down, right) in zip(images, by, strict=True)
    ]
    torch.testing.assert_close(shifted(images, by), torch.stack(rolled), rtol=0, atol=1e-5)


def test_digits_of_other_people_are_apart():
    first, rest = digits_of_writers()
    assert (len(first.labels), len(rest.labels)) == (505, 215)
    assert sorted(set(first.labels.tolist())) == [0, 1, 2, 3]
    assert first.images.min() == 0
    assert rest.images.max() == 1


def test_clips_are_what_they_say():
    drawn = clips_of(60)
    assert drawn.clips.shape == (60, 5, *SIZE)
    assert torch.equal(drawn.clips, clips_of(60).clips)
    middle = (drawn.clips[:, 2, 0] + 1) / 2 / 0.6
    digits = digits_of_writers()[0].images
    assert float(torch.cdist(middle.flatten(1), digits.flatten(1)).amin(1).max()) < 1e-4
    assert alignment(drawn.clips, drawn.labels) > 0.97
    assert alignment(drawn.clips, (drawn.labels + 1) % 4) < 0.1
    assert alignment(drawn.clips[:, :1].expand(-1, 5, -1, -1, -1), drawn.labels) == 0


def test_a_displacement_is_found():
    velocity = torch.tensor([[0.5, -1.25], [2.0, 0.0], [0.0, 0.75]])
    clips = panned(digits_of_writers()[0].images[:3], velocity, 5)
    torch.testing.assert_close(displacement(clips), velocity[:, None].expand(-1, 4, -1))
    to_and_fro = torch.stack([clips[2, 1], clips[2, 2], clips[2, 1], clips[2, 2]])[None]
    assert displacement(to_and_fro)[0, :, 1].tolist() == [0.75, -0.75, 0.75]
    assert alignment(to_and_fro, torch.tensor([0])) == pytest.approx(1 / 3)
    torch.testing.assert_close(clips[:, 2, 0], digits_of_writers()[0].images[:3], rtol=0, atol=1e-5)


def test_still_images_are_of_their_class():
    first, labels = digits_of_writers()[0], torch.tensor([3, 0, 0])
    images = (still_images(first, labels, 4, stream(0, "stills"))[:, :, 0] + 1) / 1.2
    nearest = torch.cdist(images.flatten(0, 1).flatten(1), first.images.flatten(1)).argmin(1)
    assert first.labels[nearest].tolist() == [3] * 4 + [0] * 8


def test_measures_agree_with_others():
    one, other = normal(20, 3, 4), normal(30, 3, 4, seed=1) + 0.5
    x, y = one.flatten(1).numpy(), other.flatten(1).numpy()
    wanted = 2 * cdist(x, y).mean() - cdist(x, x).sum() / 380 - cdist(y, y).sum() / 870
    assert energy_distance(one, other) == pytest.approx(wanted, abs=1e-8)
    labels = torch.arange(20) % 2
    halves = [energy_distance(one[labels == k], other[torch.arange(30) % 2 == k]) for k in (0, 1)]
    assert class_distance(one, labels, Clips(other, torch.arange(30) % 2)) == pytest.approx(np.mean(halves))
    wanted = [np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in zip(one, other, strict=False)]
    np.testing.assert_allclose(correlation(one, other[:20]), wanted, rtol=0, atol=1e-10)
    image = digits_of_writers()[0].images[:5]
    moved = 0.4 * shifted(image, torch.full((5, 2), 3.0))
    torch.testing.assert_close(spectrum(2 * moved - 1), spectrum(2 * image - 1), rtol=0, atol=1e-5)


def test_rivals_do_what_was_asked_where_they_can():
    drawn = clips_of(40, fade=0.0)
    wanted = torch.rand(40, generator=stream(0, "wanted"))
    ordered = handed_out(drawn.clips, drawn.labels, wanted)
    amount = motion_amount(ordered).mean(1)
    for label in range(4):
        rows = drawn.labels == label
        assert (amount[rows][wanted[rows].argsort()].diff() >= 0).all()
    assert sorted(amount.tolist()) == sorted(motion_amount(drawn.clips).mean(1).tolist())
    images = 2 * digits_of_writers()[0].images[:30] - 1
    labels, seen = digits_of_writers()[0].labels[:30], clips_of(200, seed=1)
    like = moved_like(images, labels, seen, stream(0, "moved"))
    torch.testing.assert_close(like[:, 2, 0], images, rtol=0, atol=1e-5)
    assert alignment(like, labels) > 0.95
    assert motion_amount(like).mean() > 0.1
    wanted = torch.linspace(0.1, 0.5, 30)
    paced = moved_at(images, labels, seen, wanted)
    torch.testing.assert_close(motion_amount(paced).mean(1), wanted, rtol=0, atol=0.05)
    assert alignment(paced, labels) > 0.95
    asked = torch.linspace(0, 0.6, 40)
    torch.testing.assert_close(
        1 - appearance_cue(faded(drawn.clips, asked))[:, 0, -1], asked, rtol=0, atol=1e-4
    )


def test_the_guess_of_pixels_is_the_best_linear_one():
    clips = torch.randn(4000, 2, generator=stream(0, "x"), dtype=torch.float64) * torch.tensor([0.3, 1.0])
    abar = zero_snr_abar()[::50, None]
    noise = normal(4000, 2, seed=1)
    found = []
    for share in abar:
        noisy, v = noised(clips, noise, share), v_target(clips, noise, share)
        slope = (noisy * v).sum(0) / noisy.square().sum(0)
        found.append(float((v - slope * noisy).square().mean()))
    assert pixel_guess_loss(clips) == pytest.approx(np.mean(found), rel=0.05)


# --- verdicts ---------------------------------------------------------------------------------------------

RECORD = records.load("higen")
TRAINED = {"trained": [0.4, 0.41] * 4, "judge": [97.0, 96.0] * 4}


@pytest.mark.parametrize(("ramp", "word"), [(1.0, "inconclusive"), (0.1, "reproduced")])
def test_a_cue_that_a_ramp_replaces_is_no_finding(ramp, word):
    verdict = judge(
        RECORD,
        "G6",
        {"slope": [0.6, 0.7] * 4, "steadier": [-0.1, -0.12] * 4},
        {"ramp": [ramp, ramp + 0.01] * 4},
        {"trained": TRAINED["trained"]},
    )
    assert verdict.word == word


@pytest.mark.parametrize("still", [2.0, -1.0])
def test_clips_that_are_farther_are_not_reproduced_even_if_a_still_is_near(still):
    far, less = [0.2, 0.3] * 4, [-60.0, -61.0] * 4
    verdict = judge(
        RECORD,
        "G4a",
        {"closer": far, "truer": [1.0, 2.0] * 4},
        {
            "still": [still, still + 0.1] * 4,
            "moved_like": [1.0, 1.1] * 4,
            "mismatched": [3.0, 3.1] * 4,
            "mismatched_truer": less,
        },
        TRAINED,
    )
    assert verdict.word == "not reproduced"


# --- the mechanism without its heart ----------------------------------------------------------------------

ENTER, EMBED = HiGenNet.enter, HiGenNet.embed


def prior_ignored(self, x, prior, frames):
    """The spatial prior does not reach the network."""
    return ENTER(self, x, torch.zeros_like(prior), frames)


def motion_untold(self, times, given, frames):
    """The network is told no motion."""
    return EMBED(self, times, given._replace(motion=torch.zeros_like(given.motion)), frames)


def appearance_untold(self, times, given, frames):
    """The network is told that all frames look alike."""
    return EMBED(self, times, given._replace(appearance=torch.ones_like(given.appearance)), frames)


MUTATIONS = [
    ("HiGenNet.enter", prior_ignored),
    ("HiGenNet.embed", motion_untold),
    ("HiGenNet.embed", appearance_untold),
]


@torch.no_grad()
@pytest.mark.parametrize(("target", "change"), MUTATIONS)
def test_a_mutation_takes_one_condition_away(net, monkeypatch, target, change):
    x, given = normal(2, 5, *SIZE, dtype=torch.float32), random_given(2, 5, 5)
    part = {"prior_ignored": "prior", "motion_untold": "motion", "appearance_untold": "appearance"}[
        change.__name__
    ]
    other = given._replace(**{part: getattr(given, part) * 2 + 1})
    times = torch.tensor([100, 800])
    assert not torch.equal(net(x, times, given), net(x, times, other))
    monkeypatch.setattr(HiGenNet, target.split(".")[1], change)
    assert torch.equal(net(x, times, given), net(x, times, other))


# --- bad input --------------------------------------------------------------------------------------------

REFUSED = [
    (lambda: HiGenNet(6, 5, 4), "width must be a multiple of 4, >= 4, got 6"),
    (lambda: HiGenNet(8, 2, 4), "frames must be >= 3, got 2"),
    (lambda: HiGenNet(8, 5, 0), "classes must be >= 1, got 0"),
    (lambda: motion_cue(torch.zeros(1, 1, *SIZE)), "frames must be >= 2, got 1"),
    (lambda: appearance_toeplitz(torch.tensor([0.5, 1.5]), 5), r"change must be in 0..1, got 0.5..1.5"),
    (lambda: appearance_toeplitz(torch.tensor([0.5]), 1), "frames must be >= 2, got 1"),
    (lambda: ddim_sample(lambda x, t: x, torch.zeros(1), 0), r"steps must be in 1..1000, got 0"),
    (lambda: ddim_sample(lambda x, t: x, torch.zeros(1), 1001), r"steps must be in 1..1000, got 1001"),
    (lambda: clips_of(0), "n must be >= 1, got 0"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_parameters_that_do_not_fit_are_refused():
    with pytest.raises(parameters.ParameterError, match="multiple of 4"):
        parameters.validate(RECORD, RECORD.values("quick") | {"width": 18})


def test_directions_are_four_and_of_length_one():
    assert torch.equal(DIRECTIONS.norm(dim=1), torch.ones(4))
    assert len({tuple(d) for d in DIRECTIONS.tolist()}) == 4
    assert motion_code(torch.tensor(0.0)) == 0
