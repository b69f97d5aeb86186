"""H-DenseUNet is the network of its authors, and what the chapter measures fails where its parts are gone."""

from functools import partial

import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn
from torch.func import functional_call
from torch.nn.functional import conv2d, cross_entropy, interpolate, max_pool2d, relu

from fourfold import cost
from fourfold.hybrids.h_denseunet import (
    DEEP_THREE_D,
    THREE_D,
    THREE_D_SKIPS,
    TUMOUR,
    TWO_D,
    WEIGHTS,
    DenseUNet,
    HDenseUNet,
    SliceBySlice,
    Spec,
    adjacent_slices,
    best_decision,
    blended,
    convolutions,
    decide,
    dice,
    fitting,
    kept_bytes,
    over_slices,
    phantoms,
    stack_slices,
    surroundings,
    weighted_cross_entropy,
    within,
)
from fourfold.judging import parameters, records
from fourfold.training import Recipe, shuffled, stream, train

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}
SMALL = fitting(4, 4, (1, 1))
DEEP = SMALL._replace(dim=3, in_chans=4)


def on_meta(spec: Spec) -> DenseUNet:
    with torch.device("meta"):
        return DenseUNet(spec)


def hybrid(three_d: Spec = DEEP, **how) -> HDenseUNet:
    return HDenseUNet(SliceBySlice(DenseUNet(SMALL)), three_d, **{"scale": 1.0, **how})


# --- oracles ----------------------------------------------------------------------------------------------


def by_hand(net: DenseUNet, x: torch.Tensor) -> torch.Tensor:
    """A 2-D network of two blocks of one layer, as the paper's table writes it down."""

    def normed(norm, x):
        mean, var = (v.view(-1, 1, 1) for v in (norm[0].running_mean, norm[0].running_var))
        gain, shift = (v.view(-1, 1, 1) for v in (norm[0].weight, norm[0].bias))
        return relu((x - mean) / (var + norm[0].eps).sqrt() * gain + shift)

    def layer(dense, x):
        narrow = conv2d(normed(dense.norm1, x), dense.narrow.weight)
        return torch.cat([x, conv2d(normed(dense.norm2, narrow), dense.wide.weight, padding=1)], 1)

    def step(i, x, added):
        convolution, _, norm = net.steps[i]
        x = interpolate(x, scale_factor=2) + added
        return normed(norm, conv2d(x, convolution.weight, convolution.bias, padding=1))

    box0 = normed(net.stem[1], conv2d(x, net.stem[0].weight, stride=2, padding=3))
    box1 = layer(net.blocks[0][0], max_pool2d(box0, 3, 2, 1))
    norm, halve, _ = net.transitions[0]
    small = (
        conv2d(normed(norm, box1), halve.weight).unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).mean((-1, -3))
    )
    end = normed(net.norm, layer(net.blocks[1][0], small))
    up = step(0, end, conv2d(box1, net.project.weight, net.project.bias))
    return conv2d(step(2, step(1, up, box0), 0), net.head.weight, net.head.bias)


def test_a_network_is_the_papers_written_down(jolted):
    net = jolted(DenseUNet, SMALL)
    x = normal(2, 3, 16, 24)
    torch.testing.assert_close(net(x), by_hand(net, x), **EXACT)


def test_published_sizes_and_costs():
    sizes = {
        TWO_D: (167, 49_527_843),
        TWO_D._replace(skips="none"): (166, 44_862_339),
        THREE_D: (64, 15_977_467),
        THREE_D._replace(skips="projected"): (65, 16_227_955),
        THREE_D_SKIPS: (65, 9_617_131),
        DEEP_THREE_D._replace(skips="none"): (166, 94_691_043),
        DEEP_THREE_D: (167, 99_356_547),
    }
    for spec, expected in sizes.items():
        net = on_meta(spec)
        assert (convolutions(net), cost.parameters(net)) == expected
    assert TWO_D.block_chans == [384, 768, 2112, 2208]
    assert convolutions(on_meta(TWO_D._replace(growth=32, skips="none"))) == 166
    deep = (1, 4, 8, 224, 224)
    giga = {(THREE_D, deep): 117.2, (THREE_D_SKIPS, deep): 96.2, (DEEP_THREE_D, deep): 151.5}
    for (spec, shape), expected in giga.items():
        assert abs(cost.macs(on_meta(spec), shape) / 1e9 - expected) < 0.05
    assert abs(kept_bytes(on_meta(DEEP_THREE_D), *deep) / 1e9 - 1.062) < 1e-3
    assert abs(kept_bytes(on_meta(TWO_D), 8, 3, 224, 224) / 1e9 - 2.642) < 1e-3


def test_the_loss_is_torchs_without_its_division_by_weights():
    scores, labels = normal(2, 3, 5, 4, 3), torch.randint(3, (2, 5, 4, 3), generator=stream(0, "labels"))
    weight = torch.tensor(WEIGHTS, dtype=torch.float64)
    for trim in (0, 1):
        inner = within(5, trim)
        each = cross_entropy(scores[:, :, inner], labels[:, inner], weight=weight, reduction="none")
        ours = weighted_cross_entropy(scores, labels, trim=trim)
        torch.testing.assert_close(ours, each.mean(), **EXACT)
    divided = cross_entropy(scores[:, :, 1:-1], labels[:, 1:-1], weight=weight)
    assert abs(float(divided - ours)) > 0.1


def test_dice_is_the_f1_score_of_a_class():
    found, true = (torch.randint(3, (2, 3, 5, 4), generator=stream(seed, "maps")) for seed in (0, 1))
    for label in range(3):
        for volume in range(2):
            theirs = f1_score(true[volume].flatten(), found[volume].flatten(), labels=[label], average=None)
            assert abs(float(dice(found, true, label)[volume]) - float(theirs[0])) < 1e-9
    nothing = torch.zeros(1, 2, 2, 2)
    assert dice(nothing, nothing, TUMOUR) == 1
    assert dice(nothing, nothing + TUMOUR, TUMOUR) == 0


# --- slices -----------------------------------------------------------------------------------------------


def test_slices_have_their_neighbours_and_ends_repeat():
    volume = normal(2, 1, 5, 4, 3)
    images = adjacent_slices(volume)
    assert torch.equal(images[0], volume[0, 0, [0, 0, 1]])
    assert torch.equal(images[4], volume[0, 0, [3, 4, 4]])
    assert torch.equal(images[5 + 2], volume[1, 0, [1, 2, 3]])
    assert torch.equal(stack_slices(images, 5)[:, 1:2], volume)
    assert torch.equal(adjacent_slices(volume, 2)[3], volume[0, 0, [1, 2, 3, 4, 4]])
    assert torch.equal(adjacent_slices(volume, 0)[:, 0], volume.flatten(0, 2))


@pytest.mark.parametrize("along", ["strided", "full", "in-plane"])
def test_only_an_in_plane_network_sees_each_slice_by_itself(jolted, along):
    net = jolted(DenseUNet, DEEP._replace(along=along))
    volume = normal(1, 4, 8, 16, 8).requires_grad_()
    assert net(volume).shape == (1, 3, 8, 16, 8)
    (gradient,) = torch.autograd.grad(net(volume)[:, :, 2].sum(), volume)
    seen = gradient.abs().sum((0, 1, 3, 4)) > 0
    assert seen.tolist() == ([i == 2 for i in range(8)] if along == "in-plane" else [True] * 8)


def test_means_over_slices():
    scores = normal(2, 3, 4, 2, 5)
    averaged = over_slices(scores)
    torch.testing.assert_close(averaged[:, :, 1], scores[:, :, :3].mean(2), **EXACT)
    torch.testing.assert_close(averaged[:, :, 0], scores[:, :, :2].mean(2), **EXACT)
    assert torch.equal(over_slices(scores, 0), scores)


# --- the hybrid -------------------------------------------------------------------------------------------


def test_the_hybrid_is_its_parts_joined(jolted):
    net = jolted(hybrid)
    volume = normal(2, 1, 4, 8, 8)
    images = adjacent_slices(volume)
    flat, scores = net.two_d.two_d.features(images), net.two_d.two_d(images)
    deep = net.three_d.features(torch.cat([volume, stack_slices(scores, 4)], 1))
    torch.testing.assert_close(net(volume), net.fuse(deep + stack_slices(flat, 4)), **EXACT)
    assert torch.equal(net.two_d(volume), stack_slices(scores, 4))


@pytest.mark.parametrize("cut", [(), ("context",), ("sum",), ("context", "sum")])
def test_cut_places_let_no_gradient_through_and_change_no_score(jolted, cut):
    net, whole = jolted(hybrid, cut=cut), jolted(hybrid)
    volume = normal(1, 1, 4, 8, 8)
    assert torch.equal(net(volume), whole(volume))
    net(volume).square().sum().backward()
    frozen = all(weight.grad is None for weight in net.two_d.parameters())
    assert frozen == (len(cut) == 2)
    assert all(weight.grad is not None for weight in net.three_d.parameters())


def test_context_of_zeros_or_blur_hides_the_scores(jolted):
    volume = normal(1, 1, 4, 8, 8)
    for context, expected in (("zeros", torch.zeros(1, 3, 4, 8, 8, dtype=torch.float64)), ("blurred", None)):
        net = jolted(hybrid, context=context)
        given = net.guide(volume, normal(1, 3, 4, 8, 8))
        assert torch.equal(given, net.guide(volume, normal(1, 3, 4, 8, 8, seed=1)))
        assert expected is None or torch.equal(given, expected)
    # A voxel at the border has fewer neighbours.
    torch.testing.assert_close(given[0, 1, 0, 0, 0], volume[0, 0, :2, :2, :2].mean(), **EXACT)
    assert torch.equal(hybrid(scale=250.0).guide(volume, volume), 250 * volume)


def test_training_leaves_the_running_averages_of_the_2d_network():
    net = hybrid().train()
    assert not any(m.training for m in net.two_d.modules() if isinstance(m, nn.BatchNorm2d))
    assert all(m.training for m in net.three_d.modules())


@pytest.mark.parametrize("make", [partial(DenseUNet, SMALL), hybrid])
def test_gradients_are_right_in_float64(jolted, make):
    net = jolted(make)
    x = normal(1, 3, 8, 8) if isinstance(net, DenseUNet) else normal(1, 1, 4, 8, 8)
    assert torch.autograd.gradcheck(net, (x.requires_grad_(),), fast_mode=True)
    weights = dict(net.named_parameters())

    def apply(*values):
        return functional_call(net, dict(zip(weights, values, strict=True)), (x.detach(),))

    assert torch.autograd.gradcheck(apply, tuple(weights.values()), fast_mode=True)


# --- decisions, volumes, memory ---------------------------------------------------------------------------


def test_a_threshold_decides_on_tumours_alone():
    scores = torch.log(torch.tensor([[0.1, 0.5, 0.4], [0.5, 0.2, 0.3], [0.1, 0.1, 0.8]])).T[
        None, :, None, None
    ]
    for threshold, expected in ((0.9, [1, 0, 0]), (0.5, [1, 0, 2]), (0.35, [2, 0, 2]), (0.0, [2, 2, 2])):
        assert decide(scores, threshold).flatten().tolist() == expected
    truth = torch.tensor([0, 0, 2])[None, None, None]
    assert best_decision(scores, truth) == (0.0, 0.45)


def test_the_share_of_the_mean_over_slices_is_chosen_too():
    # A tumour in all slices, which the scores miss in the middle one: their mean does not.
    scores = torch.zeros(1, 3, 5, 1, 2)
    scores[:, TUMOUR, :, 0, 0] = torch.tensor([4.0, 4.0, -4.0, 4.0, 4.0])
    truth = torch.tensor([TUMOUR, 0]).expand(1, 5, 1, 2)
    share, threshold = best_decision(scores, truth, (0.0, 1.0))
    assert share == 1
    assert torch.equal(decide(blended(scores, share), threshold) == TUMOUR, truth == TUMOUR)
    torch.testing.assert_close(blended(scores, 0.5), 0.5 * (scores + over_slices(scores)))


def test_phantoms_are_what_they_say():
    drawn = phantoms(6, stream(0, "test"), size=64)
    again = phantoms(6, stream(0, "test"), size=64)
    assert torch.equal(drawn.volumes, again.volumes)
    assert drawn.volumes.shape == (6, 1, 8, 64, 64)
    assert drawn.correlation.tolist() == pytest.approx([0, 0.5, 0.9] * 2)
    assert all((drawn.labels == label).flatten(1).any(1).all() for label in range(3))
    clean = phantoms(6, stream(0, "test"), size=64, noise=0.0).volumes
    assert clean[:, 0][drawn.labels == TUMOUR].unique().tolist() == pytest.approx([0.2])
    assert clean[:, 0][drawn.labels == 1].unique().tolist() == pytest.approx([0.5])
    noise = (drawn.volumes - clean)[:, 0]
    for one, wanted in zip(noise, drawn.correlation, strict=True):
        found = torch.corrcoef(torch.stack([one[:-1].flatten(), one[1:].flatten()]))[0, 1]
        assert abs(float(found - wanted)) < 0.05
    assert abs(float(noise.std()) - 2.2 * 0.35 / 3) < 0.02


def test_surroundings_are_means_around_a_voxel():
    volume = normal(1, 1, 6, 9, 9)
    found = surroundings(volume)
    assert found.shape == (1, 6, 9, 9, 6)
    assert torch.equal(found[..., 0], volume[:, 0])
    torch.testing.assert_close(found[0, 2, 4, 4, 2], volume[0, 0, 1:4, 3:6, 3:6].mean(), **EXACT)


def test_kept_bytes_are_what_a_closed_form_says():
    with torch.device("meta"):
        net = nn.Sequential(nn.Conv2d(2, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 4, 1, bias=False))
    # The input, and what ReLU puts out, which the second convolution keeps as well.
    assert kept_bytes(net, 5, 2, 7, 7) == 4 * 5 * 7 * 7 * (2 + 3)
    one, two = (kept_bytes(on_meta(SMALL), n, 3, 16, 16) for n in (1, 2))
    assert one < two < 2.01 * one


def learned(labels=None):
    drawn, test = (phantoms(80, stream(seed, "volumes"), size=16, depth=4, noise=0.1) for seed in (0, 1))
    # A lean network learns enough in a second if it starts alone, as the 2-D one does in the paper.
    return train(
        lambda: SliceBySlice(DenseUNet(fitting(8, 8, (1, 1)))),
        (0,),
        shuffled(drawn.volumes, drawn.labels if labels is None else labels),
        (test.volumes[None, :12], test.labels[None, :12]),
        Recipe(epochs=4, batch=4, lr=2e-2, weight_decay=0),
        loss=weighted_cross_entropy,
        score=lambda scores, labels: dice(decide(scores[0], 0.8), labels[0], TUMOUR).mean()[None],
        together=False,
    )


def test_it_learns_and_does_not_where_the_labels_say_nothing():
    first, again = learned(), learned()
    assert torch.equal(first.loss, again.loss)
    assert float(first.score[0, -1]) > 0.25
    noise = torch.randint(3, (80, 4, 16, 16), generator=stream(0, "noise"))
    assert float(learned(noise).score[0, -1]) < 0.1


# --- mutations --------------------------------------------------------------------------------------------


def flat_kernels(kit, side):
    """Kernels of the 3-D network and of the fusion see one slice; their strides stay."""
    return kit.sides(side, 1)


MUTATIONS = [("_Kit.kernel", flat_kernels)]


@pytest.mark.parametrize(("target", "mutation"), MUTATIONS)
def test_what_is_mutated_still_trains(monkeypatch, target, mutation):
    monkeypatch.setattr(f"fourfold.hybrids.h_denseunet.{target}", mutation)
    net, drawn = hybrid(), phantoms(2, stream(0, "train"), size=16, depth=4)
    weighted_cross_entropy(net(drawn.volumes), drawn.labels).backward()
    assert all(weight.grad.isfinite().all() for weight in net.parameters() if weight.grad is not None)


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"size": 40}, "size = 40: expected a multiple of 32"),
        ({"depth": 6}, "depth = 6: expected a multiple of 4"),
        ({"layers": [2]}, "layers = .*: expected"),
        ({"correlations": [0.5, 1.5]}, "correlations = .*: expected"),
    ],
)
def test_parameters_that_no_network_can_have_are_refused_by_name(given, message):
    record = records.load("h_denseunet")
    with pytest.raises(parameters.ParameterError, match=message):
        parameters.validate(record, record.values("quick") | given)


REFUSED = [
    (lambda: adjacent_slices(torch.zeros(1, 2, 4, 8, 8)), r"volume must be .*, got \(1, 2, 4, 8, 8\)"),
    (lambda: adjacent_slices(torch.zeros(1, 1, 4, 8, 8), -1), "reach must be >= 0, got -1"),
    (
        lambda: stack_slices(torch.zeros(5, 1, 2, 2), 4),
        "depth must be >= 1 and divide the number of images = 5",
    ),
    (lambda: DenseUNet(SMALL._replace(skips="some")), "skips must be one of .*, got 'some'"),
    (lambda: DenseUNet(SMALL._replace(along="z")), "along must be one of .*, got 'z'"),
    (lambda: DenseUNet(SMALL._replace(dim=1)), r"dim must be in 2\.\.3, got 1"),
    (lambda: DenseUNet(SMALL._replace(growth=0)), "growth must be >= 1, got 0"),
    (lambda: DenseUNet(SMALL._replace(widths=(4, 4))), "widths must be 3, one more than layers"),
    (lambda: on_meta(THREE_D._replace(skips="all")), r"widths must start with \(224, 192, 96\) for skips"),
    (lambda: hybrid(SMALL), "three_d must have dim 3, 4 in_chans and last width 4, got"),
    (lambda: hybrid(context="none"), "context must be one of .*, got 'none'"),
    (lambda: hybrid(cut=["all"]), "cut must be one of 'context', 'sum', got 'all'"),
    (lambda: hybrid(scale=-1.0), "scale must be finite and >= 0, got -1"),
    (
        lambda: weighted_cross_entropy(normal(1, 3, 3, 1, 1), torch.zeros(1, 3, 1, 1).long(), (1, 1)),
        "3 numbers > 0",
    ),
    (lambda: within(4, 2), r"trim must be in 0\.\.1 \(depth is 4\), got 2"),
    (lambda: over_slices(normal(1, 3, 3, 1, 1), -1), "reach must be >= 0, got -1"),
    (lambda: dice(torch.zeros(1, 2), torch.zeros(1, 3), 1), r"must have one shape, got \(1, 2\), \(1, 3\)"),
    (lambda: phantoms(0, stream(0, "x")), "n must be >= 1, got 0"),
    (lambda: phantoms(1, stream(0, "x"), size=2), "size must be >= 4, got 2"),
    (lambda: phantoms(1, stream(0, "x"), noise=-1), "noise must be finite and >= 0, got -1"),
    (lambda: phantoms(1, stream(0, "x"), correlations=(2.0,)), r"correlations must be in 0\.\.1, got \[2"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
