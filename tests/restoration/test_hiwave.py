"""HiWave: the transform is PyWavelets', the model is a closed form, inversion errs in first order."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import pywt
import torch
from scipy import stats
from scipy.ndimage import gaussian_filter
from skimage.measure import label, regionprops

from fourfold import training
from fourfold.judging import parameters, records
from fourfold.judging.card import judge
from fourfold.restoration import hiwave
from fourfold.restoration.hiwave import (
    WAVELETS,
    Enlarger,
    PatchGMM,
    add_noise,
    at_detail,
    correlation,
    crops,
    cut,
    ddim_invert,
    ddim_sample,
    ddim_step,
    detail_energy,
    detail_enhance,
    disc,
    discs,
    drift_with_mirrored_borders,
    dwt2,
    guide_all,
    guide_all_but_blur,
    idwt2,
    keeps_disc,
    kurtosis,
    levels,
    likelihood,
    low_error,
    merge,
    predictor,
    seams,
    sharpen,
    skip_weight,
    views,
    windows,
)

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-10}


def mixture(components: int = 3, side: int = 4, seed: int = 0, scale: float = 0.4) -> PatchGMM:
    turn = scale * normal(side**2, side**2, seed=seed)
    patches = (normal(400, side**2, seed=seed + 1) @ turn + 0.2 * seed).reshape(-1, side, side)
    return PatchGMM.fit(patches, components, training.stream(seed, "fit"))


# --- the wavelet ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wavelet", WAVELETS)
@pytest.mark.parametrize("size", [(8, 8), (16, 10), (64, 64), (12, 30)])
def test_the_transform_is_pywavelets_with_periodic_borders(wavelet, size):
    x = normal(2, *size)
    low, details = dwt2(x, wavelet)
    wanted, bands = pywt.dwt2(x.numpy(), wavelet, mode="periodization")
    np.testing.assert_allclose(low.numpy(), wanted, **EXACT)
    for ours, theirs in zip(details.unbind(-3), bands, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, **EXACT)
    back = pywt.idwt2((wanted, bands), wavelet, mode="periodization")
    np.testing.assert_allclose(idwt2(low, details, wavelet).numpy(), back, **EXACT)
    torch.testing.assert_close(idwt2(low, details, wavelet), x, **EXACT)


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_the_transform_keeps_energy_and_haars_low_band_is_a_mean_of_blocks(wavelet):
    x = normal(3, 16, 16)
    low, details = dwt2(x, wavelet)
    energy = low.square().sum((-2, -1)) + details.square().sum((-3, -2, -1))
    torch.testing.assert_close(energy, x.square().sum((-2, -1)), rtol=1e-10, atol=0)
    if wavelet == "haar":
        blocks = x.unfold(-2, 2, 2).unfold(-2, 2, 2).mean((-2, -1))
        torch.testing.assert_close(low, 2 * blocks, **EXACT)


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_guided_are_the_details_alone(wavelet):
    c, u = normal(2, 16, 16), normal(2, 16, 16, seed=1)
    low, details = dwt2(detail_enhance(c, u, 7.5, wavelet), wavelet)
    whole_low, whole = dwt2(guide_all(c, u, 7.5), wavelet)
    torch.testing.assert_close(low, dwt2(c, wavelet)[0], **EXACT)
    torch.testing.assert_close(details, whole, **EXACT)
    assert (whole_low - low).norm() > 0.01 * low.norm()
    torch.testing.assert_close(detail_enhance(c, u, 1.0, wavelet), c, **EXACT)
    given = normal(2, 8, 8, seed=2)
    anchored = detail_enhance(c, u, 7.5, wavelet, given)
    torch.testing.assert_close(dwt2(anchored, wavelet)[0], given, **EXACT)


def test_symmetric_borders_move_the_low_band_near_the_border_only():
    c, u = normal(64, 64), normal(64, 64, seed=1)
    drift = drift_with_mirrored_borders(c, u, 7.5)
    assert drift.shape == (35, 35)
    assert drift.max() > 1
    assert drift[6:-6, 6:-6].max() < 1e-10
    # What was not guided is the image's own transform.
    assert drift_with_mirrored_borders(c, u, 1.0).max() < 1e-10


def test_guidance_of_all_but_a_blur_is_halved_at_a_quarter_cycle():
    line = torch.arange(16, dtype=torch.float64)
    for period, share in ((16, 1 - 2 ** -(1 / 16)), (4, 0.5), (2, 1 - 2**-4)):
        wave = torch.cos(2 * torch.pi * line / period).expand(16, 16)
        guided = guide_all_but_blur(wave, torch.zeros(16, 16, dtype=torch.float64), 3.0)
        torch.testing.assert_close(guided, (1 + 2 * share) * wave, **EXACT)
    c, u = normal(2, 10, 16), normal(2, 10, 16, seed=1)
    torch.testing.assert_close(guide_all_but_blur(c, u, 1.0), c, **EXACT)


def test_gradients():
    pair = [normal(1, 4, 6, seed=s).requires_grad_() for s in (0, 1)]
    for guide in (detail_enhance, guide_all, guide_all_but_blur):
        assert torch.autograd.gradcheck(lambda c, u, guide=guide: guide(c, u, 3.0), pair)
    model = mixture()
    x = normal(2, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: model.posterior_mean(x, 0.6), x)


# --- patches ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "patch", "stride"), [(64, 16, 8), (20, 8, 8), (18, 8, 4), (8, 8, 3)])
def test_patches_cover_the_image_and_merge_to_it(side, patch, stride):
    image, places = normal(3, side, side), views(side, patch, stride)
    assert places.unique().tolist() == list(range(side**2))
    torch.testing.assert_close(merge(cut(image, places), places), image, **EXACT)
    corners = places[:, 0, 0]
    assert int(corners.max()) == (side - patch) * (side + 1)
    y, x = divmod(int(corners[-1]), side)
    assert torch.equal(cut(image, places)[:, -1], image[:, y : y + patch, x : x + patch])


def test_overlaps_are_averaged():
    places = views(6, 4, 2)
    patches = torch.arange(4.0).reshape(4, 1, 1).expand(4, 4, 4).double()
    merged = merge(patches, places)
    wanted = torch.tensor([[0, 0.5, 1], [1, 1.5, 2], [2, 2.5, 3]]).double()
    assert torch.equal(merged, wanted.repeat_interleave(2, 0).repeat_interleave(2, 1))


def test_crops_lie_in_the_image_and_repeat():
    image = torch.arange(30.0).reshape(5, 6)
    one, again = (crops(image, 50, 3, training.stream(0, "crops")) for _ in range(2))
    assert torch.equal(one, again)
    corners = one[:, 0, 0].unique().tolist()
    assert corners == [6.0 * y + x for y in range(3) for x in range(4)]
    torch.testing.assert_close(one - one[:, :1, :1], (image[:3, :3] - image[0, 0]).expand(50, 3, 3))


# --- noise and back ---------------------------------------------------------------------------------------


def test_levels_are_those_of_the_schedule():
    betas = np.linspace(1e-4**0.5, 0.02**0.5, 1000) ** 2
    np.testing.assert_allclose(levels(999), np.cumprod(1 - betas), rtol=1e-12)
    assert levels(50)[0] == pytest.approx(0.9999)
    assert levels(50)[-1] == pytest.approx(np.prod(1 - betas))
    assert levels(5, 5) == levels(999)[:6]


def test_a_step_is_ddims_formula_and_turns_back():
    x, clean = normal(2, 4, 4), normal(2, 4, 4, seed=1)
    noise = (x - 0.6**0.5 * clean) / 0.4**0.5
    stepped = ddim_step(x, clean, 0.6, 0.3)
    torch.testing.assert_close(stepped, add_noise(clean, noise, 0.3), **EXACT)
    torch.testing.assert_close(ddim_step(stepped, clean, 0.3, 0.6), x, **EXACT)


@pytest.mark.parametrize("steps", [10, 40])
def test_inverting_a_gaussian_is_its_linear_map(steps):
    fitted, at = mixture(1), levels(steps)
    model = fitted._replace(means=torch.zeros_like(fitted.means))
    clean = 0.3 * normal(5, 4, 4)
    states = ddim_invert(model.posterior_mean, clean, at)
    along, variances = clean.flatten(1) @ model.axes[0], model.variances[0]
    for now, then in pairwise(at):
        spread = now * variances + 1 - now
        along = along * ((now * then) ** 0.5 * variances + ((1 - now) * (1 - then)) ** 0.5) / spread
    torch.testing.assert_close(states[-1].flatten(1) @ model.axes[0], along, rtol=0, atol=1e-8)


def test_what_was_inverted_comes_back_with_an_error_of_first_order():
    model = mixture(1)
    mixtures, places = [model, mixture(2, seed=3)], views(8, 4, 4)
    image = 0.3 * normal(8, 8)
    errors = []
    for steps in (100, 200, 400):
        at = levels(steps)
        states = ddim_invert(model.posterior_mean, cut(image, places), at)
        plain = [partial(detail_enhance, w=1.0)]
        back = ddim_sample(predictor(mixtures, 0), plain, states[-1:], at, places)
        errors.append(float((back[-1, 0] - image).norm()))
    assert np.diff(np.log2(errors)) == pytest.approx([-1, -1], abs=0.2)


def test_images_side_by_side_are_those_of_one_by_one_and_repeat():
    mixtures, places, at = [mixture(2), mixture(2, seed=3)], views(8, 4, 2), levels(6)
    predict, start = predictor(mixtures, 1), normal(2, 9, 4, 4)
    states = torch.stack([add_noise(normal(9, 4, 4, seed=5), start[0], level) for level in at])
    guides = [partial(detail_enhance, w=3.0), partial(guide_all, w=2.0)]
    both = ddim_sample(predict, guides, start, at, places, states, 3)
    assert both.shape == (6, 2, 8, 8)
    for i, guide in enumerate(guides):
        one = ddim_sample(predict, [guide], start[i : i + 1], at, places, states, 3)
        torch.testing.assert_close(both[:, i : i + 1], one, **EXACT)
    assert torch.equal(both, ddim_sample(predict, guides, start, at, places, states, 3))


def test_the_skip_residual_begins_with_the_inverted_state():
    assert skip_weight(0, 50) == 1
    assert skip_weight(25, 50) == pytest.approx(0.5)
    assert skip_weight(25, 50, 3.0) == pytest.approx(0.125)
    mixtures, places, at = [mixture(2), mixture(2, seed=3)], views(8, 4, 4), levels(5)
    states, guide = normal(6, 4, 4, 4), [partial(detail_enhance, w=2.0)]
    starts = [normal(1, 4, 4, 4, seed=s) for s in (1, 2)]
    ends = [ddim_sample(predictor(mixtures, 0), guide, s, at, places, states, 1) for s in starts]
    assert torch.equal(*ends)


# --- the model --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.9999, 0.5, 1e-3])
def test_one_gaussian_is_wieners_filter(level):
    model, x = mixture(1), normal(7, 4, 4)
    covariance = model.axes[0] @ torch.diag(model.variances[0]) @ model.axes[0].T
    noisy = level * covariance + (1 - level) * torch.eye(16, dtype=torch.float64)
    filtered = level**0.5 * covariance @ torch.linalg.inv(noisy)
    wanted = model.means[0] + (x.flatten(1) - level**0.5 * model.means[0]) @ filtered.T
    torch.testing.assert_close(model.posterior_mean(x, level).flatten(1), wanted, rtol=0, atol=1e-8)


@pytest.mark.parametrize("level", [0.99, 0.4])
def test_the_density_is_scipys_and_its_gradient_is_the_noise(level):
    model, x = mixture(3), normal(5, 4, 4).requires_grad_()
    densities = []
    for log_weight, mean, variances, axes in zip(*model, strict=True):
        covariance = level * ((axes * variances) @ axes.T).numpy() + (1 - level) * np.eye(16)
        gaussian = stats.multivariate_normal(level**0.5 * mean, covariance)
        densities.append(float(log_weight) + gaussian.logpdf(x.detach().flatten(1)))
    found = model.log_density(x, level)
    np.testing.assert_allclose(found.detach(), np.logaddexp.reduce(densities), rtol=0, atol=1e-8)
    (score,) = torch.autograd.grad(found.sum(), x)
    # Tweedie's formula (Robbins 1956)
    wanted = (x + (1 - level) * score) / level**0.5
    torch.testing.assert_close(model.posterior_mean(x, level), wanted, rtol=0, atol=1e-8)


def test_a_fit_has_the_moments_of_its_patches_and_repeats():
    patches = 0.5 * normal(300, 4, 4) + 0.1
    model = PatchGMM.fit(patches, 1, training.stream(0, "fit"))
    flat = patches.flatten(1)
    torch.testing.assert_close(model.means[0], flat.mean(0), **EXACT)
    covariance = (model.axes[0] * model.variances[0]) @ model.axes[0].T
    wanted = np.cov(flat.T, bias=True) + 1e-3 * np.eye(16)
    np.testing.assert_allclose(covariance.numpy(), wanted, **EXACT)
    one, again = (PatchGMM.fit(patches, 3, training.stream(0, "fit")) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert float(one.log_weights.exp().sum()) == pytest.approx(1)


def test_the_condition_is_one_mixture_and_without_it_all_are_as_likely():
    mixtures, x = [mixture(2), mixture(3, seed=3)], normal(5, 4, 4)
    for own in (0, 1):
        conditional, unconditional = predictor(mixtures, own)(x, 0.7)
        torch.testing.assert_close(conditional, mixtures[own].posterior_mean(x, 0.7), **EXACT)
        likely = torch.stack([m.log_density(x, 0.7) for m in mixtures]).softmax(0)[..., None, None]
        means = torch.stack([m.posterior_mean(x, 0.7) for m in mixtures])
        torch.testing.assert_close(unconditional, (likely * means).sum(0), **EXACT)


# --- from a base to an image ------------------------------------------------------------------------------


def small(at=None) -> Enlarger:
    return Enlarger([mixture(2), mixture(2, seed=3)], 1, views(8, 4, 2), at or levels(6))


def test_an_enlarger_inverts_with_its_own_mixture_and_samples_what_it_found():
    own, base, guides = small(), 0.3 * normal(8, 8), [partial(detail_enhance, w=w) for w in (1.0, 3.0)]
    states = ddim_invert(own.mixtures[1].posterior_mean, cut(base, own.places), own.at)
    assert torch.equal(own.invert(base), states)
    both, predict = torch.stack([states[-1]] * 2), predictor(own.mixtures, 1)
    wanted = ddim_sample(predict, guides, both, own.at, own.places, states, 2)
    torch.testing.assert_close(own.from_inverted(base, guides, 2), wanted, **EXACT)
    noise = normal(8, 8, seed=1)
    start = torch.stack([cut(noise, own.places)] * 2)
    wanted = ddim_sample(predict, guides, start, own.at, own.places)[-1]
    torch.testing.assert_close(own.from_noise(noise, guides), wanted, **EXACT)


def test_noise_added_keeps_the_base_where_it_is_little_or_stays_in_sight():
    own, base, noise = small(levels(20)), 0.3 * normal(8, 8), normal(8, 8, seed=1)
    guide = partial(detail_enhance, w=1.0)

    def off(image):
        return float((image - base).norm() / base.norm())

    few, many = (off(own.from_noise_added(base, noise, guide, 5, last)) for last in (5, 900))
    assert few < 0.1 < many
    alone = own.from_noise(noise, [guide])[0]
    skipping = own.from_noise_with_skips(base, noise, guide)
    assert off(skipping) < off(alone)
    # With a skip residual at every step the first state is the base's, and noise alone starts as the noise.
    states = torch.stack([add_noise(cut(base, own.places), cut(noise, own.places), at) for at in own.at])
    predict = predictor(own.mixtures, 1)
    wanted = ddim_sample(predict, [guide], states[-1:], own.at, own.places, states, 20, 3.0)[-1][0]
    torch.testing.assert_close(skipping, wanted, **EXACT)


# --- structure and details --------------------------------------------------------------------------------


def test_windows_are_all_squares_and_their_likelihood_is_per_pixel():
    image = torch.arange(30.0).reshape(5, 6).double()
    found = windows(image, 3)
    assert [int(x[0, 0]) for x in found] == [6 * y + x for y in range(3) for x in range(4)]
    assert torch.equal(found[5], image[1:4, 1:4])
    assert [int(x[0, 0]) for x in windows(image, 2, 3)] == [0, 3, 18, 21]
    model, image = mixture(2, side=3), normal(5, 6)
    wanted = model.log_density(windows(image, 3), 1.0).sum() / (12 * 9)
    assert float(likelihood(image, model, 3)) == pytest.approx(float(wanted))


def test_seams_are_jumps_across_borders_of_patches():
    steps = torch.arange(12).double() + 2.0 * (torch.arange(12) // 4)
    assert seams(steps[:, None] + steps, 4) == pytest.approx(3)
    assert seams(steps[:, None] + steps, 3) < 1


def test_costs_are_read_off_where_detail_is_equal_or_at_the_most():
    base = normal(16, 16)
    images = torch.stack([energy**0.5 * base for energy in (1.0, 2.0, 4.0, 3.0)])
    costs, unit = torch.tensor([0.0, 1.0, 2.0, 9.0]), float(detail_energy(base))
    for energy, cost in ((1.5, 0.5), (4.0, 2.0), (3.0, 1.5), (8.0, 2.0), (0.5, 0.0)):
        assert at_detail(images, torch.tensor(energy * unit), costs) == pytest.approx(cost)


def test_sharpening_moves_no_low_band_and_gives_the_energy_asked_for():
    base, other = normal(16, 16), normal(16, 16, seed=1)
    for details in (None, dwt2(other)[1]):
        sharp = sharpen(base, torch.tensor(2.5), details)
        assert float(low_error(sharp, base)) < 1e-12
        assert float(detail_energy(sharp)) == pytest.approx(2.5)
    assert float(kurtosis(sharpen(base, torch.tensor(2.5)))) == pytest.approx(float(kurtosis(base)))


def test_measures_are_their_definitions():
    image, base = normal(16, 16), normal(16, 16, seed=1)
    low, wanted = (x.unfold(0, 2, 2).unfold(1, 2, 2).mean((-2, -1)) for x in (image, base))
    error = (low - wanted).norm() / (wanted - wanted.mean()).norm()
    assert float(low_error(image, base)) == pytest.approx(float(error))
    pearson = np.corrcoef(image.flatten(), base.flatten())[0, 1]
    assert float(correlation(image, base)) == pytest.approx(pearson)
    details = dwt2(normal(400, 400))[1]
    assert float(kurtosis(normal(400, 400))) == pytest.approx(3, abs=0.05)
    assert float(detail_energy(normal(400, 400))) == pytest.approx(float(details.square().mean()))


def test_discs_are_found_where_scikit_image_finds_them():
    y, x = np.mgrid[:64, :64]
    image = np.zeros((64, 64))
    for row, column, radius in ((20, 40, 11), (50, 12, 8), (50, 50, 3)):
        image[(y - row) ** 2 + (x - column) ** 2 <= radius**2] = -1
    found = discs(torch.from_numpy(image), -0.4)
    regions = [r for r in regionprops(label(gaussian_filter(image, 3) < -0.4)) if r.area > 60]
    wanted = sorted(((*r.centroid, r.area) for r in regions), key=lambda spot: -spot[2])
    assert len(found) == 2
    np.testing.assert_allclose(found, wanted)
    assert discs(torch.zeros(8, 8), -0.4) == []


def test_a_disc_is_kept_where_it_is_the_one_dark_spot_of_an_image_with_more_detail():
    inside = disc(64, (20, 40), 11)
    assert int(inside.sum()) == sum(y**2 + x**2 <= 121 for y in range(-11, 12) for x in range(-11, 12))
    noise = 0.05 * normal(64, 64)
    base = noise.masked_fill(inside, -0.9)
    kept = (2 * noise).masked_fill(inside, -0.9)
    assert keeps_disc(kept, base, (20, 40))
    assert not keeps_disc(kept, base, (20, 45))
    assert not keeps_disc(base, base, (20, 40))
    assert not keeps_disc(2 * noise, base, (20, 40))
    assert not keeps_disc(kept.masked_fill(disc(64, (50, 12), 11), -0.9), base, (20, 40))


# --- verdicts ---------------------------------------------------------------------------------------------

RECORD = records.load("hiwave")


@pytest.mark.parametrize(("distance", "word"), [(0.04, "inconclusive"), (-0.04, "reproduced")])
def test_low_frequencies_that_sharpening_keeps_as_well_are_no_finding(distance, word):
    near = {
        t: [0.1 + 0.01 * i + j for j in (0, 0.02)] * 4 for i, t in enumerate(("grass", "brick", "gravel"))
    }
    all_guided = {f"all_{t}": [v + 0.4 for v in values] for t, values in near.items()}
    verdict = judge(
        RECORD,
        "W3a",
        near | {"over_blur": [-0.1, -0.12] * 4},
        all_guided | {"all_over_blur": [0.3, 0.31] * 4},
        {"typical": [distance, distance * 1.1] * 4},
    )
    assert verdict.word == word


def test_a_patch_that_does_not_fit_is_refused():
    with pytest.raises(parameters.ParameterError, match="size"):
        parameters.validate(RECORD, RECORD.values("quick") | {"size": 72})


# --- the mechanism without its heart ----------------------------------------------------------------------


def noise_added(denoise, clean, at):
    """Noise is added to the patches instead of found by inversion."""
    noise = torch.randn(clean.shape, dtype=clean.dtype, generator=torch.Generator().manual_seed(0))
    return torch.stack([hiwave.add_noise(clean, noise, level) for level in at])


def all_guided(conditional, unconditional, w, wavelet="haar", low=None):
    """The low band is guided as well."""
    return hiwave.guide_all(conditional, unconditional, w)


def unguided(conditional, unconditional, w, wavelet="haar", low=None):
    """Nothing is guided."""
    return conditional


MUTATIONS = [("ddim_invert", noise_added), ("detail_enhance", all_guided), ("detail_enhance", unguided)]


# --- bad input --------------------------------------------------------------------------------------------

PAIR = (torch.zeros(4, 4), torch.zeros(4, 4))
REFUSED = [
    (lambda: dwt2(torch.zeros(4, 5)), "sides of an image must be even and >= 2, got 5"),
    (lambda: dwt2(torch.zeros(4, 4), "bior4.4"), "wavelet must be one of 'haar', .*, got 'bior4.4'"),
    (lambda: idwt2(torch.zeros(2, 2), torch.zeros(2, 2, 2)), r"details must be \(..., 3, h, w\)"),
    (lambda: detail_enhance(PAIR[0], torch.zeros(4, 6), 1.0), "predictions must have one shape"),
    (lambda: detail_enhance(*PAIR, -1.0), "w must be finite and >= 0, got -1.0"),
    (lambda: guide_all(*PAIR, float("nan")), "w must be finite and >= 0, got nan"),
    (lambda: guide_all_but_blur(*PAIR, float("inf")), "w must be finite and >= 0, got inf"),
    (lambda: views(16, 7, 4), "patch must be even and in 2..16, the side, got 7"),
    (lambda: views(16, 32, 4), "patch must be even and in 2..16, the side, got 32"),
    (lambda: views(16, 8, 9), r"stride must be in 1..8 \(the patch\), got 9"),
    (lambda: crops(torch.zeros(8, 8), 0, 4, training.stream(0, "x")), "n must be >= 1, got 0"),
    (lambda: crops(torch.zeros(8, 6), 1, 7, training.stream(0, "x")), "size must be in 1..6"),
    (lambda: windows(torch.zeros(4, 6), 5), r"side must be in 1..4 \(the shorter side\), got 5"),
    (lambda: windows(torch.zeros(4, 6), 2, 0), "step must be >= 1, got 0"),
    (lambda: levels(0), "steps must be in 1..999"),
    (lambda: levels(5, 1000), "last must be in 1..999, got 1000"),
    (lambda: PatchGMM.fit(torch.zeros(5, 2, 2), 0, training.stream(0, "x")), "components must be >= 1"),
    (lambda: PatchGMM.fit(torch.zeros(5, 2, 2), 3, training.stream(0, "x")), "patches must be >= 2 comp"),
    (lambda: predictor([mixture(1)], 1), "own must be in 0..0, got 1"),
    (
        lambda: ddim_sample(None, [], torch.zeros(1, 1, 4, 4), levels(2), views(4, 4, 4)),
        "guides must be one for each of 1 images, got 0",
    ),
    (
        lambda: ddim_sample(None, [None], torch.zeros(1, 1, 4, 4), levels(2), views(4, 4, 4), skip=1),
        "skip must be 0 without states, got 1",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
