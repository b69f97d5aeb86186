"""SFM: grids keep their order, modulation and demodulation are scipy's, and stretching lowers frequencies."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import LinearNDInterpolator
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import Delaunay, cKDTree
from torch.nn.functional import cross_entropy, grid_sample

from fourfold import cost, spectra, training
from fourfold.data import images
from fourfold.frequency.sfm import (
    LPRM,
    LearnedSaliency,
    SegNet,
    ars_grid,
    back,
    band_limited,
    bary_weights,
    class_iou,
    demodulate,
    edge_saliency,
    gaussian_blur,
    jacobian,
    magnification,
    mean_iou,
    modulate,
    over_calling_all,
    sample_points,
    text_scenes,
    upsample,
    warp,
)

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def attention(*shape: int, seed: int = 0, contrast: float = 2.0) -> torch.Tensor:
    """Rough and positive: exponentials of noise."""
    return torch.exp(contrast * normal(*shape, seed=seed))


def identity(height: int, width: int, batch: int = 1) -> torch.Tensor:
    ys, xs = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in (height, width))
    return torch.stack(torch.meshgrid(ys, xs, indexing="ij")[::-1], -1).expand(batch, -1, -1, -1)


def pixels(grid: torch.Tensor) -> np.ndarray:
    """A grid (B, H, W, 2) in pixels."""
    return ((grid + 1) / 2 * torch.tensor([grid.shape[2] - 1, grid.shape[1] - 1])).numpy()


# --- blurs and grids --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "sigma"), [(16, 16, 1.0), (31, 17, 3.0), (25, 40, 8.0)])
def test_blur_is_scipys_gaussian_filter(height, width, sigma):
    x = normal(2, 3, height, width)
    expected = gaussian_filter(x.numpy(), sigma, axes=(2, 3), mode="mirror", radius=round(3 * sigma))
    np.testing.assert_allclose(gaussian_blur(x, sigma), expected, rtol=0, atol=1e-12)


def test_grid_is_the_sum_that_defines_it():
    """T(u) written out, over every v of the reflected map, with v going on linearly outside."""
    a, sigma, radius = attention(1, 1, 9, 11), 2.0, 6
    rows, columns = (np.pad(np.arange(n), radius, mode="reflect") for n in (9, 11))
    around = a[0, 0].numpy()[np.ix_(rows, columns)]
    vy, vx = np.mgrid[-radius : 9 + radius, -radius : 11 + radius]
    found = pixels(ars_grid(a, sigma))[0]
    for y in range(9):
        for x in range(11):
            near = (abs(vy - y) <= radius) & (abs(vx - x) <= radius)
            weight = around * np.exp(-((vy - y) ** 2 + (vx - x) ** 2) / (2 * sigma**2)) * near
            expected = (weight * vx).sum() / weight.sum(), (weight * vy).sum() / weight.sum()
            np.testing.assert_allclose(found[y, x], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(9, 9), (13, 8), (64, 65)])
def test_uniform_attention_is_the_identity_and_corners_never_move(height, width):
    uniform = ars_grid(torch.full((2, 1, height, width), 0.3, dtype=torch.float64), 2.0)
    torch.testing.assert_close(uniform, identity(height, width, 2), **EXACT)
    x = normal(2, 3, height, width)
    torch.testing.assert_close(modulate(x, uniform), x, rtol=0, atol=1e-11)
    grid = ars_grid(attention(1, 1, height, width), 2.0)
    for axis, name in enumerate("xy"):
        ends = grid[:, :, [0, -1], 0] if name == "x" else grid[:, [0, -1], :, 1].mT
        assert torch.equal(ends, torch.tensor([-1.0, 1.0], dtype=torch.float64).expand_as(ends)), axis


@given(seed=st.integers(0, 1000), sigma=st.floats(0.5, 5.0), contrast=st.floats(0, 8))
def test_order_survives_whatever_the_attention(seed, sigma, contrast):
    changes = jacobian(ars_grid(attention(1, 1, 16, 19, seed=seed, contrast=contrast), sigma))
    # Below rounding the points of very high contrast coincide; they never swap.
    assert changes.diagonal(dim1=-2, dim2=-1).min() > -1e-13


def test_slope_of_the_grid_is_the_covariance_of_what_it_sees():
    """dT/du = Cov_w(v) / sigma^2, far from the border and for a kernel that its cut does not reach."""
    a, sigma = attention(1, 1, 65, 65, contrast=0.5), 5.0
    a = gaussian_blur(a, 2.0)
    grid = pixels(ars_grid(a, sigma))[0]
    measured = (grid[33, 33] - grid[33, 31]) / 2
    vy, vx = np.mgrid[:65, :65]
    weight = a[0, 0].numpy() * np.exp(-((vy - 33) ** 2 + (vx - 32) ** 2) / (2 * sigma**2))
    weight /= weight.sum()
    mean = (weight * vx).sum(), (weight * vy).sum()
    expected = (
        np.array([(weight * (vx - mean[0]) * (v - m)).sum() for v, m in zip((vx, vy), mean, strict=True)])
        / sigma**2
    )
    # The kernel is cut at 3 sigma: a per cent of its second moment is outside.
    np.testing.assert_allclose(measured, expected, rtol=0, atol=0.05)


def test_points_crowd_where_attention_is_high():
    a = torch.ones(1, 1, 40, 40, dtype=torch.float64)
    a[..., 15:25, 15:25] = 20
    changes = jacobian(ars_grid(a, 4.0))
    assert changes[0, 20, 20].diagonal().max() < 0.8
    assert changes.diagonal(dim1=-2, dim2=-1).max() > 1.5


def test_jacobian_of_an_affine_grid_and_of_free_offsets():
    grid = identity(8, 12) @ torch.tensor([[0.5, 0.0], [0.0, -0.25]], dtype=torch.float64)
    torch.testing.assert_close(
        jacobian(grid), torch.diag(torch.tensor([0.5, -0.25])).double().expand(1, 7, 11, 2, 2), **EXACT
    )
    free = identity(32, 32) + 1.5 * 2 / 31 * normal(1, 32, 32, 2)
    assert torch.linalg.det(jacobian(free)).min() < 0  # the control of C4


def test_edge_saliency_looks_for_detail_and_is_uniform_without_any():
    x = torch.zeros(1, 2, 32, 32)
    x[..., 8:12, 8:12] = normal(1, 2, 4, 4).float()
    a = edge_saliency(x)
    assert a.shape == (1, 1, 32, 32)
    assert a[0, 0, 10, 10] > 5 * a[0, 0, 28, 28] >= 5 * 0.05 - 1e-6
    torch.testing.assert_close(edge_saliency(3 * x + 1), a, rtol=1e-3, atol=1e-3)
    assert edge_saliency(torch.zeros(1, 1, 16, 16)).unique().numel() == 1
    assert edge_saliency(x, power=0).unique().numel() == 1


def test_learned_saliency_starts_uniform_with_mean_one():
    with training.seeded(0):
        module = LearnedSaliency(3)
    x = normal(2, 3, 20, 24).float()
    torch.testing.assert_close(module(x), torch.full((2, 1, 20, 24), 1.05), rtol=0, atol=1e-5)
    torch.nn.init.normal_(module.second.weight, generator=generator())
    torch.testing.assert_close(module(x).mean((1, 2, 3)), torch.full((2,), 1.05), rtol=0, atol=1e-4)


# --- there and back ---------------------------------------------------------------------------------------


def test_magnification_is_one_without_stretching_and_four_on_half_the_grid():
    labels = torch.zeros(2, 33, 33, dtype=torch.int64)
    labels[:, 12:21, 10:18] = 1
    uniform = ars_grid(torch.ones(2, 1, 33, 33, dtype=torch.float64), 4.0)
    assert magnification(uniform, labels).tolist() == pytest.approx([1, 1])
    assert magnification(uniform / 2, labels).tolist() == pytest.approx([4, 4])


def test_modulation_is_map_coordinates():
    x, grid = normal(2, 3, 17, 21), ars_grid(attention(2, 1, 17, 21), 3.0)
    read = modulate(x, grid)
    for b, (x0, y0) in enumerate(np.moveaxis(pixels(grid), -1, 1)):
        for c in range(3):
            expected = map_coordinates(x[b, c].numpy(), [y0, x0], order=1, mode="nearest")
            np.testing.assert_allclose(read[b, c], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("height", "width", "stride"), [(16, 16, 2), (16, 24, 4), (20, 12, 2)])
def test_demodulation_is_scipys_linear_interpolation(height, width, stride):
    grid = ars_grid(attention(2, 1, height, width), 2.0)
    points = sample_points(grid, stride)
    y = normal(2, 3, height // stride, width // stride)
    made = demodulate(y, *bary_weights(points, height, width), height, width)
    wanted = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2)
    for b, sites in enumerate(points.flatten(1, 2).numpy()):
        values = y[b].flatten(1).numpy()
        expected = LinearNDInterpolator(sites, values.T)(wanted).T
        outside = np.isnan(expected)
        assert 0 < outside[0].mean() < 0.5
        nearest = cKDTree(sites).query(wanted)[1]
        expected[outside] = values[:, nearest][outside]
        np.testing.assert_allclose(made[b].flatten(1), expected, rtol=0, atol=1e-6)


def test_weights_are_barycentric():
    points = sample_points(ars_grid(attention(1, 1, 24, 24), 3.0), 2)
    index, weight = bary_weights(points, 24, 24)
    assert index.shape == weight.shape == (1, 24 * 24, 3)
    torch.testing.assert_close(weight.sum(-1), torch.ones(1, 576, dtype=torch.float64), **EXACT)
    assert weight.min() > -1e-9
    # Inside the hull the corners, weighted, are the pixel itself.
    wanted = np.stack(np.meshgrid(np.arange(24), np.arange(24)), -1).reshape(-1, 2).astype(float)
    inside = Delaunay(points[0].flatten(0, 1).numpy()).find_simplex(wanted) >= 0
    corners = points[0].flatten(0, 1)[index[0]]
    mixed = (corners * weight[0, ..., None]).sum(1)
    np.testing.assert_allclose(mixed[inside], wanted[inside], rtol=0, atol=1e-9)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_plane_comes_back_and_so_does_everything_at_stride_one(stride):
    grid = ars_grid(attention(1, 1, 16, 16), 2.0)
    ramp = identity(16, 16).movedim(-1, 1) * torch.tensor([2.0, -3.0]).reshape(1, 2, 1, 1) + 1
    kept = modulate(ramp, grid)[..., ::stride, ::stride]
    points = sample_points(grid, stride)
    made = demodulate(kept, *bary_weights(points, 16, 16), 16, 16)
    # Within the hull of the samples a linear function is interpolated without error.
    low = int(points[..., 0, 0].max().ceil()), int(points[:, :, -1, 0].min().floor())
    assert low[0] == 0
    inside = made[..., : int(points[:, -1, :, 1].min()) + 1, : low[1] + 1]
    torch.testing.assert_close(inside, ramp[..., : inside.shape[-2], : inside.shape[-1]], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("height", "width", "stride"), [(4, 4, 2), (3, 5, 2), (1, 4, 4), (5, 2, 1)])
def test_upsampling_keeps_the_lattice_of_the_stride(height, width, stride):
    y = normal(2, 3, height, width)
    made = upsample(y, stride)
    assert made.shape == (2, 3, height * stride, width * stride)
    torch.testing.assert_close(made[..., ::stride, ::stride], y, **EXACT)
    rows, columns = np.mgrid[: height * stride, : width * stride] / stride
    expected = map_coordinates(y[1, 2].numpy(), [rows, columns], order=1, mode="nearest")
    np.testing.assert_allclose(made[1, 2], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("height", "width", "factor"), [(9, 12, 4), (16, 16, 8), (5, 2, 3), (7, 7, 1)])
def test_band_limited_keeps_pixels_and_cosines(height, width, factor):
    x = normal(2, 1, height, width)
    fine = band_limited(x, factor)
    assert fine.shape == (2, 1, (height - 1) * factor + 1, (width - 1) * factor + 1)
    torch.testing.assert_close(fine[..., ::factor, ::factor], x, **EXACT)
    wave = torch.cos(math.pi * torch.arange(height, dtype=torch.float64) * 3 / (height - 1))
    between = torch.arange((height - 1) * factor + 1, dtype=torch.float64) / factor
    expected = torch.cos(math.pi * between * 3 / (height - 1))
    made = band_limited(wave.reshape(1, 1, -1, 1).expand(-1, -1, -1, width), factor)[0, 0, :, 0]
    torch.testing.assert_close(made, expected, **EXACT)


def test_a_cosine_read_twice_as_densely_has_half_its_frequency():
    wave = torch.cos(2 * math.pi * 0.4 * torch.arange(100, dtype=torch.float64)).reshape(1, 1, 1, 100)
    for spacing, frequency in ((0.5, 0.2), (1.0, 0.4)):
        x = 2 * spacing * torch.arange(100, dtype=torch.float64) / 99 - 1
        read = modulate(wave, torch.stack([x, torch.zeros_like(x)], -1)[None, None])
        assert spectra.frequencies(1, 100)[0, spectra.power(read)[0, 0, 0].argmax()] == frequency


def test_without_stretching_the_ratio_stays_and_half_a_pixel_of_blur_lowers_it():
    """C1's controls: the drop on a text scene is the grid's, as long as reading does not blur."""
    x = text_scenes(4, "test", generator=generator()).images.double()
    fine, own = band_limited(x, 4), ars_grid(edge_saliency(x), 8.0)
    half = (identity(64, 64, 4) + 1 / 63).clamp(-1, 1)
    before = spectra.alias_ratio(x, 2)

    def drop(maps, grid):
        return float((1 - spectra.alias_ratio(modulate(maps, grid), 2) / before).mean())

    assert drop(fine, own) > 0.2
    assert abs(drop(fine, own.roll(1, 0))) < 0.15  # another scene's grid
    assert abs(drop(x, identity(64, 64, 4))) < 1e-9
    assert drop(x, half) > drop(fine, half) + 0.05
    page = images.photographs(["page"], 128)[:, None].double()
    blurred = modulate(page, (identity(128, 128) + 1 / 127).clamp(-1, 1))
    assert spectra.alias_ratio(blurred, 2) < 0.7 * spectra.alias_ratio(page, 2)


def test_strokes_come_back_only_with_their_own_warp():
    """C2b's number falls below plain downsampling once demodulation is left out or takes another grid."""
    x, labels = text_scenes(6, "test", generator=generator(1))
    maps, grid = labels[:, None].float(), ars_grid(edge_saliency(x), 8.0)
    kept = modulate(maps, grid)[..., ::2, ::2]
    index, weight = bary_weights(sample_points(grid, 2), 64, 64)

    def iou(made):
        return float(mean_iou(torch.cat([1 - made, made], 1), labels))

    plain = iou(upsample(maps[..., ::2, ::2], 2))
    assert iou(demodulate(kept, index, weight, 64, 64)) > plain + 0.1
    assert torch.equal(back(kept, grid, 2), demodulate(kept, index, weight, 64, 64))
    assert iou(upsample(kept, 2)) < plain
    assert iou(demodulate(kept, index.roll(1, 0), weight.roll(1, 0), 64, 64)) < plain


def test_without_its_grid_strokes_come_back_no_better_than_from_a_blur():
    """C2b's controls: the uniform grid and a blur stay below the threshold, the scene's own does not."""
    x, labels = text_scenes(6, "test", generator=generator(1))
    maps = labels[:, None].float()

    def iou(made):
        return float(mean_iou(torch.cat([1 - made, made], 1), labels))

    def there_and_back(grid):
        kept = modulate(maps, grid)[..., ::2, ::2]
        return iou(demodulate(kept, *bary_weights(sample_points(grid, 2), 64, 64), 64, 64))

    plain = iou(upsample(maps[..., ::2, ::2], 2))
    uniform = uniform_grid(edge_saliency(x), 8.0)
    assert there_and_back(ars_grid(edge_saliency(x), 8.0)) > plain + 0.1
    assert there_and_back(uniform) < plain + 0.1
    assert iou(upsample(gaussian_blur(maps, 0.6)[..., ::2, ::2], 2)) < plain + 0.1
    assert magnification(uniform, labels).tolist() == pytest.approx([1] * 6)  # and C4's text is not stretched


@pytest.mark.parametrize("target", ["attention", "feature", "samples"])
def test_gradients(target):
    a, x = attention(1, 1, 8, 8, contrast=0.5), normal(1, 2, 8, 8)
    grid = ars_grid(a, 1.5)
    index, weight = bary_weights(sample_points(grid, 2), 8, 8)
    runs = {
        "attention": (lambda a: modulate(x, ars_grid(a, 1.5)), a),
        "feature": (lambda x: modulate(x, grid), x),
        "samples": (lambda y: demodulate(y, index, weight, 8, 8), normal(1, 2, 4, 4)),
    }
    run, value = runs[target]
    assert torch.autograd.gradcheck(run, (value.requires_grad_(),))


def test_lprm_attends_to_its_neighbours_and_gradcheck():
    with training.seeded(0):
        module = LPRM(2, dilations=(1, 2)).double()
    x = normal(1, 2, 7, 6).requires_grad_()
    assert torch.autograd.gradcheck(module, (x,), fast_mode=True)
    torch.nn.init.zeros_(module.query.weight)
    torch.nn.init.zeros_(module.query.bias)
    # Without a query every neighbour counts alike: a mean of the values over 3 x 3 and its dilation.
    value = module.value(x)
    means = []
    for d in (1, 2):
        around = torch.nn.functional.pad(value, [d] * 4, mode="replicate")
        shifts = [around[..., d * i : d * i + 7, d * j : d * j + 6] for i in range(3) for j in range(3)]
        means.append(torch.stack(shifts).mean(0))
    torch.testing.assert_close(module(x), x + module.out(means[0] + means[1]), **EXACT)
    far = torch.autograd.grad(module(x)[0, 0, 3, 3], x)[0].abs().sum(1)[0] > 0
    rows, columns = torch.nonzero(far, as_tuple=True)
    assert (rows - 3).abs().max() == 2
    assert (columns - 3).abs().max() == 2


# --- the network and its task -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", [{}, {"blur": True}, {"sfm": "edge"}, {"sfm": "learned"}, {"sfm": "edge", "lprm": True}]
)
@pytest.mark.parametrize("stride", [2, 4])
def test_every_network_gives_scores_at_full_size_and_gradients(how, stride):
    with training.seeded(1):
        net = SegNet(**how, stride=stride, sigma=3.0)
    x, labels = text_scenes(2, "train", size=32, generator=generator())
    stages = net.stages(x)
    assert stages["scores"].shape == (2, 2, 32, 32)
    assert stages["strided"].shape[-1] == stages["low"].shape[-1] == 32 // stride
    cross_entropy(stages["scores"], labels).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_a_given_warp_is_the_one_that_the_network_makes_and_another_one_is_not():
    with training.seeded(1):
        net = SegNet(sfm="edge")
    x = text_scenes(3, "test", generator=generator()).images
    given = warp(ars_grid(edge_saliency(x), 8.0), 2)
    assert given.shape == (3, 8, 64, 64)
    assert torch.equal(net(torch.cat([x, given], 1)), net(x))
    assert not torch.equal(net(torch.cat([x, given.roll(1, 0)], 1)), net(x))


def test_with_the_uniform_grid_sfm_is_the_strided_network():
    with training.seeded(1):
        net, plain = SegNet(sfm="edge"), SegNet()
    plain.load_state_dict(net.state_dict())
    x = text_scenes(2, "test", generator=generator()).images
    uniform = warp(ars_grid(torch.ones_like(x), 8.0), 2)
    with torch.no_grad():
        ours, theirs = net.stages(torch.cat([x, uniform], 1)), plain.stages(x)
    for name in ("before", "strided", "low"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-4)
    # Triangles and squares agree at the samples; between them both are means of the same corners.
    torch.testing.assert_close(ours["scores"][..., ::2, ::2], theirs["low"], rtol=0, atol=1e-4)


def test_training_learns_and_is_deterministic():
    x, labels = text_scenes(24, "train", size=32, generator=generator())
    carried = torch.cat([x, warp(ars_grid(edge_saliency(x), 4.0), 2)], 1)

    def run():
        return training.train(
            partial(SegNet, sfm="edge", sigma=4.0), [3], training.shuffled(carried, labels),
            (carried[None], labels[None]), training.Recipe(epochs=20, batch=12, lr=1e-2, weight_decay=0),
            loss=partial(cross_entropy, weight=torch.tensor([1.0, 4.0])), score=mean_iou, together=False,
        )  # fmt: skip

    first, second = run(), run()
    assert torch.equal(first.loss, second.loss)
    assert first.loss[0, -1] < first.loss[0, 0] - 0.05


def test_added_parameters():
    plain = cost.parameters(SegNet())
    assert plain == 1266
    assert cost.parameters(SegNet(sfm="edge")) == plain
    assert cost.parameters(SegNet(sfm="learned", lprm=True)) == plain + 657 + 24


def test_scenes_are_what_they_say():
    train, test = (text_scenes(8, part, generator=generator(2)) for part in ("train", "test"))
    again = text_scenes(8, "train", generator=generator(2))
    assert torch.equal(train.images, again.images)
    assert not torch.equal(train.labels, test.labels)
    for scene in (train, test):
        assert scene.images.shape == (8, 1, 64, 64)
        rows, columns = (scene.labels.amax(axis).sum(-1) for axis in (2, 1))
        assert rows.max() <= 24
        assert columns.max() <= 24
        assert scene.labels.sum((1, 2)).min() >= 0.1 * 24 * 24
        darker = scene.images - gaussian_blur(scene.images, 3.0)
        assert darker[:, 0][scene.labels == 1].mean() < -0.1
    large = text_scenes(8, "train", zoom=3.0, generator=generator(2))
    assert spectra.alias_ratio(large.images, 2).mean() < 0.8 * spectra.alias_ratio(train.images, 2).mean()
    assert text_scenes(2, "test", patch=64, generator=generator()).labels.amax((1, 2)).min() == 1
    assert text_scenes(1, "test", size=48, generator=generator()).images.shape == (1, 1, 48, 48)


def test_iou_by_hand():
    labels = torch.tensor([[[0, 0], [1, 1]]])
    scores = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [1.0, 1.0]]]])
    assert class_iou(scores, labels).tolist() == pytest.approx([1 / 2, 2 / 3])
    assert mean_iou(scores[None], labels[None]).tolist() == pytest.approx([7 / 12])


def test_calling_everything_a_class_is_once_as_good_as_itself():
    labels = torch.tensor([[[0, 0], [0, 1]]])
    scores = torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    assert over_calling_all(class_iou(scores, labels), labels).tolist() == [0, 1]
    right = torch.stack([1 - labels, labels], 1).float()
    assert over_calling_all(class_iou(right, labels), labels).tolist() == pytest.approx([4 / 3, 4])


def test_grid_sample_is_torchs_with_corners_aligned():
    x, grid = normal(1, 2, 6, 7), ars_grid(attention(1, 1, 6, 7), 1.0)
    assert torch.equal(modulate(x, grid), grid_sample(x, grid, align_corners=True))


# --- bad input --------------------------------------------------------------------------------------------

MAPS = torch.zeros(1, 1, 16, 16)
REFUSED = [
    (lambda: ars_grid(MAPS + 1, 8.0), r"sigma must be <= 5 for maps of 16 pixels.*got 8.0"),
    (lambda: ars_grid(MAPS + 1, 0.0), "sigma must be > 0, got 0.0"),
    (lambda: ars_grid(torch.ones(1, 2, 16, 16), 1.0), r"\(batch, 1, height, width\), got \(1, 2, 16, 16\)"),
    (lambda: gaussian_blur(MAPS, -1.0), "sigma must be > 0, got -1.0"),
    (lambda: edge_saliency(MAPS, floor=0.0), "floor must be > 0, got 0.0"),
    (lambda: edge_saliency(MAPS, power=-1.0), "power must be >= 0, got -1.0"),
    (lambda: edge_saliency(MAPS[0]), r"x must be \(batch, channels, height, width\), got \(1, 16, 16\)"),
    (lambda: LearnedSaliency(2, floor=0.0), "floor must be > 0, got 0.0"),
    (lambda: sample_points(torch.zeros(1, 16, 16, 2), 3), "stride must be >= 1 and divide 16 x 16, got 3"),
    (lambda: sample_points(torch.zeros(1, 16, 16, 2), 0), "stride must be >= 1 .* got 0"),
    (lambda: bary_weights(torch.zeros(1, 1, 8, 2), 8, 8), r"coords must be .* got \(1, 1, 8, 2\)"),
    (lambda: bary_weights(torch.full((1, 2, 2, 2), math.nan), 8, 8), "coords must be finite"),
    (lambda: band_limited(MAPS, 0), "factor must be >= 1 and sides >= 2, got 0"),
    (lambda: band_limited(MAPS[..., :1], 2), "factor must be >= 1 and sides >= 2"),
    (lambda: LPRM(2, ()), r"dilations must be one or more numbers >= 1, got \(\)"),
    (lambda: LPRM(2, (1, 0)), r"dilations must be .* got \(1, 0\)"),
    (lambda: SegNet(sfm="edges"), "sfm must be None, 'edge' or 'learned', got 'edges'"),
    (lambda: SegNet(sfm="edge", blur=True), "blur goes without sfm"),
    (lambda: SegNet(lprm=True), "lprm with it"),
    (lambda: SegNet(sfm="edge")(MAPS), r"sigma must be <= 5 for maps of 16 pixels"),
    (lambda: text_scenes(0, "train", generator=generator()), "n must be >= 1, got 0"),
    (lambda: text_scenes(1, "all", generator=generator()), "part must be 'train' or 'test', got 'all'"),
    (lambda: text_scenes(1, "test", zoom=0.5, generator=generator()), "zoom must be >= 1, got 0.5"),
    (lambda: text_scenes(1, "test", size=16, generator=generator()), "patch <= size.*patch=24, size=16"),
    (lambda: text_scenes(1, "test", size=100, patch=90, generator=generator()), "patch <= 72.*patch=90"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- the mechanism taken out ------------------------------------------------------------------------------


def uniform_grid(attention, sigma):
    """The sampling grid is uniform, whatever the attention."""
    return identity(*attention.shape[-2:], len(attention)).to(attention)


MUTATIONS = [("ars_grid", uniform_grid)]
