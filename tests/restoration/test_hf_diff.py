"""HF-Diff: couplings are invertible, steps are the released code's, and the divergence is SciPy's."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from scipy.spatial.distance import jensenshannon
from torch import nn
from torch.autograd.functional import jacobian
from torch.func import functional_call
from torch.nn.functional import mse_loss

from fourfold.data import image_pairs
from fourfold.judging import records
from fourfold.judging.card import judge
from fourfold.restoration import hf_diff as paper
from fourfold.restoration.hf_diff import CouplingNode, Denoiser, Detail, FeatureNet, SmallVGG, Student
from fourfold.training import seeded, stream

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}
ETAS = paper.eta_schedule()


PHOTOGRAPHS = image_pairs.shrunk([2 * normal(3, 24, 28, seed=seed).sigmoid() - 1 for seed in (1, 2)], 4)


# --- crops ------------------------------------------------------------------------------------------------


def found(crop, photograph):
    """Whether a crop (3, size, size) lies somewhere in a photograph."""
    size = crop.shape[-1]
    places = photograph.unfold(1, size, 4).unfold(2, size, 4).movedim(0, 2).flatten(0, 1)
    return bool((places == crop).flatten(1).all(1).any())


def test_crops_are_cut_from_the_photographs_whose_number_they_have():
    images, which = paper.labelled_crops(PHOTOGRAPHS, 20, 8)(stream(0, "crops"))
    assert images.shape == (20, 3, 8, 8)
    assert set(which.tolist()) == {0, 1}
    for crop, number in zip(images, which.tolist(), strict=True):
        assert found(crop, PHOTOGRAPHS.clean[number])
        assert not found(crop, PHOTOGRAPHS.clean[1 - number])
    clean, target = paper.clean_crops(PHOTOGRAPHS, 5, 8)(stream(0, "crops"))
    assert clean is target
    assert all(found(crop, PHOTOGRAPHS.clean[0]) or found(crop, PHOTOGRAPHS.clean[1]) for crop in clean)


def test_a_degraded_crop_lies_where_the_true_one_does():
    y, truth = paper.degraded_crops(PHOTOGRAPHS, 4, 16, stream(0, "crops"))
    clean, _ = paper.clean_crops(PHOTOGRAPHS, 4, 16)(stream(0, "crops"))
    assert torch.equal(truth, clean)
    assert y.shape == truth.shape
    assert (y - truth).square().mean() < (y - truth.roll(1, 0)).square().mean()


def test_psnr_is_ten_logs_of_the_error_within_the_border():
    truth = normal(2, 3, 16, 12).clamp(-0.5, 0.5)
    made = truth + 0.2
    made[..., :4, :] = 0.9
    assert paper.psnr(made, truth) == pytest.approx(20.0, abs=1e-9)  # 0.2 of 2 is a tenth of the range


# --- the schedule and its steps ---------------------------------------------------------------------------


def released_schedule(T, kappa, power=0.3, end=0.99, least=0.04):
    """ResShift's ``get_named_eta_schedule`` ("exponential"), in numpy and with its own names."""
    etas_start = min(least / kappa, least, math.sqrt(0.001))
    increaser = math.exp(1 / (T - 1) * math.log(end / etas_start))
    base = np.ones([T]) * increaser
    power_timestep = np.linspace(0, 1, T, endpoint=True) ** power
    power_timestep *= T - 1
    return (np.power(base, power_timestep) * etas_start) ** 2


@pytest.mark.parametrize(("T", "kappa"), [(15, 2.0), (4, 1.0), (2, 0.5), (50, 7.0)])
def test_the_schedule_is_the_released_codes(T, kappa):
    np.testing.assert_allclose(paper.eta_schedule(T, kappa).numpy(), released_schedule(T, kappa), rtol=1e-12)


@pytest.mark.parametrize("t", [1, 7, 14])
def test_a_step_that_knows_the_truth_keeps_the_noise(t):
    x, y, noise = normal(3, 2, 3, 5, 7)
    z = paper.diffuse(x, y, ETAS[t], noise)
    before = paper.ddim_step(z, x, y, ETAS, t)
    torch.testing.assert_close(before, paper.diffuse(x, y, ETAS[t - 1], noise), **EXACT)
    torch.testing.assert_close(paper.ddim_inverse(before, x, y, ETAS, t), z, **EXACT)
    assert (paper.ddim_step(z, y, y, ETAS, t) - before).abs().max() > 0.01


def test_step_errors_are_those_of_the_worst_level(monkeypatch):
    x, y, noise = normal(3, 2, 3, 5, 7)
    assert all(0 <= error < 1e-12 for error in paper.step_errors(ETAS, x, y, noise).values())
    honest, undo = paper.ddim_coefficients, paper.ddim_inverse

    def bent(etas, t):
        k, m, j = honest(etas, t)
        return paper.Step(k + 0.01 * (t == 3), m, j)

    monkeypatch.setattr(paper, "ddim_coefficients", bent)
    monkeypatch.setattr(paper, "ddim_inverse", lambda *given: undo(*given) + 0.2 * (given[-1] == 5))
    errors = paper.step_errors(ETAS, x, y, noise)
    wanted = {"marginal": 0.01 * float(x.abs().max()), "sum": 0.01, "inverse": 0.2}
    assert errors == pytest.approx(wanted, rel=1e-9)


def test_the_last_level_is_the_degraded_image_and_noise():
    y = normal(1, 3, 64, 64)
    z = paper.noisy(y, stream(0, "noise"), ETAS, 0.5)
    noise = torch.randn(y.shape, generator=stream(0, "noise"))
    torch.testing.assert_close(z, y + 0.5 * 0.99 * noise, rtol=0, atol=1e-6)


def test_a_teacher_reads_crops_at_a_level_each_and_guesses_the_true_ones():
    t = torch.tensor([0, 14])
    x, y = normal(2, 2, 3, 4, 4)
    read = paper.task(x, y, t, ETAS, stream(0, "noise"), 0.5)
    noise = torch.randn(x.shape, generator=stream(0, "noise"))
    for i, eta in enumerate(ETAS[t]):
        one = slice(i, i + 1)
        z = paper.diffuse(x[one], y[one], eta, noise[one], 0.5)
        torch.testing.assert_close(read[one], paper.packed(z, y[one], eta, 0.5), rtol=0, atol=1e-6)
    read, truth = paper.tasks(PHOTOGRAPHS, 6, 8, ETAS)(stream(0, "crops"))
    y, wanted = paper.degraded_crops(PHOTOGRAPHS, 6, 8, stream(0, "crops"))
    assert torch.equal(truth, wanted)
    assert torch.equal(read[:, 3:6], y)
    levels = read[:, 6, 0, 0].square()
    assert all((ETAS - level).abs().min() < 1e-6 for level in levels)
    assert len(set(levels.tolist())) > 1


def test_the_steps_weights_sum_to_one_and_the_last_one_takes_the_guess():
    assert all(abs(float(sum(paper.ddim_coefficients(ETAS, t))) - 1) < 1e-15 for t in range(15))
    z, x, y = normal(3, 1, 3, 4, 4)
    assert torch.equal(paper.ddim_step(z, x, y, ETAS, 0), x)


def test_a_denoiser_that_knows_the_truth_brings_any_noise_to_it():
    x, y, noise = normal(3, 1, 3, 8, 8)
    z = paper.diffuse(y, y, ETAS[-1], noise)

    class Knows(nn.Module):
        def forward(self, packed):
            return x

    torch.testing.assert_close(paper.sample(Knows(), z, y, ETAS), x, **EXACT)


def test_of_gaussian_pixels_the_best_affine_guess_is_the_posterior_mean():
    """z_0 ~ N(0, s^2), y = z_0 + n: least squares on (z_T, y) against the formula, up to draws."""
    s, n, kappa, eta = 0.7, 0.3, 2.0, 0.5
    z0, noise, eps = normal(3, 400_000)
    y = z0 * s + n * noise
    z = paper.diffuse(z0 * s, y, eta, eps, kappa)
    found = torch.linalg.lstsq(torch.stack([z, y], 1), (z0 * s)[:, None]).solution[:, 0]
    # Given y, z_t - eta y = (1 - eta) z_0 + noise is another measurement of z_0.
    precision = torch.tensor([1 / s**2 + 1 / n**2, (1 - eta) ** 2 / (kappa**2 * eta)], dtype=torch.float64)
    of_z = (1 - eta) / (kappa**2 * eta) / precision.sum()
    of_y = (1 / n**2) / precision.sum() - eta * of_z
    torch.testing.assert_close(found, torch.stack([of_z, of_y]), rtol=0, atol=1e-2)


# --- the one-step student ---------------------------------------------------------------------------------


def test_a_student_is_three_uses_of_one_denoiser(jolted):
    net = jolted(Denoiser, 6, by=0.05).requires_grad_(False)
    z, y, truth, taught = (normal(2, 3, 8, 12, seed=seed) for seed in range(4))
    made = Student(net, ETAS)(torch.cat([z, y, truth, taught], 1))

    def used(image, eta):
        scaled = image / (3 * 2 * math.sqrt(eta) + 1)  # SinSR's _scale_input for pixels
        return net(torch.cat([scaled, y, torch.full_like(y[:, :1], math.sqrt(eta))], 1))

    first, last = float(ETAS[0]), float(ETAS[-1])
    wanted = [used(z, last), used(taught, first), used(used(truth, first), last)]
    torch.testing.assert_close(made, torch.cat(wanted, 1), **EXACT)
    targets = paper.distill_targets(z, truth, taught)
    parts = zip(wanted, (taught, z, truth), strict=True)
    assert float(paper.distill_loss(made, targets)) == pytest.approx(
        float(sum(mse_loss(*part) for part in parts)), rel=1e-12
    )


def test_an_extra_loss_compares_the_third_image_with_the_truth():
    made, targets = normal(2, 1, 9, 4, 4)
    whole = paper.distill_loss(made, targets, extra=mse_loss, weight=0.3)
    base = paper.distill_loss(made, targets)
    torch.testing.assert_close(whole, base + 0.3 * mse_loss(made[:, 6:], targets[:, 6:]), **EXACT)
    torch.testing.assert_close(
        paper.truth_loss(made, targets), mse_loss(made[:, :3], targets[:, 6:]), **EXACT
    )


def test_lessons_are_what_the_teacher_makes_of_the_noise_and_in_the_ablation_of_other_noise(jolted):
    net = jolted(Denoiser, 4, by=0.05).requires_grad_(False)
    y, truth = normal(2, 1, 3, 8, 8)
    (read, shall), (_, mixed) = paper.lessons(net, y, truth, stream(0, "lessons"), ETAS)
    z, given_y, given_truth, taught = read.split(3, 1)
    assert torch.equal(z, paper.noisy(y, stream(0, "lessons"), ETAS))
    assert torch.equal(torch.cat([given_y, given_truth], 1), torch.cat([y, truth], 1))
    assert torch.equal(taught, paper.sample(net, z, y, ETAS))
    assert torch.equal(shall, torch.cat([taught, z, truth], 1))
    assert (mixed[:, :3] - taught).abs().max() > 1e-3
    assert torch.equal(mixed[:, 3:], shall[:, 3:])


def test_the_way_back_has_no_gradient_from_the_truth(jolted):
    net = jolted(Denoiser, 4, by=0.05)
    x = torch.cat([normal(1, 3, 4, 4, seed=seed) for seed in range(4)], 1).requires_grad_()
    Student(net, ETAS)(x)[:, 6:].sum().backward()
    assert not x.grad[:, 6:9].any()
    assert x.grad[:, 3:6].any()


def test_a_denoiser_of_zeros_returns_the_degraded_image():
    net = Denoiser(4)
    nn.init.zeros_(net.body[-1].weight)
    nn.init.zeros_(net.body[-1].bias)
    x = normal(2, 7, 8, 4).float()
    assert torch.equal(net(x), x[:, 3:6])


# --- the invertible network -------------------------------------------------------------------------------


def coupled(node, x):
    """A coupling in numpy's terms, half by half, with every convolution written as a sum over taps."""
    weight, bias = node.mix.weight[:, :, 0, 0], node.mix.bias
    a, b = (torch.einsum("oc,bcyx->boyx", weight, x) + bias[:, None, None]).chunk(2, 1)

    def branch(block, value):
        value = torch.einsum("oc,bcyx->boyx", block.widen.weight[:, :, 0, 0], value).clamp(0, 6)
        padded = np.pad(value.numpy(force=True), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
        height, width = value.shape[-2:]
        taps = block.depthwise.weight[:, 0]
        value = sum(
            taps[None, :, u, v, None, None] * torch.from_numpy(padded[:, :, u : u + height, v : v + width])
            for u in range(3)
            for v in range(3)
        ).clamp(0, 6)
        return torch.einsum("oc,bcyx->boyx", block.narrow.weight[:, :, 0, 0], value)

    b = b + branch(node.phi, a)
    a = a * branch(node.rho, b).clamp(-2, 2).exp() + branch(node.eta, b)
    return torch.cat([a, b], 1)


@pytest.mark.parametrize("size", [(2, 2), (5, 8), (7, 3)])
@pytest.mark.parametrize("half", [1, 4])
def test_a_coupling_is_its_formula_and_can_be_undone(size, half, jolted):
    node, x = jolted(CouplingNode, half).requires_grad_(False), normal(2, 2 * half, *size)
    made = node(x)
    torch.testing.assert_close(made, coupled(node, x), rtol=0, atol=1e-10)
    torch.testing.assert_close(node.inverse(made), x, rtol=0, atol=1e-10)


def test_its_log_determinant_is_autograds(jolted):
    node, x = jolted(CouplingNode, 3).requires_grad_(False), normal(1, 6, 2, 2)
    matrix = jacobian(node, x).reshape(24, 24)
    assert float(paper.log_det(node, x)) == pytest.approx(float(matrix.slogdet().logabsdet), abs=1e-10)


def test_a_large_exponent_is_clamped(jolted):
    node = jolted(CouplingNode, 2).requires_grad_(False)
    node.rho.narrow.weight.data.mul_(1e6)
    x = normal(1, 4, 4, 4)
    assert node(x).isfinite().all()
    torch.testing.assert_close(node.inverse(node(x)), x, rtol=0, atol=1e-8)


@pytest.mark.parametrize("size", [(4, 4), (9, 6)])
def test_the_image_comes_back_from_the_last_maps(size, jolted):
    net, x = jolted(Detail, 14, by=0.1).requires_grad_(False), normal(2, 3, *size)
    maps = net(x)
    assert [m.shape for m in maps] == [(2, 28, *size)] * 3
    torch.testing.assert_close(net.image(maps[-1]), x, rtol=0, atol=1e-9)
    assert (net.image(maps[-2]) - x).abs().max() > 0.1


@pytest.mark.parametrize("half", [4, 16])
def test_the_plain_rival_has_about_as_many_parameters(half):
    sizes = [sum(v.numel() for v in paper.NODES[kind](half).parameters()) for kind in paper.NODES]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.04)


def test_the_decoder_sees_both_branches_and_then_the_base_alone(jolted):
    net, x = jolted(FeatureNet, 2, by=0.1).requires_grad_(False), normal(1, 3, 8, 8)
    detail, base = net.detail(x)[-1], net.base(x)
    wanted = [net.decoder(torch.cat([base, part], 1)) for part in (detail, torch.zeros_like(detail))]
    torch.testing.assert_close(net(x), torch.cat(wanted, 1), **EXACT)
    loss = mse_loss(wanted[0], x) + mse_loss(wanted[1], paper.blurred(x))
    assert float(paper.blur_loss(net(x), x)) == pytest.approx(float(loss), rel=1e-12)
    assert float(paper.reconstruction_loss(net(x), x)) == pytest.approx(float(mse_loss(wanted[0], x)))
    assert float(paper.hf_loss(x, x, net)) == 0
    assert float(paper.hf_loss(x, x.flip(-1), net)) > 1e-4


def test_over_blur_is_the_decoded_images_error_over_the_blurs(jolted):
    net, x = jolted(FeatureNet, 2, by=0.1).requires_grad_(False), normal(1, 3, 8, 8)
    wanted = mse_loss(net(x)[:, :3], x) / mse_loss(paper.blurred(x), x)
    assert float(paper.over_blur(net, x)) == pytest.approx(float(wanted), rel=1e-12)


def test_what_an_affine_map_of_the_maps_says_leaves_nothing():
    maps, mixed = normal(2, 5, 6, 4), normal(3, 5, seed=1)
    x = torch.einsum("oc,bcyx->boyx", mixed, maps) + 0.7
    assert paper.affine_residual(maps, x).abs().max() < 1e-12
    left = paper.affine_residual(maps, x + 0.1 * normal(*x.shape, seed=2))
    assert left.shape == (48, 3)
    # What is left is orthogonal to what was known, its mean too.
    known = torch.cat([maps, torch.ones_like(maps[:, :1])], 1).movedim(1, -1).flatten(0, -2)
    torch.testing.assert_close(known.T @ left, torch.zeros(6, 3).double(), rtol=0, atol=1e-12)


def test_gradients(jolted):
    node, x = jolted(CouplingNode, 1), normal(1, 2, 3, 2)
    names = [name for name, _ in node.named_parameters()]
    values = tuple(value.detach().requires_grad_() for value in node.parameters())
    assert torch.autograd.gradcheck(
        lambda *given: functional_call(node, dict(zip(names, given, strict=True)), (x,)), values
    )
    a, b = normal(2, 3, 5).requires_grad_()
    assert torch.autograd.gradcheck(paper.jsd, (a, b))


def test_a_new_network_is_a_matter_of_the_seed():
    made = []
    for number in (1, 1, 2):
        with seeded(number):
            made.append(FeatureNet(4)(torch.ones(1, 3, 8, 8)))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


# --- rivals -----------------------------------------------------------------------------------------------


def test_a_laplacian_pyramid_adds_up_and_rises_in_frequency():
    x = normal(4, 3, 32, 32)
    levels = paper.laplacian_pyramid(x)
    assert len(levels) == 3
    found = [paper.centroid(level) for level in levels]
    assert found == sorted(found)
    ramp = torch.arange(32.0).expand(1, 1, 32, 32)
    assert paper.laplacian_pyramid(ramp)[-1][..., 4:-4].abs().max() < 1e-5


def test_a_laplacian_loss_sees_the_finest_level_alone():
    x, other = normal(2, 1, 3, 16, 16)
    finest = [paper.laplacian_pyramid(image)[-1] for image in (x, other)]
    torch.testing.assert_close(paper.laplacian_loss(x, other), mse_loss(*finest), **EXACT)
    assert float(paper.laplacian_loss(x, x + 3)) < 1e-20


@pytest.mark.parametrize("more", [1.0, 1.5, 100.0])
def test_an_image_is_sharpened_no_more_than_its_energy_asks_for(more):
    x = paper.blurred(normal(2, 3, 32, 32))
    energy, finest = more * paper.high_energy(x), paper.laplacian_pyramid(x)[-1]
    made = paper.sharpened(x, energy)
    amount = float(((made - x) / finest).median())
    torch.testing.assert_close(made, x + amount * finest, rtol=0, atol=1e-9)
    if more == 100:
        assert amount == pytest.approx(2)
    else:
        assert 0 < amount < 2
        assert paper.high_energy(made) >= energy
        assert amount < 0.015 or paper.high_energy(made - 0.01 * finest) < energy


def test_with_all_taps_every_weight_gives_wieners_filter_and_with_few_it_matters():
    f = torch.fft.fftfreq(32, dtype=torch.float64)
    spectrum, blur = 1 / (1 + (f / 0.05) ** 2), torch.exp(-((f / 0.2) ** 2))
    flat, heavy = torch.ones_like(f), 1 + 30 * f**2
    wiener = (blur * spectrum / (blur**2 * spectrum + 0.01)).to(torch.complex128)
    gaps = []
    for taps in (3, 7, 15, 32):
        one, other = (paper.weighted_student(spectrum, blur, 0.01, w, taps) for w in (flat, heavy))
        gaps.append(float((one - other).abs().max()))
    torch.testing.assert_close(one, wiener, rtol=0, atol=1e-10)
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-10 < 0.01 < gaps[0]


def test_no_other_filter_of_that_size_has_a_smaller_error():
    f = torch.fft.fftfreq(16, dtype=torch.float64)
    spectrum, blur, weight = 1 / (1 + (f / 0.1) ** 2), torch.exp(-((f / 0.2) ** 2)), 1 + 10 * f**2

    def error(response):
        return float(
            (weight * ((1 - response * blur).abs() ** 2 * spectrum + 0.1 * response.abs() ** 2)).sum()
        )

    best = paper.weighted_student(spectrum, blur, 0.1, weight, 3)
    for place in range(3):
        tap = torch.exp(-2j * torch.pi * torch.arange(16) * (place - 1) / 16)
        assert error(best) < min(error(best + 1e-3 * tap), error(best - 1e-3 * tap))


@pytest.mark.parametrize("side", [1, 3, 5])
def test_least_squares_find_the_filter_that_was_used(side):
    noise, kernel = normal(2, 3, 9, 7), normal(side, side, seed=1)
    made = paper.filtered(noise, kernel)
    for b, c in np.ndindex(2, 3):
        wanted = ndimage.correlate(noise[b, c].numpy(), kernel.numpy(), mode="mirror")
        np.testing.assert_allclose(made[b, c].numpy(), wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(paper.noise_filter(noise, made, side), kernel, rtol=0, atol=1e-10)


# --- embeddings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.01, 1, 20])
def test_the_divergence_is_scipys_symmetric_and_bounded(scale):
    a, b = scale * normal(2, 6, 40)
    p, q = (part.softmax(-1).numpy() for part in (a, b))
    np.testing.assert_allclose(paper.jsd(a, b), jensenshannon(p, q, axis=1) ** 2, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(paper.jsd(a, b), paper.jsd(b, a), **EXACT)
    assert (paper.jsd(a, b) <= math.log(2) + 1e-12).all()
    torch.testing.assert_close(paper.jsd(a, a), torch.zeros(6, dtype=torch.float64), **EXACT)


def test_its_second_order_is_an_eighth_of_the_variance():
    a, direction = normal(2, 5, 64)
    for size in (1e-2, 1e-3):
        b = a + size * direction
        ratio = paper.jsd(a, b) / paper.squared_distance(a, b)
        assert (ratio - 1).abs().max() < size
    plain = paper.squared_distance(a, b, weighted=False)
    torch.testing.assert_close(plain, (a - b).var(-1, correction=0) / 8, rtol=1e-10, atol=0)
    assert not torch.allclose(plain, paper.squared_distance(a, b), rtol=0.01)


def test_the_energy_distance_is_scipys_and_zero_for_one_set():
    a, b = normal(2, 50, 1)
    wanted = stats.energy_distance(a[:, 0].numpy(), 1 + b[:, 0].numpy()) ** 2
    assert float(paper.energy_distance(a, 1 + b)) == pytest.approx(wanted, rel=1e-10)
    assert float(paper.energy_distance(a, a)) == pytest.approx(0, abs=1e-12)


def test_a_measure_of_embeddings_is_taken_between_two_sets_of_images(jolted):
    net, (made, truth) = jolted(SmallVGG, 3).requires_grad_(False), normal(2, 4, 3, 8, 8)
    sets = net.embedding(made), net.embedding(truth)
    for measure in (paper.jsd, mse_loss, paper.energy_distance):
        found = paper.of_embeddings(measure, net, made, truth)
        torch.testing.assert_close(found, measure(*sets).mean(), **EXACT)


def test_an_embedding_has_mean_zero_and_variance_one():
    with seeded(0):
        found = SmallVGG(3).embedding(torch.randn(4, 3, 16, 12))
    torch.testing.assert_close(found.mean(1), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.var(1, correction=0), torch.ones(4), rtol=0, atol=0.02)


# --- what features react to -------------------------------------------------------------------------------

EDGES = [0, 0.1, 0.3, 0.5]


def test_squared_error_reacts_to_all_frequencies_alike_and_a_blur_to_low_ones():
    x = normal(3, 3, 16, 16).float()
    flat = paper.sensitivity(lambda x: x, x, EDGES, stream(0, "changes"))
    torch.testing.assert_close(flat, torch.ones(3), rtol=1e-4, atol=0)
    blurred = paper.sensitivity(paper.blurred, x, EDGES, stream(0, "changes"))
    assert blurred[0] > 2 * blurred[1] > 4 * blurred[2]


def test_noise_of_a_band_has_no_other_frequency():
    noise = paper.band_noise((2, 3, 16, 16), 0.2, 0.3, stream(0, "changes"))
    torch.testing.assert_close(noise.flatten(1).norm(dim=1), torch.ones(2))
    power = torch.fft.fft2(noise).abs()
    radius = torch.hypot(torch.fft.fftfreq(16)[:, None], torch.fft.fftfreq(16)[None])
    assert power[..., (radius < 0.199) | (radius > 0.301)].max() < 1e-4


def test_the_centroid_of_a_wave_is_its_frequency():
    wave = torch.cos(2 * torch.pi * 8 * torch.arange(64.0) / 64).expand(1, 1, 64, 64)
    assert paper.centroid(wave) == pytest.approx(2 * 8 / 64, rel=0.01)
    maps = [torch.roll(wave, 1, -1), wave + wave.roll(1, -1), wave.diff(dim=-1, prepend=wave[..., :1])]
    steps = np.diff([paper.centroid(each) for each in maps])
    assert paper.least_rise(maps) == pytest.approx(min(steps), abs=1e-6)
    assert paper.high_energy(wave) < 1e-3 * paper.high_energy(wave, cut=0.1)


def test_a_push_is_the_gradients_norm():
    made, truth = normal(2, 2, 3, 4, 4)
    assert paper.push(mse_loss, made, truth) == pytest.approx(float(2 * (made - truth).norm() / made.numel()))


# --- what the record says ---------------------------------------------------------------------------------

RECORD = records.load("hf_diff")


@pytest.mark.parametrize(("rival", "word"), [(2.0, "inconclusive"), (1.0, "reproduced")])
def test_features_are_no_finding_where_a_plain_network_has_them_too(rival, word):
    verdict = judge(
        RECORD,
        "F2b",
        {"order": [0.02, 0.03] * 4, "ratio": [1.5, 1.6] * 4},
        {
            "untrained_order": [-0.01, -0.02] * 4,
            "untrained_ratio": [0.9, 1.0] * 4,
            "residual_order": [-0.03, -0.01] * 4,
            "residual_ratio": [rival, rival + 0.01] * 4,
            "laplacian": [1.1, 1.0] * 4,
        },
        {"trained": [0.3, 0.4] * 4},
    )
    assert verdict.word == word


# --- the mechanism without its heart ----------------------------------------------------------------------


def no_hf_loss(made, truth, net):
    """The high-frequency loss is zero."""
    return 0 * (made - truth).sum()


def no_divergence(a, b):
    """The divergence is zero."""
    return 0 * (a - b).sum(-1)


def taught_truth(z, truth, taught):
    """The student learns the truth where it should learn the teacher's result."""
    return torch.cat([truth, z, truth], 1)


MUTATIONS = [("hf_loss", no_hf_loss), ("jsd", no_divergence), ("distill_targets", taught_truth)]


# --- bad input --------------------------------------------------------------------------------------------

REFUSED = [
    (lambda: paper.clean_crops(PHOTOGRAPHS, 1, 10), "size must be a multiple of 4, got 10"),
    (lambda: paper.labelled_crops(PHOTOGRAPHS, 0, 8), "n must be >= 1, got 0"),
    (lambda: paper.degraded_crops(PHOTOGRAPHS, 1, 28, stream(0, "x")), r"size must be in 1\.\.6, .* got 7"),
    (lambda: paper.tasks(PHOTOGRAPHS, 1, 6, ETAS)(stream(0, "x")), "size must be a multiple of 4, got 6"),
    (lambda: paper.eta_schedule(1), "T must be >= 2, got 1"),
    (lambda: paper.eta_schedule(15, 0), "kappa must be finite and > 0, got 0"),
    (lambda: paper.eta_schedule(15, 2, end=1.5), r"end must be in \(0.02, 1\], got 1.5"),
    (lambda: paper.ddim_coefficients(ETAS, 15), r"t must be in 0\.\.14, got 15"),
    (lambda: paper.ddim_inverse(*normal(3, 1), ETAS, 0), r"t must be in 1\.\.14, got 0"),
    (lambda: Denoiser(0), "width must be >= 1, got 0"),
    (lambda: Detail(0), "half must be >= 1, got 0"),
    (lambda: Detail(4, 0), "nodes must be >= 1, got 0"),
    (lambda: Detail(4, 3, "dense"), "kind must be one of 'coupling', 'residual', got 'dense'"),
    (lambda: Detail(13).image(torch.zeros(1, 26, 4, 4)), "half must be >= 14 so that .*, got 13"),
    (lambda: Detail(14, 1, "residual").image(torch.zeros(1, 28, 4, 4)), "kind must be 'coupling'"),
    (lambda: SmallVGG(0), "classes must be >= 1, got 0"),
    (lambda: paper.laplacian_pyramid(normal(1, 3, 8, 8), 0), "levels must be >= 1, got 0"),
    (
        lambda: paper.weighted_student(*normal(2, 8), 1, normal(8), 4),
        r"taps must be odd in 1\.\.8, or 8, got 4",
    ),
    (lambda: paper.noise_filter(*normal(2, 1, 1, 4, 4), 4), "side must be odd and >= 1, got 4"),
    (lambda: paper.band_noise((1, 1, 4, 4), 0.1, 0.11, stream(0, "x")), "low and high must enclose"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
