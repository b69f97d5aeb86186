"""InceptionNeXt's mixer is one sparse convolution, and its ConvNeXt is that of other people."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import conv2d, cross_entropy, gelu
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
)

from fourfold import cost
from fourfold.hybrids.inceptionnext import (
    RESNET_50,
    SIZES,
    ChannelNorm,
    ConvMlp,
    InceptionDWConv2d,
    LinearMlp,
    MetaNeXt,
    MetaNeXtBlock,
    PartialDWConv2d,
    Spec,
    as_dense_depthwise,
    branch_channels,
    convnext_tiny,
    cut_kernels,
    depthwise,
    grouped_pointwise,
    mixer_cost,
    restarted,
)
from fourfold.judging import parameters, records
from fourfold.training import Recipe, seeded, shuffled, train

from ..draws import normal

BANDS_OF_FIVE = partial(InceptionDWConv2d, band=5)
EXACT = {"rtol": 0, "atol": 1e-12}


def small(**how) -> MetaNeXt:
    given = {"mlp_ratios": (2, 3), "stem": 2, "scale0": None} | how
    with seeded(0):
        return MetaNeXt(Spec((1, 2), (8, 16), BANDS_OF_FIVE, **given), 1, 2)


def on_meta(make):
    with torch.device("meta"):
        return make()


# --- the mixer --------------------------------------------------------------------------------------------


def difference(mixer: nn.Module, weight: torch.Tensor, x: torch.Tensor) -> float:
    """The verdict's number of I1."""
    bias = as_dense_depthwise(mixer)[1]
    dense = conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=x.shape[1])
    return float((mixer(x) - dense).detach().abs().max())


@pytest.mark.parametrize("dim", [8, 20, 64])
@pytest.mark.parametrize("size", [(20, 23), (7, 7), (1, 4)])
def test_four_branches_are_one_sparse_depthwise_convolution(dim, size):
    with seeded(0):
        mixer = InceptionDWConv2d(dim).double()
    weight, _ = as_dense_depthwise(mixer)
    assert weight.shape == (dim, 1, 11, 11)
    assert difference(mixer, weight, normal(2, dim, *size)) < 1e-12


def test_a_kernel_turned_by_a_quarter_is_another_mixer():
    with seeded(0):
        mixer = InceptionDWConv2d(20).double()
    weight, _ = as_dense_depthwise(mixer)
    assert difference(mixer, weight.rot90(1, (2, 3)), normal(2, 20, 20, 23)) > 1e-2


def test_channels_go_to_the_branches_in_order():
    """Untouched, square, row, column: seen from where a single pixel spreads to."""
    mixer = InceptionDWConv2d(20)
    with torch.no_grad():
        for value in mixer.parameters():
            value.fill_(1.0 if value.ndim == 4 else 0.0)
        x = torch.zeros(1, 20, 13, 13)
        x[..., 6, 6] = 1
        y = mixer(x)[0]
    reached = [(int(c.any(1).sum()), int(c.any(0).sum())) for c in y]
    assert reached == [(1, 1)] * 14 + [(3, 3)] * 2 + [(1, 11)] * 2 + [(11, 1)] * 2


@pytest.mark.parametrize(("ratio", "branch"), [(1.0, 20), (0.5, 10), (1 / 8, 2)])
def test_partial_convolution_takes_the_last_channels(ratio, branch):
    with seeded(0):
        mixer = PartialDWConv2d(20, 5, ratio).double()
    x = normal(2, 20, 9, 6)
    y = mixer(x)
    assert torch.equal(y[:, : 20 - branch], x[:, : 20 - branch])
    torch.testing.assert_close(y[:, 20 - branch :], mixer.square(x[:, 20 - branch :]), **EXACT)
    weight, _ = as_dense_depthwise(mixer)
    assert difference(mixer, weight, x) < 1e-12


@pytest.mark.parametrize(
    ("kind", "kernel", "ratio", "make"),
    [
        ("inception", 11, 1 / 8, InceptionDWConv2d),
        ("inception", 9, 1 / 4, partial(InceptionDWConv2d, band=9, ratio=1 / 4)),
        ("partial", 7, 1.0, partial(PartialDWConv2d, kernel=7)),
        ("partial", 3, 3 / 8, partial(PartialDWConv2d, ratio=3 / 8)),
    ],
)
@pytest.mark.parametrize("dim", [20, 64])
def test_the_closed_forms_are_what_is_counted(kind, kernel, ratio, make, dim):
    mixer, found = make(dim), mixer_cost(kind, dim, kernel, ratio)
    assert found.parameters == cost.parameters(mixer)
    assert found.macs * 9 * 7 == cost.macs(mixer, (1, dim, 9, 7))
    convolved = sum(m.in_channels for m in mixer.modules() if isinstance(m, nn.Conv2d))
    assert found.moved == 2 * convolved


def test_a_grouped_pointwise_convolution_costs_almost_as_much_as_seven_by_seven():
    assert cost.macs(grouped_pointwise(96), (1, 96, 1, 1)) == 48 * 96
    assert mixer_cost("partial", 96, 7, 1).macs == 49 * 96


def test_gradients_are_right_in_float64():
    mixer = InceptionDWConv2d(8, 3, 5).double()
    weights = dict(mixer.named_parameters())

    def apply(x, *values):
        return functional_call(mixer, dict(zip(weights, values, strict=True)), (x,))

    x = normal(1, 8, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(apply, (x, *weights.values()))


# --- the networks -----------------------------------------------------------------------------------------


def to_hugging_face(depths: tuple[int, ...]) -> dict[str, str]:
    """Modules of our ConvNeXt -> their names in transformers."""
    names = {
        "stages.0.0": "convnext.embeddings.patch_embeddings",
        "stages.0.1": "convnext.embeddings.layernorm",
        "head.0": "convnext.layernorm",
        "head.1": "classifier",
    }
    place = 1
    for stage, depth in enumerate(depths):
        theirs = f"convnext.encoder.stages.{stage}"
        if stage:
            names |= {f"stages.{place}.{i}": f"{theirs}.downsampling_layer.{i}" for i in range(2)}
            place += 1
        for layer in range(depth):
            ours, block = f"stages.{place}", f"{theirs}.layers.{layer}"
            names |= {
                f"{ours}.mixer.square": f"{block}.dwconv",
                f"{ours}.norm": f"{block}.layernorm",
                f"{ours}.mlp.up": f"{block}.pwconv1",
                f"{ours}.mlp.down": f"{block}.pwconv2",
                f"{ours}.scale": f"{block}.layer_scale_parameter",
            }
            place += 1
    return names


def test_convnext_is_that_of_transformers(jolted):
    spec = convnext_tiny()._replace(depths=(1, 2, 1, 1), dims=(16, 24, 32, 40))
    ours = jolted(MetaNeXt, spec, 3, 10, by=0.05).float()
    config = ConvNextConfig(hidden_sizes=[16, 24, 32, 40], depths=[1, 2, 1, 1], num_labels=10)
    theirs = ConvNextForImageClassification(config).eval()
    names, renamed = to_hugging_face((1, 2, 1, 1)), {}
    for name, value in ours.state_dict().items():
        module, _, field = name.rpartition(".")
        renamed[names[name] if name in names else f"{names[module]}.{field}"] = value
    theirs.load_state_dict(renamed)
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x).logits, rtol=0, atol=1e-5)


def test_peers_are_counted_on_other_peoples_networks():
    resnet = on_meta(lambda: ResNetForImageClassification(ResNetConfig(num_labels=1000)))
    assert (cost.parameters(resnet), cost.macs(resnet, (1, 3, 224, 224))) == RESNET_50
    convnext = on_meta(lambda: ConvNextForImageClassification(ConvNextConfig(num_labels=1000)))
    assert cost.parameters(convnext) == 28_589_128


PUBLISHED = {
    **{name: SIZES[name] for name in SIZES},
    **{f"{k}, {r:g}": convnext_tiny(k, r) for k, r in ((7, 1), (5, 1), (3, 1))},
    **{f"3, {r:g}": convnext_tiny(3, r) for r in (1 / 2, 3 / 8, 1 / 4, 1 / 8, 1 / 16)},
}


def test_published_parameters():
    found = [cost.parameters(on_meta(lambda s=spec: MetaNeXt(s, 3, 1000))) for spec in PUBLISHED.values()]
    assert found == [
        4_156_520, 28_055_680, 49_374_016, 86_672_136, 28_589_128, 28_430_152, 28_324_168, 28_291_048,
        28_282_768, 28_274_488, 28_266_208, 28_262_068,
    ]  # fmt: skip


def test_a_ratio_of_four_in_the_last_stage_misses_the_published_number():
    wide = on_meta(lambda: MetaNeXt(SIZES["T"]._replace(mlp_ratios=(4, 4, 4, 4)), 3, 1000))
    assert round(cost.parameters(wide) / 1e6) == 32


def test_a_block_is_its_formula_with_one_residual(jolted):
    block = jolted(lambda: MetaNeXtBlock(8, PartialDWConv2d(8), "layer", 2, "linear", scale0=0.5), by=0.05)
    x = normal(2, 8, 5, 6)
    last = block.norm(block.mixer(x)).permute(0, 2, 3, 1)
    change = gelu(last @ block.mlp.up.weight.mT + block.mlp.up.bias) @ block.mlp.down.weight.mT
    expected = x + ((change + block.mlp.down.bias) * block.scale).permute(0, 3, 1, 2)
    torch.testing.assert_close(block(x), expected, **EXACT)


def test_both_ways_of_computing_an_mlp_are_one_function():
    conv, linear, x = ConvMlp(6, 12).double(), LinearMlp(6, 12).double(), normal(2, 6, 5, 3)
    linear.load_state_dict({n: v.flatten(1) if v.ndim == 4 else v for n, v in conv.state_dict().items()})
    torch.testing.assert_close(linear(x), conv(x), **EXACT)


def test_weights_start_as_published_or_as_torch_makes_them():
    for net, low, high in ((small(), 0.01, 0.03), (restarted(small()), 0.1, 1)):
        first = net.stages[0][0]
        assert low < float(first.weight.detach().std()) < high
        assert bool(first.bias.eq(0).all()) == (high < 0.1)


def test_channel_norm_normalises_every_position():
    y = ChannelNorm(6, 0.0).double()(normal(2, 6, 3, 4))
    torch.testing.assert_close(y.mean(1), torch.zeros(2, 3, 4).double(), **EXACT)
    torch.testing.assert_close(y.var(1, correction=0), torch.ones(2, 3, 4).double(), **EXACT)


def learned(bars, net=small):
    x, y = bars(128, 0)
    test = tuple(part[None] for part in bars(100, 1))
    return train(net, (0,), shuffled(x, y), test, Recipe(epochs=8, batch=16, lr=1e-2), together=False)


def test_it_learns_and_twice_the_same(bars):
    first, again = learned(bars), learned(bars)
    assert torch.equal(first.loss, again.loss)
    assert float(first.accuracy[0, -1]) > 0.85


def test_cut_kernels_are_those_of_a_smaller_convolution():
    with seeded(0):
        large, small_one = PartialDWConv2d(6, 7).double(), PartialDWConv2d(6, 3).double()
    with torch.no_grad():
        small_one.square.weight.copy_(large.square.weight[..., 2:5, 2:5])
        small_one.square.bias.copy_(large.square.bias)
    x, before = normal(2, 6, 9, 8), large.square.weight.clone()
    torch.testing.assert_close(cut_kernels(large, 3)(x), small_one(x), **EXACT)
    assert torch.equal(large.square.weight, before)
    assert torch.equal(cut_kernels(large, 7)(x), large(x))


def test_cut_bands_are_shorter_bands():
    with seeded(0):
        mixer = InceptionDWConv2d(8).double()
    weight, _ = as_dense_depthwise(mixer)
    inside = torch.zeros(11, 11, dtype=torch.float64)
    inside[4:7, 4:7] = 1
    found, _ = as_dense_depthwise(cut_kernels(mixer, 3))
    assert torch.equal(found, weight * inside)


# --- mutations --------------------------------------------------------------------------------------------


def dense_convolution(dim, height, width):
    """Convolutions run over all channels instead of one each."""
    return nn.Conv2d(dim, dim, (height, width), padding=(height // 2, width // 2))


def bands_untouched(self, x):
    """Rows and columns stay as they are; only the square is convolved."""
    same, square, row, column = x.split(self.split, 1)
    # Times zero, so that the bands' weights keep a gradient.
    nothing = 0 * (self.row(row) + self.column(column))
    return torch.cat([same, self.square(square), row + nothing, column + nothing], 1)


MUTATIONS = [("depthwise", dense_convolution), ("InceptionDWConv2d.forward", bands_untouched)]


@pytest.mark.parametrize(("target", "mutation"), MUTATIONS)
def test_what_is_mutated_still_trains(monkeypatch, target, mutation, bars):
    x, y = bars(16, 0)
    before = small()
    given = before(x)
    monkeypatch.setattr(f"fourfold.hybrids.inceptionnext.{target}", mutation)
    net = small()
    assert cost.parameters(net) != cost.parameters(before) or not torch.equal(net(x), given)
    cross_entropy(net(x), y).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in net.parameters())


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"depths": [9]}, r"depths = \[9\]: expected list\[int\].*1\.\.6"),
        ({"dims": [64, 64]}, r"depths = \[2\]: expected as many values as dims, which has 2"),
        ({"band": 10}, r"band = 10: expected int, 5 \| 7 \| 9 \| 11"),
        ({"ratio": 0.5}, r"ratio = 0.5: expected float, 0\.125\.\.0\.333"),
        ({"n_train": 110}, "n_train = 110: expected a multiple of 25"),
    ],
)
def test_parameters_that_no_network_can_have_are_refused_by_name(given, message):
    record = records.load("inceptionnext")
    with pytest.raises(parameters.ParameterError, match=message):
        parameters.validate(record, record.values("quick") | given)


REFUSED = [
    (lambda: branch_channels(8, 0), r"ratio must be in \(0, 1\], got 0"),
    (lambda: branch_channels(8, 0.1), r"dim \* ratio >= 1, got 8 \* 0.1"),
    (lambda: depthwise(8, 3, 4), "a kernel's width must be odd and >= 1, got 4"),
    (lambda: InceptionDWConv2d(8, band=10), "a kernel's width must be odd and >= 1, got 10"),
    (lambda: InceptionDWConv2d(8, ratio=0.5), r"ratio must be in \(0, 1/3\].*got 0.5"),
    (lambda: PartialDWConv2d(8, 3, 1.5), r"ratio must be in \(0, 1\], got 1.5"),
    (lambda: mixer_cost("dense", 8, 3, 1), "kind must be one of 'inception', 'partial', got 'dense'"),
    (lambda: grouped_pointwise(64), "group must be >= 1 and divide dim = 64, got 48"),
    (lambda: cut_kernels(PartialDWConv2d(8, 5), 2), "side must be odd and >= 1, got 2"),
    (lambda: small(norm="group"), "norm must be one of 'batch', 'layer', got 'group'"),
    (lambda: small(mlp="dense"), "mlp must be one of 'conv', 'linear', got 'dense'"),
    (lambda: small(head="cls"), "head must be one of 'mlp', 'linear', got 'cls'"),
    (lambda: small(mlp_ratios=(4,)), r"mlp_ratios must be one for each of dims = \[8, 16\], got \[4\]"),
    (lambda: small(mlp_ratios=(4, 0)), "mlp_ratio must be >= 1, got 0"),
    (lambda: small(stem=0), "stem must be >= 1, got 0"),
    (lambda: MetaNeXt(Spec((), ()), 1, 2), "dims must have at least one stage, got none"),
    (lambda: MetaNeXt(SIZES["T"], 0, 2), "in_chans must be >= 1, got 0"),
    (
        lambda: MetaNeXt(Spec((1, 0), (8, 8), mlp_ratios=(2, 2)), 1, 2),
        "depth of stage 1 must be >= 1, got 0",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
