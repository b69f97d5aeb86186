"""HIR-Diff: QR against scipy and all triples, the sampler against its authors' code, priors densely."""

import math
from itertools import combinations

import numpy as np
import pytest
import scipy
import torch
from skimage.metrics import peak_signal_noise_ratio

from fourfold.data import image_pairs
from fourfold.judging import parameters, records
from fourfold.judging.card import judge
from fourfold.restoration import hir_diff
from fourfold.restoration.hir_diff import (
    TASKS,
    Seen,
    Shrinkage,
    alpha_bar,
    coef_matrix,
    damage,
    denoiser_of,
    differences,
    edge_weights,
    equal_interval,
    expand,
    gaussian_prior,
    guidance_alone,
    guidance_loss,
    lessons,
    levels,
    make_hsi,
    mpsnr,
    one_pass,
    posterior_mean,
    reduce,
    restore,
    right_singular,
    start,
    strong_rrqr,
)
from fourfold.training import stream

DOUBLE = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=DOUBLE, generator=stream(seed, "normal"))


def photograph(size=32, seed=0):
    """A smooth random colour image (3, size, size) in 0..1, in double precision."""
    noise = torch.rand(1, 3, size + 4, size + 4, dtype=DOUBLE, generator=stream(seed, "image"))
    return torch.nn.functional.avg_pool2d(noise, 5, 1)[0]


def bands_of(cube):
    V = right_singular(cube)
    return V, sorted(strong_rrqr(V.T, 3).columns)


# --- three bands and a matrix -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 31), (5, 8), (4, 4)])
@pytest.mark.parametrize("seed", range(3))
def test_pivots_are_scipys(shape, seed):
    A = normal(*shape, seed=seed)
    wanted = scipy.linalg.qr(A.numpy(), mode="economic", pivoting=True)[2].tolist()
    assert hir_diff.pivots(A, 3)[:3] == wanted[:3]
    assert sorted(hir_diff.pivots(A, 3)) == list(range(shape[1]))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_no_exchange_of_a_strong_qr_enlarges_its_volume_by_more_than_f(k):
    A = normal(4, 9, seed=k)
    found = strong_rrqr(A, k, 1.1)

    def volume(columns):
        return float(torch.linalg.svdvals(A[:, columns]).prod())

    rest = [column for column in range(9) if column not in found.columns]
    for i in range(k):
        for other in rest:
            swapped = [*found.columns[:i], other, *found.columns[i + 1 :]]
            assert volume(swapped) <= 1.1 * volume(found.columns) * (1 + 1e-9)
    assert found.dependence.abs().max() <= 1.1 * (1 + 1e-9)


def test_kahans_matrix_needs_exchanges_and_pivots_do_not_see_it():
    c, s, n = 0.285, math.sqrt(1 - 0.285**2), 20
    kahan = torch.diag(torch.tensor([s**i for i in range(n)], dtype=DOUBLE)) @ (
        torch.eye(n, dtype=DOUBLE) - c * torch.triu(torch.ones(n, n, dtype=DOUBLE), 1)
    )
    kahan = kahan * (1 - 1e-10 * torch.arange(n))  # so that pivoting keeps the order
    found = strong_rrqr(kahan, n - 1, 1.2)
    assert found.swaps > 0
    assert found.dependence.abs().max() <= 1.2


def test_the_volume_is_nearly_that_of_the_best_of_all_triples():
    V, bands = bands_of(damage("denoise", make_hsi(photograph()), 0.1, stream(0, "noise")).image)
    volumes = torch.linalg.det(V[torch.tensor(list(combinations(range(31), 3)))]).abs()
    assert len(volumes) == 4495
    assert torch.linalg.det(V[bands]).abs() >= volumes.max() / 1.2**3
    assert torch.linalg.det(V[[0, 1, 2]]).abs() < volumes.max() / 10


def test_the_reduced_image_is_three_bands():
    spectra, image = normal(11, 3), photograph(9)
    cube = expand(spectra, image)
    V, bands = bands_of(cube)
    E = coef_matrix(V, bands)
    torch.testing.assert_close(E[bands], torch.eye(3, dtype=DOUBLE), rtol=0, atol=1e-12)
    torch.testing.assert_close(expand(E, cube[bands]), cube, rtol=0, atol=1e-12)
    torch.testing.assert_close(reduce(E, cube), cube[bands], rtol=0, atol=1e-12)
    four = cube + expand(normal(11, 1, seed=1), photograph(9, seed=1)[:1])
    assert (expand(E, four[bands]) - four).abs().max() > 1e-2
    flipped = V * torch.tensor([1, -1, 1], dtype=DOUBLE)  # as the code does
    torch.testing.assert_close(coef_matrix(flipped, bands), E, rtol=0, atol=1e-12)


def test_bands_at_equal_interval_are_the_codes():
    assert equal_interval(31) == [7, 15, 23]
    assert equal_interval(191) == [47, 95, 143]


# --- cubes and tasks --------------------------------------------------------------------------------------


def test_a_cube_is_a_photograph_of_more_colours():
    rgb = photograph(10)
    cube = make_hsi(rgb, 31, 0)
    assert cube.shape == (31, 10, 10)
    assert torch.linalg.matrix_rank(cube.flatten(1), rtol=1e-6) == 3
    assert torch.linalg.matrix_rank(make_hsi(rgb, 31, 0.01).flatten(1), rtol=1e-6) == 4
    white = make_hsi(torch.ones_like(rgb), 31, 0)
    assert float(white.max()) == pytest.approx(1)
    assert make_hsi(torch.rand(3, 8, 8), 31).dtype == torch.float32


def test_a_small_image_is_blurred_and_shrunk():
    cube = make_hsi(photograph(32), 5)
    width = math.sqrt(16 / (8 * math.log(2)))
    blurred = np.stack([
        scipy.ndimage.gaussian_filter(band, width, mode="constant", radius=4) for band in cube.numpy()
    ])  # fmt: skip
    wanted = image_pairs.shrink(torch.tensor(blurred), 4)
    torch.testing.assert_close(Seen("sr", cube).degrade(cube), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_seen_repeats_and_has_its_noise(task):
    cube = make_hsi(photograph(64))
    seen, again = (damage(task, cube, 0.1, stream(3, "noise")) for _ in range(2))
    assert torch.equal(seen.image, again.image)
    known = slice(None) if seen.mask is None else seen.mask > 0
    rest = (seen.image - seen.degrade(cube))[known]
    assert float(rest.std()) == pytest.approx(0.1, rel=0.05)
    if seen.mask is not None:
        assert float(seen.mask.mean()) == pytest.approx(0.2, abs=0.01)
        assert not seen.image[seen.mask == 0].any()


@pytest.mark.parametrize("task", TASKS)
def test_the_simplest_image_is_near_where_little_was_lost(task):
    cube = expand(normal(8, 3).abs() / 3, torch.ones(3, 16, 16, dtype=DOUBLE))
    E = coef_matrix(*bands_of(cube + 0.01 * photograph(16)[:1]))
    flat = start(damage(task, cube, 0, stream(0, "noise"), keep=0.5), E)
    assert flat.shape == (3, 16, 16)
    middle = (slice(None), slice(6, 10), slice(6, 10))
    torch.testing.assert_close(expand(E, flat)[middle], reduce_(E, cube)[middle], rtol=0, atol=0.05)


def reduce_(E, cube):
    return expand(E, reduce(E, cube))


# --- schedules --------------------------------------------------------------------------------------------


def test_the_exponential_schedule_has_the_cards_values():
    bars = alpha_bar("exp", k=8)
    places = {0: 1.0, 1: 0.999997, 50: 0.99984, 500: 0.98203, 950: 0.33046, 1000: 0.001}
    for t, value in places.items():
        assert float(bars[t]) == pytest.approx(value, abs=6e-6)


def test_levels_are_the_codes():
    visited = levels(alpha_bar("exp"), 20)
    assert len(visited) == 21
    assert visited[-1] == 1.0
    assert visited[:20] == [float(alpha_bar("exp")[i + 1]) for i in range(950, -1, -50)]
    assert [round(levels(alpha_bar(kind), 20)[0], 3) for kind in ("exp", "linear", "cosine")] == [
        0.325, 0.011, 0.006,
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_late_start_begins_at_its_level_and_keeps_the_spacing(kind):
    bars = alpha_bar(kind)
    late = levels(bars, 20, 0.325)
    assert 0.325 <= late[0] < 0.33
    assert late == sorted(late)
    places = [int((bars == level).nonzero()[0]) for level in late[:-1]]
    assert set(np.diff(places)) <= {-(places[0] - 1) // 19, -((places[0] - 1) // 19)}


# --- guidance ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("size", [8, 12])
def test_gradients_of_the_guidance(task, size):
    cube = make_hsi(photograph(size), 5)
    seen = damage(task, cube, 0.1, stream(0, "noise"))
    weights = edge_weights(seen.image) if task == "denoise" else None
    x = photograph(size, seed=2)[:, :, :].repeat(2, 1, 1)[:5].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: guidance_loss(x, seen, 2.0, 3.0, weights), x)


def test_the_parts_of_the_guidance_by_hand():
    cube = torch.tensor([[[0.0, 1], [3, 3]], [[0, 0], [1, 2]]], dtype=DOUBLE)
    plain = Seen("inpainting", torch.zeros_like(cube), torch.tensor([[[1.0, 1], [0, 0]], [[0, 0], [0, 1]]]))
    along_h, along_w, along_c = (3 + 2 + 1 + 2) / 4, (1 + 0 + 0 + 1) / 4, (0 + 1 + 2 + 1) / 4
    assert float(guidance_loss(cube, plain, 0, 1)) == pytest.approx(along_h + along_w + along_c)
    assert float(guidance_loss(cube, plain, 1, 0)) == pytest.approx((0 + 1 + 4) / 3)
    whole = Seen("denoise", torch.zeros_like(cube))
    assert float(guidance_loss(cube, whole, 0, 1)) == pytest.approx(along_h + along_w + along_c)
    assert float(guidance_loss(cube, whole, 1, 0)) == pytest.approx(float(cube.square().mean()))


def test_circular_differences_couple_the_first_and_the_last_band():
    first, _, last = (torch.zeros(5, 4, 4), None, torch.zeros(5, 4, 4))
    first[0], last[-1] = 1, 1
    ends = [differences(cube, True)[2].abs().sum() for cube in (first, last)]
    assert ends == [32, 32]
    assert differences(first, False)[2].abs().sum() == 16


def test_spectral_weights_would_be_made_of_rounding():
    cube = make_hsi(photograph(16))
    slope = differences(cube, True)[2].mean(0).abs()
    assert slope.max() < 1e-15
    along_h, along_w, along_c = edge_weights(cube)
    assert along_c.unique().tolist() == [1]
    for weight in (along_h, along_w):
        assert 1 / 3 <= float(weight.min()) < float(weight.max()) <= 1
    assert all(torch.isfinite(weight).all() for weight in edge_weights(torch.ones_like(cube)))


# --- sampler ----------------------------------------------------------------------------------------------


def noise_of(x, level):
    """No denoiser, but a function that the authors' code was given too."""
    return torch.tanh(x) * math.sqrt(1 - level) + 0.1 * x


OFFICIAL = {
    ("denoise", "exp"): [0.3894076612, 0.3941443854, 0.0, 0.4472064522],
    ("denoise", "linear"): [0.3599574972, 0.3125314476, 0.2556800245, 0.4244227952],
    ("sr", "exp"): [0.4867823203, 0.7522933201, 0.6560856954, 0.4394458962],
    ("sr", "linear"): [0.3093584111, 0.3389425444, 0.3050279922, 0.4261572114],
    ("inpainting", "exp"): [0.0202747069, 0.0, 0.0, 0.4535985141],
    ("inpainting", "linear"): [0.1435290101, 0.0281303733, 0.0528550514, 0.4409572043],
}
"""Entries (0, 0, :3) of what the authors' code (505e0ba, in double precision, spectral weights set to 1)
returns for the case below, and the mean of all."""


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("kind", "steps", "etas"), [("exp", 20, (16, 10)), ("linear", 50, (8, 6))])
def test_the_sampler_is_its_authors(task, kind, steps, etas):
    cube = make_hsi(photograph(32), 9)
    place = torch.arange(9 * 32 * 32, dtype=DOUBLE)
    noise = (torch.sin(37.1 * place[: 3 * 1024]) * 1.4).reshape(3, 32, 32)
    seen = Seen(task, cube)
    image = seen.degrade(cube)
    image = image + 0.1 * torch.cos(17.3 * place[: image.numel()]).reshape(image.shape)
    mask = None
    if task == "inpainting":
        mask = (torch.sin(5.7 * place) > 0.8).to(DOUBLE).reshape(9, 32, 32)
        image = image * mask
    seen = Seen(task, image, mask)
    found, guesses = restore(
        seen, coef_matrix(*bands_of(image)), noise_of, levels(alpha_bar(kind), steps), *etas, noise
    )
    assert guesses.shape == (steps, 3, 32, 32)
    got = [*found[0, 0, :3].tolist(), float(found.mean())]
    assert got == pytest.approx(OFFICIAL[task, kind], abs=1e-9)


def test_without_guidance_the_image_does_not_matter_and_a_run_repeats():
    prior = gaussian_prior(photograph(16).expand(4, -1, -1, -1) + 0.1 * normal(4, 3, 16, 16))
    E = coef_matrix(*bands_of(make_hsi(photograph(16))))
    path, noise = levels(alpha_bar("exp"), 10), normal(3, 16, 16)
    blind = [
        restore(Seen("inpainting", seen, torch.ones_like(seen)), E, prior.denoise, path, 0, 0, noise)[0]
        for seen in (make_hsi(photograph(16)), torch.zeros(31, 16, 16, dtype=DOUBLE))
    ]
    assert torch.equal(*blind)


# --- denoisers --------------------------------------------------------------------------------------------


def prior_of(size=8, channels=3):
    crops = torch.stack([photograph(size, seed) for seed in range(40)])
    return gaussian_prior(crops)


def covariance(prior, size):
    """The prior's covariance of all pixels, densely: (3 size^2, 3 size^2)."""
    basis = torch.eye(3 * size * size, dtype=DOUBLE).reshape(-1, 3, size, size)
    return prior.filtered(basis, prior.power).flatten(1).T


@pytest.mark.parametrize("level", [0.05, 0.5, 0.99])
def test_the_wiener_denoiser_is_the_dense_posterior(level):
    prior, x = prior_of(), normal(2, 3, 8, 8)
    dense, mean = covariance(prior, 8), prior.mean.expand(3, 8, 8).flatten()
    torch.testing.assert_close(dense, dense.T, rtol=0, atol=1e-12)
    rest = x.flatten(1) - math.sqrt(level) * mean
    system = level * dense + (1 - level) * torch.eye(len(dense), dtype=DOUBLE)
    clean = mean + math.sqrt(level) * torch.linalg.solve(system, rest.T).T @ dense
    wanted = (x.flatten(1) - math.sqrt(level) * clean) / math.sqrt(1 - level)
    torch.testing.assert_close(prior.denoise(x, level).flatten(1), wanted, rtol=0, atol=1e-8)
    both = prior.denoise(x, torch.tensor([level, 0.3], dtype=DOUBLE)[:, None, None, None])
    torch.testing.assert_close(both[0], prior.denoise(x, level)[0])


@pytest.mark.parametrize("task", TASKS)
def test_the_posterior_mean_is_the_dense_one(task):
    prior, cube = prior_of(), make_hsi(photograph(8, 50), 5)
    seen = damage(task, cube, 0.1, stream(0, "noise"), keep=0.5)
    E = coef_matrix(*bands_of(cube))
    basis = torch.eye(192, dtype=DOUBLE).reshape(-1, 3, 8, 8)
    weight = torch.ones_like(seen.image) if seen.mask is None else seen.mask
    operator = torch.stack([(weight * seen.degrade(expand(E, image / 2))).flatten() for image in basis], 1)
    mean = prior.mean.expand(3, 8, 8).flatten()
    offset = (weight * seen.degrade(expand(E, torch.full((3, 8, 8), 0.5, dtype=DOUBLE)))).flatten()
    dense = covariance(prior, 8)
    gain = dense @ operator.T
    system = operator @ gain + 0.01 * torch.eye(len(operator), dtype=DOUBLE)
    rest = seen.image.flatten() - operator @ mean - offset
    wanted = ((mean + gain @ torch.linalg.solve(system, rest)).reshape(3, 8, 8) + 1) / 2
    torch.testing.assert_close(posterior_mean(seen, E, prior, 0.1, 300), wanted, rtol=0, atol=1e-8)


def test_before_it_has_learnt_shrinkage_leaves_the_filter_nearly_alone(jolted):
    prior, x = prior_of(16), normal(1, 3, 16, 16)
    net = jolted(Shrinkage, by=0)
    gap = (denoiser_of(net, prior)(x, 0.9) - prior.denoise(x, 0.9)).square().mean().sqrt()
    assert gap < 0.25
    with torch.no_grad():
        net.curves[0, 0], net.curves[1, 0] = 50, -50
    torch.testing.assert_close(denoiser_of(net, prior)(x, 0.9), prior.denoise(x, 0.9))


def test_cosine_transforms_are_scipys_and_add_up_to_the_image(jolted):
    net = jolted(Shrinkage, by=0)
    assert float((net.filters.flatten(1) @ net.filters.flatten(1).T - torch.eye(192)).abs().max()) < 1e-6
    with torch.no_grad():
        net.curves[0, 0], net.curves[1, 0] = -50, 50
    told = normal(1, 7, 12, 10)
    told[:, 6] = 0
    # All of the image is taken away, all of the noise put back: at level 1/2 both by the square root of 2.
    wanted = math.sqrt(2) * (told[:, :3] - told[:, 3:6])
    torch.testing.assert_close(net(told), wanted, rtol=0, atol=1e-6)


def test_gradients_of_the_denoiser(jolted):
    net, prior = jolted(Shrinkage), prior_of(8)
    x = normal(1, 3, 8, 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: denoiser_of(net, prior)(x, 0.7), x, fast_mode=True)


def test_the_target_of_a_lesson_makes_the_denoiser_exact():
    prior = prior_of(8)
    crops = torch.stack([photograph(8, seed) for seed in range(5)])
    told, target = lessons(crops, prior, stream(0, "lessons"))
    again = lessons(crops, prior, stream(0, "lessons"))
    assert torch.equal(told, again[0])
    level = torch.sigmoid(told[:, 6:, :1, :1])
    assert (told[:, 6].flatten(1).std(1) < 1e-12).all()
    clean = told[:, 3:6] + (1 - level).sqrt() * target
    flipped = torch.stack([clean, clean.flip(-1)]) / 2 + 0.5
    assert (flipped - crops).abs().amax((2, 3, 4)).amin(0).max() < 1e-9


# --- what is cheaper --------------------------------------------------------------------------------------


def test_one_pass_of_the_exact_denoiser_is_the_posterior_mean():
    prior, begin = prior_of(8), photograph(8, 60)
    level = 1 / (1 + 4 * 0.1**2)
    seen, E = Seen("denoise", begin), torch.eye(3, dtype=DOUBLE)
    torch.testing.assert_close(
        one_pass(begin, prior.denoise, level), posterior_mean(seen, E, prior, 0.1, 200), rtol=0, atol=1e-8
    )


def test_the_guidance_alone_smooths():
    cube = make_hsi(photograph(16))
    seen = damage("denoise", cube, 0.1, stream(0, "noise"))
    E = coef_matrix(*bands_of(seen.image))
    begin = start(seen, E)
    kept, smooth = (guidance_alone(seen, E, begin, weight) for weight in (0.0, 0.05))
    torch.testing.assert_close(kept, begin, rtol=0, atol=1e-3)
    assert mpsnr(expand(E, smooth), cube) > mpsnr(expand(E, begin), cube) + 1


def test_psnr_is_the_mean_over_bands_by_scikit_image():
    one, other = normal(4, 6, 5), make_hsi(photograph(6), 4)[..., :5]
    wanted = [
        peak_signal_noise_ratio(b.numpy(), a.clamp(0, 1).numpy(), data_range=1)
        for a, b in zip(one, other, strict=True)
    ]
    assert mpsnr(one, other) == pytest.approx(np.mean(wanted), rel=1e-12)


# --- what the record says ---------------------------------------------------------------------------------

RECORD = records.load("hir_diff")
GOOD = {"trained": [1.0, 1.1] * 4}


@pytest.mark.parametrize(("excess", "word"), [(1.2, "reproduced"), (-0.2, "not reproduced")])
def test_what_shared_channels_gain_too_is_not_the_photographs(excess, word):
    less = {name: [-place - 0.4, -place - 0.6] * 4 for place, name in enumerate(RECORD.claim("H1").controls)}
    found = {"over_components": [1.5, 1.7] * 4, "over_sharing": [excess, 1.1 * excess] * 4}
    assert judge(RECORD, "H1", found, less, GOOD).word == word


def test_total_variation_that_needs_no_sampler_is_no_merit_of_the_guidance():
    found = {"sr": [1.0, 1.2] * 4, "inpainting": [0.9, 1.0] * 4}
    less = {name: [-place - 1.0, -place - 1.1] * 4 for place, name in enumerate(RECORD.claim("H3b").controls)}
    assert judge(RECORD, "H3b", found, less, GOOD).word == "reproduced"
    assert judge(RECORD, "H3b", found, less | {"alone_sr": [1.1, 1.3] * 4}, GOOD).word == "inconclusive"


@pytest.mark.parametrize(("linear", "word"), [(-0.8, "reproduced"), (-0.3, "inconclusive")])
def test_few_steps_that_any_schedule_can_do_with_are_no_acceleration(linear, word):
    loss, other = [-0.2, -0.1] * 4, [linear, linear - 0.01] * 4
    assert judge(RECORD, "H4a", {"loss": loss}, {"linear": other}, GOOD).word == word


def test_a_denoiser_that_is_no_better_than_its_filter_is_no_evidence():
    lead = {task: [place + 1.0, place + 1.2] * 4 for place, task in enumerate(TASKS)}
    start = {f"start_{task}": [-place - 2.0, -place - 2.2] * 4 for place, task in enumerate(TASKS)}
    for better, word in ((1.0, "reproduced"), (-0.1, "inconclusive")):
        assert judge(RECORD, "H5", lead, start, {"trained": [better, better] * 4}).word == word


@pytest.mark.parametrize(("name", "value"), [("steps", 30), ("size", 60), ("bands", 3), ("k", 0.0)])
def test_parameters_that_cannot_be_are_refused(name, value):
    with pytest.raises(parameters.ParameterError, match=name):
        parameters.validate(RECORD, RECORD.values("quick") | {name: value})


# --- the mechanism without its heart ----------------------------------------------------------------------


def components_instead(V, bands):
    """The principal components are the reduced image: V is not multiplied by the inverse of V_B."""
    return V


def first_three(A, k, f=1.2):
    """The first bands are selected, whatever the image."""
    return hir_diff.Selected(list(range(k)), torch.zeros(k, A.shape[1] - k), 0)


def without_variation(seen, E, denoiser, bars, eta1, eta2, noise):
    """The guidance has no total variation."""
    return restore(seen, E, denoiser, bars, eta1, 0.0, noise)


def linear_instead(kind, T=1000, k=8.0):
    """The exponential schedule is the linear one."""
    return alpha_bar("linear" if kind == "exp" else kind, T, k)


def nothing_denoised(net, prior):
    """The denoiser sees no noise."""
    return lambda x, level: torch.zeros_like(x) * x


MUTATIONS = [
    ("coef_matrix", components_instead),
    ("strong_rrqr", first_three),
    ("restore", without_variation),
    ("alpha_bar", linear_instead),
    ("denoiser_of", nothing_denoised),
]


# --- bad input --------------------------------------------------------------------------------------------

CUBE = torch.zeros(5, 8, 8)
REFUSED = [
    (lambda: right_singular(CUBE, 6), r"rank must be in 1\.\.5 \(the bands\), got 6"),
    (lambda: strong_rrqr(normal(3, 9), 4), r"k must be in 1\.\.3 \(the smaller side of A\), got 4"),
    (lambda: strong_rrqr(normal(3, 9), 3, 0.5), "f must be finite and >= 1, got 0.5"),
    (lambda: equal_interval(3), r"rank must be in 1\.\.2"),
    (
        lambda: coef_matrix(normal(9, 3), [1, 1, 2]),
        r"bands must be 3 different ones in 0\.\.8, got \[1, 1, 2\]",
    ),
    (lambda: coef_matrix(normal(9, 3), [1, 2, 9]), r"in 0\.\.8, got \[1, 2, 9\]"),
    (lambda: make_hsi(torch.zeros(3, 4, 4), 3), "bands must be >= 4, got 3"),
    (lambda: make_hsi(torch.zeros(3, 4, 4), 9, -1), "fourth must be finite and >= 0, got -1"),
    (
        lambda: damage("deblur", CUBE, 0.1, stream(0, "x")),
        "task must be one of 'denoise', 'sr', .*got 'deblur'",
    ),
    (lambda: damage("denoise", CUBE, -0.1, stream(0, "x")), "sigma must be finite and >= 0, got -0.1"),
    (lambda: damage("inpainting", CUBE, 0.1, stream(0, "x"), 0), r"keep must be in \(0, 1\], got 0"),
    (lambda: damage("sr", CUBE[:, :7], 0.1, stream(0, "x")), "divide both sides, got 4 for 7 x 8"),
    (lambda: alpha_bar("quad"), "kind must be one of 'exp', 'linear', 'cosine', got 'quad'"),
    (lambda: alpha_bar("exp", 0), "T must be >= 1, got 0"),
    (lambda: alpha_bar("exp", k=0), "k must be finite and > 0, got 0"),
    (lambda: levels(alpha_bar("exp"), 30), "steps must be >= 1 and divide T = 1000, got 30"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
