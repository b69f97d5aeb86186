"""MR thermometry: transforms and layers are numpy's and torch's, the network is its formula."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy import constants
from skimage.restoration import denoise_tv_chambolle
from torch import nn
from torch.func import functional_call
from torch.nn.functional import conv2d, pad

from fourfold.judging import parameters, records
from fourfold.optics.mr_thermometry import (
    GAMMA,
    CModReLU,
    ComplexBatchNorm2d,
    ComplexConv2d,
    ComplexUNet,
    Correction,
    PrimalDual,
    SplitConv2d,
    convolved,
    data_consistency,
    fftc,
    ifftc,
    linear_recon,
    phantom,
    phase_equivariance,
    phase_per_degree,
    prf_temperature,
    real_width,
    row_maps,
    stacked,
    tv_recon,
    unstacked,
    vd_mask,
)
from fourfold.training import seeded, stream

B0, TE = 1.5, 0.02
EXACT = {"rtol": 0, "atol": 1e-12}


def normal(*shape, seed=0, dtype=torch.complex128):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def drawn(make, *args, seed=0, **kwargs):
    with seeded(seed):
        return make(*args, **kwargs)


def size(net):
    return sum(p.numel() for p in net.parameters())


tiny = partial(
    drawn, PrimalDual, n_primal=2, n_dual=3, iters=2, features=4, zero_filled=True, primal_weight=0.5
)


# --- acquisition ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 8), (2, 7, 9), (3, 16, 5), (1, 1)])
def test_the_transform_is_numpys_and_unitary(shape):
    x, axes = normal(*shape), (-2, -1)
    shifted = np.fft.ifftshift(x.numpy(), axes)
    theirs = np.fft.fftshift(np.fft.fft2(shifted, norm="ortho"), axes)
    np.testing.assert_allclose(fftc(x).numpy(), theirs, atol=1e-12)
    torch.testing.assert_close(ifftc(fftc(x)), x, **EXACT)
    y = normal(*shape, seed=1)
    torch.testing.assert_close((fftc(x).conj() * y).sum(), (x.conj() * ifftc(y)).sum(), rtol=0, atol=1e-10)
    small = x[..., :5, :5].clone().requires_grad_()
    assert torch.autograd.gradcheck(fftc, small)
    assert torch.autograd.gradcheck(ifftc, small)


@pytest.mark.parametrize(
    ("n", "af", "centre"), [(32, 4, 2), (32, 10, 1), (33, 4, 3), (32, 1, 32), (17, 8, 2)]
)
def test_a_mask_has_its_lines_and_its_centre(n, af, centre):
    masks = torch.stack([vd_mask(n, af, centre, stream(seed, "mask")) for seed in range(50)])
    assert torch.equal(masks.sum(1), torch.full((50,), float(round(n / af))))
    first = n // 2 - centre // 2
    assert masks[:, first : first + centre].all()
    assert torch.equal(masks[3], vd_mask(n, af, centre, stream(3, "mask")))
    if centre < round(n / af) < n:
        low = (torch.arange(n) - n // 2).abs() < n // 4
        assert masks[:, low].mean() > 2 * masks[:, ~low].mean()  # the density falls


def test_data_consistency_puts_the_measured_columns_back_and_keeps_the_others():
    truth, guess, mask = normal(2, 8, 12), normal(2, 8, 12, seed=1), vd_mask(12, 3, 2, stream(0, "mask"))
    g = fftc(truth) * mask
    better = data_consistency(guess, g, mask)
    torch.testing.assert_close(fftc(better) * mask, g, **EXACT)
    torch.testing.assert_close(fftc(better) * (1 - mask), fftc(guess) * (1 - mask), **EXACT)
    torch.testing.assert_close(data_consistency(better, g, mask), better, **EXACT)
    assert (better - truth).norm() < (guess - truth).norm()
    torch.testing.assert_close(data_consistency(truth, g, mask), truth, **EXACT)


@pytest.mark.parametrize("shape", [(16, 16), (9, 14)])
def test_total_variation_of_a_full_scan_is_skimages(shape):
    image = normal(*shape, dtype=torch.float64).cumsum(0) / 4
    ones = torch.ones(shape[1], dtype=torch.float64)
    theirs = denoise_tv_chambolle(image.numpy(), weight=0.2, eps=1e-12, max_num_iter=5000)
    for turn in (1, 1j):  # a real and an imaginary image
        ours = tv_recon(fftc(image * turn), ones, 0.2, 2000) / turn
        np.testing.assert_allclose(ours.real.numpy(), theirs, atol=1e-3)
        assert ours.imag.abs().max() < 1e-10


def test_total_variation_lowers_its_objective_and_is_zero_filling_without_weight():
    mask = vd_mask(16, 2, 4, stream(0, "mask"))
    g = fftc(normal(2, 16, 16)) * mask
    torch.testing.assert_close(tv_recon(g, mask, 0.0, 7), ifftc(g), **EXACT)

    def objective(x):
        down, right = x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]
        down, right = pad(down.abs(), (0, 0, 0, 1)), pad(right.abs(), (0, 1))
        return (mask * fftc(x) - g).abs().square().sum() / 2 + 0.1 * torch.hypot(down, right).sum()

    best = tv_recon(g, mask, 0.1, 3000)
    assert objective(tv_recon(g, mask, 0.1, 100)) < 1.02 * objective(best) < objective(ifftc(g))
    for seed in range(5):  # a minimum: no small change lowers it
        assert objective(best + 1e-3 * normal(2, 16, 16, seed=seed)) > objective(best)


@pytest.mark.parametrize("shape", [(6, 8), (7, 9)])
def test_linear_maps_of_rows_are_ridge_regression_on_measured_columns_of_five_rows(shape):
    height, width = shape
    images, mask = normal(20, *shape), vd_mask(width, 2, 2, stream(0, "mask"))
    maps = row_maps(fftc(images) * mask, images, mask, 0.1)
    # Along the height nothing is missing: the transform of a row alone has what was measured of it.
    rows = np.fft.ifftshift(images.numpy(), -1)
    rows = np.fft.fftshift(np.fft.fft(rows, norm="ortho"), -1)[..., mask.numpy() == 1]
    rows = np.pad(rows, ((0, 0), (2, 2), (0, 0)))
    for y in range(height):
        x = rows[:, y : y + 5].reshape(20, -1)
        ridge = np.sqrt(0.1 * (np.abs(x) ** 2).sum(0).mean()) * np.eye(x.shape[1])
        target = np.concatenate([images[:, y].numpy(), np.zeros((len(ridge), width))])
        theirs, *_ = np.linalg.lstsq(np.concatenate([x, ridge]), target, rcond=None)
        np.testing.assert_allclose(maps[y].numpy(), theirs, atol=1e-10)


def test_linear_maps_give_full_scans_back_and_fill_in_what_follows_from_the_rest():
    half = normal(60, 8, 8)[..., :4]
    images, ones = torch.cat([half, half.roll(1, -2).flip(-1)], -1), torch.ones(8)
    g = fftc(images)
    whole = linear_recon(g[:6].unflatten(0, (2, 3)), row_maps(g, images, ones, 1e-12), ones)
    torch.testing.assert_close(whole, images[:6].unflatten(0, (2, 3)), rtol=0, atol=1e-6)
    mask = ones.clone()
    mask[2] = 0
    maps = row_maps((g * mask)[:50], images[:50], mask, 1e-12)
    new, truth = (g * mask)[50:], images[50:]
    torch.testing.assert_close(linear_recon(new, maps, mask), truth, rtol=0, atol=1e-5)
    assert (ifftc(new) - truth).abs().mean() > 0.1


# --- thermometry ------------------------------------------------------------------------------------------


def test_a_degree_turns_the_phase_by_the_cards_number():
    assert phase_per_degree(1.5, 0.02) == pytest.approx(-0.0803, abs=5e-5)
    assert math.pi / abs(phase_per_degree(1.5, 0.02)) == pytest.approx(39, abs=0.2)
    proton = constants.physical_constants["proton gyromag. ratio in MHz/T"][0]
    assert pytest.approx(1e6 * proton, rel=2e-5) == GAMMA


def test_heating_comes_back_and_needs_conjugate_sign_and_phase():
    p = phantom(32, stream(0, "phantom"))
    p = replace(p, phase=p.phase - p.phase[p.body].mean() - math.pi + 0.1)  # so that some angles wrap
    images, heating = p.series([0, 0.5, 1], B0, TE)
    truth = heating[1:, p.body]
    found = prf_temperature(images[:1], images[1:], B0, TE)[:, p.body]
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-10)
    # What a broken formula would measure: T1's and T4b's controls.
    angles = images.angle() / phase_per_degree(B0, TE)
    assert ((angles[1:] - angles[:1])[:, p.body] - truth).abs().max() > 39
    assert (-found - truth).abs().mean() == pytest.approx(2 * float(truth.abs().mean()))
    assert not prf_temperature(images[:1].abs() + 0j, images[1:].abs() + 0j, B0, TE).any()


def test_a_better_magnitude_does_not_change_the_temperature():
    p = phantom(32, stream(1, "phantom"))
    images, _ = p.series([0, 1], B0, TE)
    zero_filled = ifftc(fftc(images) * vd_mask(32, 4, 2, stream(0, "mask")))
    mixed = torch.polar(images.abs(), zero_filled.angle())
    assert (mixed - images).abs().mean() < 0.9 * (zero_filled - images).abs().mean()
    maps = [prf_temperature(x[:1], x[1:], B0, TE)[:, p.body] for x in (mixed, zero_filled, images)]
    torch.testing.assert_close(maps[0], maps[1], rtol=0, atol=1e-9)
    assert (maps[0] - maps[2]).abs().mean() > 0.1


def test_patients_are_as_described():
    for seed in range(20):
        p = phantom(32, stream(seed, "phantom"))
        assert p.magnitude.max() == 1
        assert not p.magnitude[~p.body].any()
        assert p.magnitude[p.body].min() > 0.1
        assert p.tumour.sum() >= 10
        assert p.body[p.tumour].all()
        assert p.magnitude[p.tumour].mean() > p.magnitude[p.body].mean()
        images, heating = p.series([0, 1], B0, TE)
        assert not heating[0].any()
        assert 5 < heating[1][p.tumour].max() <= 6.3
        assert heating[1][p.body].min() >= 0.3
        torch.testing.assert_close(images.abs(), p.magnitude.expand(2, -1, -1), **EXACT)
    again = phantom(32, stream(3, "phantom"))
    assert torch.equal(again.magnitude, phantom(32, stream(3, "phantom")).magnitude)


# --- layers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cin", "cout", "k", "padding"), [(1, 1, 3, 0), (5, 3, 3, 1), (8, 16, 1, 0), (3, 7, 3, 0)]
)
@pytest.mark.parametrize("bias", [True, False])
def test_complex_convolution_is_torchs(cin, cout, k, padding, bias):
    layer, x = drawn(ComplexConv2d, cin, cout, k, bias, padding), normal(2, cin, 7, 10, dtype=torch.complex64)
    if bias:
        nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(1))
    weight, offset = torch.complex(*layer.weight), torch.complex(*layer.bias) if bias else None
    expected = conv2d(x, weight, offset, padding=padding)
    torch.testing.assert_close(unstacked(layer(stacked(x))), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("cin", "cout", "k"), [(1, 1, 3), (5, 3, 3), (8, 16, 1)])
def test_a_split_convolution_is_torchs_with_real_weights(cin, cout, k):
    layer, x = drawn(SplitConv2d, cin, cout, k, False), normal(2, cin, 7, 10, dtype=torch.complex64)
    expected = conv2d(x, layer.weight + 0j)
    torch.testing.assert_close(unstacked(layer(stacked(x))), expected, rtol=0, atol=1e-5)
    whole = drawn(ComplexConv2d, cin, cout, k, False)
    whole.weight.data[:] = torch.stack([layer.weight, 0 * layer.weight])
    torch.testing.assert_close(layer(stacked(x)), whole(stacked(x)), rtol=0, atol=1e-5)
    assert 2 * size(layer) == size(whole)


def test_stacking_is_undone():
    x = normal(2, 3, 4, 5)
    assert stacked(x).shape == (2, 6, 4, 5)
    assert torch.equal(unstacked(stacked(x)), x)


def test_the_activation_shrinks_the_modulus_and_keeps_the_phase():
    act, z = drawn(CModReLU, 3).double(), normal(2, 3, 4, 5)
    with torch.no_grad():
        act.threshold.copy_(torch.tensor([0.5, 0.0, -0.1])[:, None, None])
    z[0, 0, 0, 0] = 0
    out = unstacked(act(stacked(z)))
    expected = z * (1 - act.threshold / z.abs().clamp(min=1e-5)).clamp(min=0)
    torch.testing.assert_close(out, expected, **EXACT)
    turned = unstacked(act(stacked(z * 1j)))
    torch.testing.assert_close(turned, out * 1j, **EXACT)
    assert torch.autograd.gradcheck(act, stacked(z[1:]).requires_grad_())
    at_zero = torch.zeros(1, 6, 2, 2, dtype=torch.float64, requires_grad=True)
    act(at_zero).sum().backward()
    assert at_zero.grad.isfinite().all()


def test_batch_norm_whitens_as_the_matrix_square_root_does():
    norm, z = ComplexBatchNorm2d(2).double(), normal(5, 2, 6, 7)
    z = z + 0.8 * z.conj() + torch.tensor([1.0, 2j])[:, None, None]  # far from circular
    out = norm(stacked(z)).detach()
    parts = out.unflatten(1, (2, 2)).permute(2, 1, 0, 3, 4).flatten(2)
    for channel, given in zip(parts, z.transpose(0, 1).flatten(1), strict=True):
        torch.testing.assert_close(channel.mean(1), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-10)
        torch.testing.assert_close(
            channel.cov(correction=0), torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-3
        )
        pair = torch.stack([given.real, given.imag])
        pair = pair - pair.mean(1, keepdim=True)
        root = scipy.linalg.sqrtm(pair.cov(correction=0).numpy() + 1e-5 * np.eye(2))
        torch.testing.assert_close(channel, torch.from_numpy(np.linalg.inv(root)) @ pair, rtol=0, atol=1e-9)
    norm.momentum = 1.0
    norm(stacked(z))
    torch.testing.assert_close(
        norm.eval()(stacked(z)), out, rtol=0, atol=1e-10
    )  # what was kept is what was seen
    assert torch.autograd.gradcheck(norm, stacked(z[:1, :, :2, :2]).clone().requires_grad_())


def test_unet_keeps_the_size_and_refuses_what_it_cannot_halve():
    net = drawn(ComplexUNet, 2, 3, width=2)
    assert net(torch.randn(2, 4, 16, 24)).shape == (2, 6, 16, 24)
    with pytest.raises(ValueError, match=r"multiples of 8, got \(12, 16\)"):
        net(torch.randn(1, 4, 12, 16))


# --- the network ------------------------------------------------------------------------------------------


def test_the_papers_networks_have_their_numbers():
    assert size(PrimalDual()) == 505_360
    assert size(PrimalDual(n_primal=4, iters=2, primal="unet", zero_filled=True)) == 7_257_032


@pytest.mark.parametrize(
    ("features", "cin", "cout"), [(32, 7, 5), (32, 6, 5), (8, 5, 3), (8, 4, 3), (12, 5, 3)]
)
def test_a_real_correction_has_as_many_numbers(features, cin, cout):
    ours, theirs = (
        size(Correction(cin, cout, features, kind, wrap=False, bias=True)) for kind in ("complex", "real")
    )
    assert theirs == pytest.approx(ours, rel=0.05)
    assert real_width(features, cin, cout) > features


def by_formula(net, g):
    """The network written with complex tensors, torch's own convolution and padding."""

    def correct(block, z):
        for i, conv in enumerate(block.convs):
            halves = []
            for part in (z.real, z.imag):
                part = pad(part, (1, 1, 0, 0), mode="circular" if block.wrap else "replicate")
                halves.append(pad(part, (0, 0, 1, 1), mode="replicate"))
            z = conv2d(torch.complex(*halves), torch.complex(*conv.weight), torch.complex(*conv.bias))
            if i < 2:
                z = z * (1 - block.acts[i].threshold / z.abs().clamp(min=1e-5)).clamp(min=0)
        return z

    def weight(w):
        return torch.complex(*w)

    m = g.abs().amax((1, 2, 3), keepdim=True)
    f = (
        ifftc(g).repeat(1, net.n_primal, 1, 1)
        if net.zero_filled
        else torch.zeros_like(g).repeat(1, net.n_primal, 1, 1)
    )
    h = torch.zeros_like(g).repeat(1, net.n_dual, 1, 1)
    for i in range(net.iters):
        spectrum = fftc(f).mean(1, keepdim=True) / m
        h = h + weight(net.w_dual[i]) * correct(net.dual[i], torch.cat([h, spectrum, g / m], 1))
        seen = ifftc(m * h).mean(1, keepdim=True)
        f = f + weight(net.w_primal[i]) * correct(net.primal[i], torch.cat([f, seen], 1))
    return f.mean(1, keepdim=True)


@pytest.mark.parametrize("zero_filled", [True, False])
@pytest.mark.parametrize("shape", [(8, 8), (7, 10)])
def test_the_network_is_its_formula(zero_filled, shape):
    net = tiny(zero_filled=zero_filled).double()
    for index, parameter in enumerate(net.parameters()):
        noise = torch.randn(
            parameter.shape, generator=torch.Generator().manual_seed(index), dtype=torch.float64
        )
        parameter.data += 0.1 * noise
    g = normal(3, 1, *shape) * torch.tensor([1.0, 10.0, 0.1])[:, None, None, None]
    with torch.no_grad():
        torch.testing.assert_close(unstacked(net(stacked(g))), by_formula(net, g), rtol=0, atol=1e-10)


def test_the_networks_start_where_the_paper_starts_them():
    g = stacked(fftc(phantom(16, stream(0, "phantom")).series([0, 1], B0, TE)[0])[:, None]).float()
    image = stacked(ifftc(unstacked(g)))
    with torch.no_grad():
        assert drawn(PrimalDual, iters=2, features=4)(g).abs().max() < 1e-4
        unet = drawn(PrimalDual, 4, 5, 2, 4, primal="unet", zero_filled=True)
        torch.testing.assert_close(unet(g), image, rtol=0, atol=1e-4)
        assert unet(g).shape == g.shape


def test_one_domain_has_as_many_weights_and_never_sees_k_space():
    g = stacked(normal(2, 1, 8, 8))
    both, image = (tiny(domains=domains).double() for domains in ("both", "image"))
    assert size(both) == size(image)
    with torch.no_grad():
        assert not torch.allclose(both(g), image(g))
        for w in image.w_primal:
            w.zero_()
        torch.testing.assert_close(image(g), stacked(ifftc(unstacked(g))), **EXACT)
    # Its corrections are local: a pixel far from a change in the image does not feel it.
    local = tiny(domains="image", iters=1, zero_filled=True).double()
    x, y = normal(1, 1, 24, 24), normal(1, 1, 24, 24)
    x[..., 0, 0] = 100  # the same largest modulus
    y[..., :12, :] = x[..., :12, :]
    with torch.no_grad():
        one, other = (local(stacked(fftc(z)))[..., 4, :] for z in (x, y))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_only_the_complex_network_turns_with_its_data():
    g = stacked(normal(2, 1, 12, 12))
    errors = {
        kind: phase_equivariance(tiny(kind=kind, bias=False, primal_weight=1.0).double(), g, 1.0)
        for kind in ("complex", "split", "real", "crelu")
    }
    assert max(errors["complex"], errors["split"]) < 1e-10
    assert errors["real"] > 0.05
    assert errors["crelu"] > 0.05
    biased = tiny(bias=True).double()
    for name, parameter in biased.named_parameters():
        if name.endswith("bias"):
            parameter.data += 1
    assert phase_equivariance(biased, g, 1.0) > 0.05


@pytest.mark.parametrize("kind", ["complex", "split", "real", "crelu"])
def test_gradients_of_the_network(kind):
    net = tiny(kind=kind, features=2, iters=1, n_dual=1).double()
    names, weights = zip(*net.named_parameters(), strict=True)

    def run(g, *weights):
        return functional_call(net, dict(zip(names, weights, strict=True)), (g,))

    g = stacked(normal(1, 1, 4, 5)).requires_grad_()
    assert torch.autograd.gradcheck(run, (g, *weights), atol=1e-4, fast_mode=True)


def test_the_same_seed_makes_the_same_network():
    g = stacked(normal(1, 1, 8, 8, dtype=torch.complex64))
    with torch.no_grad():
        assert torch.equal(tiny(seed=3)(g), tiny(seed=3)(g))
        assert not torch.equal(tiny(seed=3)(g), tiny(seed=4)(g))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: phase_per_degree(0, 0.02), "b0 must be finite and > 0, got 0"),
        (lambda: phase_per_degree(1.5, -1), "te must be finite and > 0, got -1"),
        (
            lambda: vd_mask(32, 0.5, 1, stream(0, "m")),
            r"af must be in 1\.\.32, the number of columns, got 0.5",
        ),
        (lambda: vd_mask(32, 10, 4, stream(0, "m")), r"centre must be in 1\.\.3, what af = 10 leaves of 32"),
        (lambda: tv_recon(normal(4, 4), torch.ones(4), -1, 5), "lam must be finite and >= 0, got -1"),
        (lambda: tv_recon(normal(4, 4), torch.ones(4), 0.1, 0), "iters must be >= 1, got 0"),
        (
            lambda: row_maps(normal(3, 4, 4), normal(3, 4, 4), torch.ones(4), 0),
            "weight must be .* > 0, got 0",
        ),
        (
            lambda: row_maps(normal(3, 4, 4), normal(3, 4, 5), torch.ones(4), 1),
            r"images of g's shape, got \(3, 4, 5\) and \(3, 4, 4\)",
        ),
        (lambda: phantom(8, stream(0, "p")), "n must be >= 16 for a body with a tumour in it, got 8"),
        (lambda: PrimalDual(iters=0), "iters must be >= 1, got 0"),
        (lambda: PrimalDual(primal="dense"), "primal must be one of 'conv', 'unet', got 'dense'"),
        (lambda: PrimalDual(kind="quaternion"), "kind must be one of 'complex', .*, got 'quaternion'"),
        (lambda: PrimalDual(domains="none"), "domains must be one of 'both', 'image', got 'none'"),
        (lambda: PrimalDual(primal="unet", kind="real"), "kind must be 'complex' with primal = 'unet'"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": 16, "af": 20}, "af = 20: expected at most n, which is 16"),
        ({"tenfold": 33}, "tenfold = 33: expected a multiple of 8"),
        ({"b0": 7.0}, "b0 = 7.0: expected float, 0.1..3"),
    ],
)
def test_parameters_that_leave_no_column_or_no_phase_are_refused(given, message):
    record = records.load("mr_thermometry")
    with pytest.raises(parameters.ParameterError, match=message):
        parameters.validate(record, record.values("quick") | given)


def test_at_the_strongest_field_and_longest_echo_heating_still_has_one_phase():
    allowed = records.load("mr_thermometry").parameters
    heating = phantom(32, stream(0, "patient")).heating.max()
    assert heating * abs(phase_per_degree(allowed["b0"].max, allowed["te"].max)) < 0.9 * math.pi


# --- mutations --------------------------------------------------------------------------------------------

FORWARD, CORRECT = PrimalDual.forward, Correction.forward


def one_domain(self, g):
    """The corrections of k-space are made to the image, too: one domain in place of two."""
    self.domains = "image"
    return FORWARD(self, g)


def silent(self, x):
    """Every learnt correction is zero."""
    return 0 * CORRECT(self, x)


def split(self, x):
    """Complex convolutions multiply by real numbers only: real and imaginary parts never meet."""
    re, im = self.weight
    kernel = torch.cat([torch.cat([re, 0 * im], 1), torch.cat([0 * im, re], 1)])
    return convolved(x, kernel, None if self.bias is None else self.bias.flatten(), self.padding)


MUTATIONS = [
    ("PrimalDual.forward", one_domain),
    ("Correction.forward", silent),
    ("ComplexConv2d.forward", split),
]
