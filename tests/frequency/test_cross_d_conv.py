"""Cross-D Conv: a translation and no rotation, a layer with a kernel for each input, and what goes to 3-D."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.linear_model import Ridge
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import conv2d, conv3d, cross_entropy, normalize
from transformers import ResNetConfig, ResNetForImageClassification

from fourfold import cost
from fourfold.frequency.cross_d_conv import (
    LARGEST_ANGLE,
    SHAPES,
    ACSConv3d,
    CrossDConv2d,
    RandomHead,
    SliceNet,
    Still,
    cross_matrix,
    depth_share,
    dirichlet_shift,
    exact_rotation,
    inflate,
    linearised_rotation,
    resnet18,
    ridge_accuracy,
    rotate_kernel,
    shift_kernel,
    slice_matrix,
    solids,
    translation,
    volume_features,
)
from fourfold.training import Recipe, seeded, shuffled, train

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}
SPATIAL = (-3, -2, -1)
MODES = ("official", "centred", "rotate")


def turns(n: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    return normalize(normal(n, 3, seed=seed), dim=1), LARGEST_ANGLE * normal(n, 1, seed=seed + 1).tanh()


def random_turn(self, x):
    """Axis and angle of each picture are at random, from projections of its pixels that nothing trains."""
    pixels = normalize((x - x.mean((-2, -1), keepdim=True)).flatten(1), dim=1)
    # What a generator would draw, but for vmap: the digits of large sines.
    place = torch.arange(4.0 * pixels.shape[1]).reshape(-1, 4) + 1
    four = (pixels @ (4 * ((1e4 * (12.9898 * place).sin()) % 1 - 0.5))).detach()
    return normalize(four[:, :3], dim=1), LARGEST_ANGLE * four[:, 3:].tanh()


MUTATIONS = [("CrossDConv2d.rotation", random_turn)]


def drawn(make, seed: int = 0):
    with seeded(seed):
        return make()


# --- a translation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 5, 7, 9])
def test_the_phase_is_a_translation(size):
    weight, (k, theta) = normal(2, 3, size, size, size), turns(6)
    theta[3:] *= 1e-4  # nearly a roll, where the closed form is a ratio of two small numbers
    t, made = translation(k, theta), shift_kernel(weight, k, theta)
    torch.testing.assert_close(made.real, dirichlet_shift(weight, t), **EXACT)
    assert made.imag.abs().max() < 1e-12
    spectrum = torch.fft.fftn(weight, dim=SPATIAL)
    theirs = [
        [
            [np.fft.ifftn(ndimage.fourier_shift(kernel, shift)).real for kernel in row]
            for row in spectrum.numpy()
        ]
        for shift in t.numpy()
    ]
    torch.testing.assert_close(made.real, torch.tensor(np.array(theirs)), **EXACT)
    moved = torch.fft.fftn(made, dim=SPATIAL).abs()
    torch.testing.assert_close(moved, spectrum.abs().expand_as(moved), **EXACT)
    norms = made.real.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, weight.norm().expand(6), **EXACT)


@pytest.mark.parametrize("size", [3, 5, 7])
def test_at_angle_zero_it_is_a_roll_by_one_tap(size):
    weight, (k, theta) = normal(2, 1, size, size, size), turns(3)
    rolled = weight.roll((1, 1, 1), SPATIAL).expand(3, *weight.shape)
    torch.testing.assert_close(shift_kernel(weight, k, 0 * theta).real, rolled, **EXACT)
    torch.testing.assert_close(dirichlet_shift(weight, torch.ones(3, 3).double()), rolled, **EXACT)
    still = slice_matrix(k, 0 * theta, size, "centred") @ weight[0, 0].flatten()
    torch.testing.assert_close(still, weight[0, 0, size // 2].flatten().expand(3, -1), **EXACT)


def test_where_the_translations_lie():
    k, theta = turns(200)
    t = translation(k, theta)
    torch.testing.assert_close(t.sum(1), torch.full((200,), 3.0).double(), **EXACT)
    assert ((t - 1).norm(dim=1) <= math.sqrt(3) * theta.abs()[:, 0] + 1e-12).all()
    by_matrix = linearised_rotation(k, theta).transpose(1, 2) @ torch.ones(3, 1).double()
    torch.testing.assert_close(t, by_matrix[..., 0], **EXACT)
    assert torch.equal(translation(0 * k, theta), torch.ones(200, 3).double())


@pytest.mark.parametrize("size", [2, 4, 6])
def test_an_even_kernel_breaks_the_claim(size):
    weight, (k, theta) = normal(2, 3, size, size, size), turns(20)
    made = shift_kernel(weight, k, theta, allow_even=True)
    assert made.imag.abs().max() > 0.1
    assert (made.real.flatten(1).norm(dim=1) / weight.norm()).min() < 0.97


def test_no_axis_and_angle_turns_a_bar():
    """Even with any translation: the magnitudes of the two spectra differ, which no phase can mend."""
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)
    bar = torch.exp(-(x[:, None, None] ** 2 + x**2 + 0 * x[:, None]))[None, None]
    wanted = bar.rot90(1, (-2, -1))
    k, theta = turns(500)
    best = ((shift_kernel(bar, k, theta).real - wanted).flatten(1).norm(dim=1) / wanted.norm()).min()
    ours, theirs = (torch.fft.fftn(v, dim=SPATIAL).abs() for v in (bar, wanted))
    assert best >= (ours - theirs).norm() / theirs.norm() > 0.3
    # which a rotation does
    quarter = torch.tensor([[math.pi / 2]], dtype=torch.float64)
    made = rotate_kernel(bar, torch.tensor([[1.0, 0, 0]]).double(), quarter)[0]
    torch.testing.assert_close(made, wanted, **EXACT)


# --- a rotation -------------------------------------------------------------------------------------------


def test_rotation_matrices():
    k, theta = turns(20)
    v = normal(20, 3)
    crossed = (cross_matrix(k) @ v[..., None])[..., 0]
    torch.testing.assert_close(crossed, torch.linalg.cross(k, v), **EXACT)
    truth = torch.matrix_exp(theta[..., None] * cross_matrix(k))
    torch.testing.assert_close(exact_rotation(k, theta), truth, **EXACT)
    linear = linearised_rotation(k, theta)
    torch.testing.assert_close(torch.linalg.det(linear), 1 + theta[:, 0] ** 2, **EXACT)
    error = torch.linalg.matrix_norm(linear - truth, 2)
    assert ((error <= theta[:, 0] ** 2 / 2 + 1e-12) & (error >= 0.47 * theta[:, 0] ** 2)).all()


@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize(("axis", "plane"), [(0, (-2, -1)), (1, (-1, -3)), (2, (-3, -2))])
def test_rotate_by_a_quarter_turn(size, axis, plane):
    weight, k = normal(2, 3, size, size, size), torch.eye(3).double()[axis][None]
    quarter = torch.tensor([[math.pi / 2]], dtype=torch.float64)
    torch.testing.assert_close(rotate_kernel(weight, k, quarter)[0], weight.rot90(1, plane), **EXACT)
    torch.testing.assert_close(rotate_kernel(weight, k, 0 * quarter)[0], weight, **EXACT)


def test_rotate_is_scipys_affine_transform():
    weight, (k, theta) = normal(1, 1, 5, 5, 5), turns(4)
    made = rotate_kernel(weight, k, theta)[:, 0, 0]
    for turn, ours in zip(exact_rotation(k, theta).numpy(), made, strict=True):
        middle = np.full(3, 2.0)
        theirs = ndimage.affine_transform(
            weight[0, 0].numpy(), turn.T, middle - turn.T @ middle, order=1, mode="grid-constant"
        )
        torch.testing.assert_close(ours, torch.tensor(theirs), **EXACT)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("mode", MODES)
def test_the_matrix_of_a_mode_is_its_operation(mode, size):
    weight, (k, theta) = normal(2, 3, size, size, size), turns(4)
    whole = rotate_kernel(weight, k, theta) if mode == "rotate" else shift_kernel(weight, k, theta).real
    if mode == "centred":
        whole = whole.roll((-1, -1, -1), SPATIAL)
    made = torch.einsum("bnm,oim->boin", slice_matrix(k, theta, size, mode), weight.flatten(2))
    torch.testing.assert_close(made, whole[..., size // 2, :, :].flatten(-2), **EXACT)


def test_gradients():
    weight, (k, theta) = normal(1, 2, 3, 3, 3).requires_grad_(), turns(2)
    k, theta = k.requires_grad_(), theta.requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: shift_kernel(*x).real, (weight, k, theta))
    assert torch.autograd.gradcheck(rotate_kernel, (weight, k, theta))
    for mode in MODES:
        assert torch.autograd.gradcheck(lambda k, theta, m=mode: slice_matrix(k, theta, 3, m), (k, theta))


# --- the layer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("cin", "cout", "K", "stride", "groups", "size"),
    [(3, 4, 3, 1, 1, (7, 5)), (4, 6, 5, 2, 2, (8, 9)), (2, 2, 1, 2, 2, (4, 4)), (1, 8, 7, 1, 1, (12, 12))],
)
def test_each_input_is_convolved_with_its_own_kernel(mode, cin, cout, K, stride, groups, size):
    layer = drawn(lambda: CrossDConv2d(cin, cout, K, stride, groups=groups, mode=mode)).double()
    x = normal(5, cin, *size)
    kernels = layer.kernel2d(x)
    assert kernels.shape == (5, cout, cin // groups, K, K)
    alone = [
        conv2d(x[i : i + 1], kernels[i], stride=stride, padding=K // 2, groups=groups) for i in range(len(x))
    ]
    torch.testing.assert_close(layer(x), torch.cat(alone), rtol=0, atol=1e-12)
    single = layer.float()(x.float())
    torch.testing.assert_close(single, torch.cat(alone).float(), rtol=0, atol=1e-5)


def test_the_official_layer_is_the_papers_text():
    layer, x = drawn(lambda: CrossDConv2d(2, 3, 5)).double(), normal(4, 2, 6, 7)
    maps = layer.head(x)
    pooled = torch.stack(
        [
            sum(p * w for p, w in zip(m.flatten(), m.flatten().softmax(0), strict=True))
            for b in maps
            for m in b
        ]
    ).reshape(4, 4)
    k, theta = layer.rotation(x)
    torch.testing.assert_close(k, normalize(pooled[:, :3], dim=1), rtol=0, atol=1e-7)
    torch.testing.assert_close(theta, math.pi / 4 * torch.tanh(pooled[:, 3:]), **EXACT)
    cut = shift_kernel(layer.weight, k, theta).real[:, :, :, 2]
    torch.testing.assert_close(layer.kernel2d(x), cut, **EXACT)
    assert layer.weight.detach().std().item() == pytest.approx(
        math.sqrt(2 / (3 * 125)), rel=0.1
    )  # Kaiming, fan out


def test_a_silent_head_means_no_rotation_and_finite_gradients():
    layer, x = drawn(lambda: CrossDConv2d(2, 3, 3)), normal(4, 2, 6, 6).float()
    nn.init.zeros_(layer.head[-1].weight)
    nn.init.zeros_(layer.head[-1].bias)
    k, theta = layer.rotation(x)
    assert not k.any()
    assert not theta.any()
    layer(x).square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())
    rolled = layer.weight.roll((1, 1, 1), SPATIAL)[:, :, 1]
    torch.testing.assert_close(layer.kernel2d(x), rolled.expand(4, -1, -1, -1, -1), rtol=0, atol=1e-6)


def test_layers_of_an_ensemble_are_the_layers():
    nets = [drawn(partial(SliceNet, partial(CrossDConv2d, K=3)), s).double() for s in (0, 1)]
    x = normal(2, 6, 1, 8, 8)
    stacked, _ = stack_module_state(nets)
    together = vmap(lambda weights, images: functional_call(nets[0], weights, (images,)))(stacked, x)
    alone = torch.stack([net(images) for net, images in zip(nets, x, strict=True)])
    torch.testing.assert_close(together, alone, **EXACT)


@pytest.mark.parametrize("mode", MODES)
def test_it_learns_and_the_same_seed_gives_the_same_numbers(mode):
    data = solids(64, 8, 0.1, torch.Generator().manual_seed(0))
    x = data.volumes[:, 4][:, None]
    make = partial(SliceNet, partial(CrossDConv2d, K=3, mode=mode))

    def run():
        recipe = Recipe(20, 32, 1e-2, 0, "constant")
        return train(make, [3], shuffled(x, data.labels), (x[None], data.labels[None]), recipe)

    first, second = run(), run()
    assert torch.equal(first.loss, second.loss)
    assert first.loss[0, -4:].mean() < first.loss[0, :4].mean() - 0.2


def test_the_arms_without_the_mechanism():
    x = normal(6, 2, 8, 8).float()
    still = drawn(lambda: Still(2, 3, 3))
    rolled = still.weight.roll((1, 1, 1), SPATIAL)[:, :, 1]
    torch.testing.assert_close(still(x), conv2d(x, rolled, padding=1), rtol=0, atol=1e-5)
    layer = drawn(lambda: RandomHead(2, 3, 3, 8, torch.Generator().manual_seed(0)))
    k, theta = layer.rotation(x)
    torch.testing.assert_close(k.norm(dim=1), torch.ones(6))
    assert theta.std() > 0.1
    assert theta.abs().max() <= LARGEST_ANGLE
    assert not k.requires_grad
    assert "projection" not in layer.state_dict()
    torch.testing.assert_close(layer.rotation(x[:1])[0], k[:1])  # whatever the others in the batch


# --- into three dimensions --------------------------------------------------------------------------------


def test_weights_go_to_a_conv3d_and_back():
    layer = drawn(lambda: CrossDConv2d(4, 6, 3, 2, groups=2))
    solid = layer.to_conv3d()
    assert torch.equal(solid.weight, layer.weight)
    x = normal(2, 4, 6, 7, 8).float()
    torch.testing.assert_close(solid(x), conv3d(x, layer.weight, stride=2, padding=1, groups=2))
    layer.load_state_dict({**layer.state_dict(), "weight": solid.weight})
    with pytest.raises(RuntimeError, match="size mismatch"):
        solid.load_state_dict(nn.Conv2d(4, 6, 3, groups=2, bias=False).state_dict())


def test_inflation_answers_equal_slices_as_in_2d():
    conv = nn.Conv2d(3, 5, 3, padding=1, bias=False)
    x = normal(2, 3, 6, 7).float()
    volume = x[:, :, None].expand(-1, -1, 5, -1, -1)
    torch.testing.assert_close(
        inflate(conv)(volume)[:, :, 1:-1], conv(x)[:, :, None].expand(-1, -1, 3, -1, -1)
    )


def test_acs_convolves_in_three_planes():
    conv = nn.Conv2d(2, 7, 3, padding=1, bias=False)
    x = normal(1, 2, 4, 5, 6).float()
    y = ACSConv3d(conv)(x)

    def sliced(first, last, along):
        flat = conv2d(x.movedim(along, 1).flatten(0, 1), conv.weight[first:last], padding=1)
        return flat.unflatten(0, (1, -1)).movedim(1, along)

    planes = [sliced(0, 3, 2), sliced(3, 5, 3), sliced(5, 7, 4)]
    torch.testing.assert_close(y, torch.cat(planes, 1))


def test_gradient_reaches_one_slice_when_the_angle_is_zero():
    """The verdict's number (C3b) for the mechanism, for one without angle, and for one where it is met."""

    def smallest(theta):
        weight = normal(4, 2, 3, 3, 3).requires_grad_()
        k = normalize(normal(8, 3), dim=1)
        kernels = torch.einsum("bnm,oim->boin", slice_matrix(k, theta, 3), weight.flatten(2))
        (kernels * normal(*kernels.shape)).sum().backward()
        return float(depth_share(weight.grad).min())

    assert smallest(torch.zeros(8, 1).double()) < 1e-20
    assert smallest(torch.full((8, 1), 0.02).double()) < 0.05
    assert smallest(torch.full((8, 1), LARGEST_ANGLE).double()) >= 0.05
    share = depth_share(inflate(nn.Conv2d(2, 3, 5, padding=2)).weight.detach())
    torch.testing.assert_close(share, torch.full((5,), 0.2))


def test_volume_features_are_those_of_a_network_of_volumes():
    net = drawn(partial(SliceNet, partial(CrossDConv2d, K=3)))
    for norm in net.norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    solid = [layer.to_conv3d() for layer in net.convs]
    steps = []
    for index, (layer, norm) in enumerate(zip(solid, net.norms, strict=True)):
        twin = nn.BatchNorm3d(norm.num_features, momentum=None)
        twin.load_state_dict({**twin.state_dict(), **norm.state_dict()})
        steps += [*([nn.AvgPool3d(2)] if index else []), layer, twin, nn.ReLU()]
    theirs = nn.Sequential(*steps).train()
    fit, x = normal(20, 1, 8, 8, 8).float(), normal(5, 1, 8, 8, 8, seed=1).float()
    ours = volume_features(net, tuple(solid), fit, x)
    torch.testing.assert_close(ours[0], theirs(fit).mean(SPATIAL).detach(), rtol=1e-4, atol=1e-5)
    alone = volume_features(net, tuple(solid), fit, x[:1])
    torch.testing.assert_close(ours[1][:1], alone[1])


def test_the_probe_is_sklearns_ridge():
    x, y = normal(80, 6), torch.randint(4, (80,), generator=torch.Generator().manual_seed(0))
    x[:, 0] += y
    scaled = (x - x[:50].mean(0)) / x[:50].std(0)
    theirs = Ridge(alpha=1.0).fit(scaled[:50].numpy(), np.eye(4)[y[:50].numpy()]).predict(scaled[50:].numpy())
    expected = float((theirs.argmax(1) == y[50:].numpy()).mean())
    assert ridge_accuracy(x[:50], y[:50], x[50:], y[50:]) == pytest.approx(expected)
    assert expected > 0.3


# --- costs ------------------------------------------------------------------------------------------------


def test_resnets_of_the_card():
    def plain(conv, cin, cout, K, stride, padding):
        return conv(cin, cout, K, stride, padding, bias=False)

    with torch.device("meta"):
        flat, crossed = resnet18(partial(plain, nn.Conv2d)), resnet18(CrossDConv2d)
        theirs = ResNetForImageClassification(
            ResNetConfig(
                depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic", num_labels=1000
            )
        )
    assert cost.parameters(flat) == cost.parameters(theirs) == 11_689_512
    assert cost.parameters(crossed) == 33_780_712
    assert cost.macs(flat, (1, 3, 224, 224)) == cost.macs(theirs, (1, 3, 224, 224))


# --- data -------------------------------------------------------------------------------------------------


def test_solids_are_told_by_their_shape():
    data = solids(400, 12, 0.0, torch.Generator().manual_seed(0))
    again = solids(400, 12, 0.0, torch.Generator().manual_seed(0))
    assert torch.equal(data.volumes, again.volumes)
    assert data.volumes.shape == (400, 12, 12, 12)
    assert data.volumes.min() == 0
    assert data.volumes.max() == 1
    assert data.labels.bincount(minlength=4).min() > 70
    shell = data.volumes[data.labels == SHAPES.index("shell")]
    assert shell[:, 5:7, 5:7, 5:7].mean() < 0.2 < data.volumes[data.labels == 0][:, 5:7, 5:7, 5:7].mean()
    noisy = solids(400, 12, 0.5, torch.Generator().manual_seed(0))
    assert (noisy.volumes - data.volumes).std() == pytest.approx(0.5, rel=0.02)


# --- bad input --------------------------------------------------------------------------------------------

W = torch.zeros(1, 1, 3, 3, 3)
K3, ANGLE = torch.zeros(2, 3), torch.zeros(2, 1)
REFUSED = [
    (lambda: CrossDConv2d(1, 1, 4), "kernel must be odd and >= 1, got 4"),
    (lambda: CrossDConv2d(1, 1, 0), "kernel must be odd and >= 1, got 0"),
    (lambda: CrossDConv2d(4, 6, 3, groups=4), "groups must be >= 1 and divide cin=4 and cout=6, got 4"),
    (lambda: CrossDConv2d(4, 6, 3, groups=0), "groups must be >= 1 .*, got 0"),
    (lambda: CrossDConv2d(1, 1, 3, mode="turn"), "mode must be one of official, centred, rotate, got 'turn'"),
    (lambda: slice_matrix(K3, ANGLE, 3, "turn"), "mode must be one of .*, got 'turn'"),
    (lambda: slice_matrix(K3, ANGLE, 4), "kernel must be odd .*, got 4"),
    (lambda: shift_kernel(torch.zeros(1, 1, 4, 4, 4), K3, ANGLE), "kernel must be odd .*, got 4"),
    (lambda: dirichlet_shift(torch.zeros(1, 1, 2, 2, 2), K3), "kernel must be odd .*, got 2"),
    (lambda: rotate_kernel(torch.zeros(1, 1, 2, 2, 2), K3, ANGLE), "kernel must be odd .*, got 2"),
    (lambda: shift_kernel(W, K3, ANGLE[:1]), r"expected k .*, got \(2, 3\) and \(1, 1\)"),
    (lambda: translation(K3[:, :2], ANGLE), r"expected k .*, got \(2, 2\) and \(2, 1\)"),
    (lambda: linearised_rotation(K3[0], ANGLE), r"expected k .*, got \(3,\) and \(2, 1\)"),
    (lambda: ACSConv3d(nn.Conv2d(1, 3, 3)), "conv must have stride 1, padding 1 and one group"),
    (lambda: ACSConv3d(nn.Conv2d(1, 2, 3, padding=1)), "conv must have >= 3 output channels, .* got 2"),
    (lambda: solids(0, 12, 0.1, torch.Generator()), "n must be >= 1, got 0"),
    (lambda: solids(4, 10, 0.1, torch.Generator()), "side must be a multiple of 4, >= 4, got 10"),
    (lambda: solids(4, 12, -0.1, torch.Generator()), "noise must be >= 0, got -0.1"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_one_pixel_of_one_picture_has_no_statistics():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        CrossDConv2d(1, 1, 3)(torch.zeros(1, 1, 1, 1))


def test_untrained_kernels_in_place_of_trained_ones_lose_the_probe():
    """C5's number, with the mechanism taken out: inflation of a trained layer beats an untrained one."""
    generator = torch.Generator().manual_seed(5)
    lessons, fit, test = (solids(n, 12, 0.35, generator) for n in (1200, 150, 400))
    x = lessons.volumes[:, 6][:, None]
    make = partial(SliceNet, lambda cin, cout: nn.Conv2d(cin, cout, 3, padding=1, bias=False))
    recipe = Recipe(6, 32, 5e-3, 0, "constant")
    seeds = [0, 1, 2]
    held = x[:50].expand(3, -1, -1, -1, -1), lessons.labels[:50].expand(3, -1)
    trained = train(make, seeds, shuffled(x, lessons.labels), held, recipe)

    def probe(net):
        solid = tuple(inflate(conv) for conv in net.convs)
        a, b = volume_features(net, solid, fit.volumes[:, None], test.volumes[:, None])
        return ridge_accuracy(a, fit.labels, b, test.labels)

    gains = [probe(trained.member(i)) - probe(drawn(make, s)) for i, s in enumerate(seeds)]
    assert sum(gains) / 3 > 0.02
    assert cross_entropy(trained.member(0)(x), lessons.labels) < 0.9
