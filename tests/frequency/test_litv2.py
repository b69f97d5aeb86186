"""LITv2: HiLo is attention in windows beside attention to their means, and costs what the paper says."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.nn.functional import avg_pool2d, scaled_dot_product_attention
from transformers import PvtConfig, SwinConfig
from transformers.models.pvt.modeling_pvt import PvtEfficientSelfAttention
from transformers.models.swin.modeling_swin import SwinAttention

from fourfold import cost
from fourfold.frequency.litv2 import (
    MSA,
    SIZES,
    SRA,
    ConvFFN,
    HiLo,
    LITBlock,
    LITv2,
    TokenMerging,
    WindowAttention,
    attend,
    from_windows,
    high_share,
    litv2,
    litv2_count,
    share_weights,
    split_heads,
    to_windows,
)
from fourfold.judging import records
from fourfold.judging.parameters import ParameterError, validate
from fourfold.training import Recipe, seeded, shuffled, train

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}


def drawn(make, *args, seed: int = 0, **kwargs):
    with seeded(seed):
        return make(*args, **kwargs).double()


def small(mixer, seed: int = 0, **kwargs) -> LITv2:
    sizes = {"embed": 8, "depths": (2,), "classes": 3, "channels": 1, **kwargs}
    return drawn(LITv2, mixer=mixer, seed=seed, **sizes)


def hilo_mixer(_, dim):
    return HiLo(dim, 4, 2, 0.5)


# --- oracles ----------------------------------------------------------------------------------------------


def sdpa(q, k, v, heads):
    """torch's own attention on (tokens, dim)."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(0, 1) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1)


@pytest.mark.parametrize(("height", "width", "window"), [(4, 4, 2), (6, 10, 2), (9, 6, 3), (7, 7, 7)])
def test_hifi_is_attention_in_each_window_and_lofi_attention_to_average_pools(height, width, window):
    layer, x = drawn(HiLo, 12, 6, window, 0.5), normal(2, height, width, 12)
    hi, lo = layer.hifi(x), layer.lofi(x)
    assert hi.shape == lo.shape == (2, height, width, 6)
    for y in range(0, height, window):
        for z in range(0, width, window):
            square = x[1, y : y + window, z : z + window].flatten(0, 1)
            found = layer.hi_projection(sdpa(*layer.hi_qkv(square).chunk(3, -1), layer.hi_heads))
            torch.testing.assert_close(hi[1, y : y + window, z : z + window].flatten(0, 1), found, **EXACT)
    means = avg_pool2d(x.permute(0, 3, 1, 2), window)[1].flatten(1).T
    k, v = layer.lo_key_value(means).chunk(2, -1)
    found = layer.lo_projection(sdpa(layer.lo_query(x[1].flatten(0, 1)), k, v, layer.lo_heads))
    torch.testing.assert_close(lo[1].flatten(0, 1), found, **EXACT)
    torch.testing.assert_close(
        layer(x.flatten(1, 2), height, width), torch.cat([hi, lo], -1).flatten(1, 2), **EXACT
    )


def test_standard_attention_is_torchs():
    ours, theirs, x = (
        drawn(MSA, 12, 3),
        nn.MultiheadAttention(12, 3, batch_first=True).double(),
        normal(2, 20, 12),
    )
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.qkv.weight.data, ours.qkv.bias.data
    theirs.out_proj.load_state_dict(ours.projection.state_dict())
    torch.testing.assert_close(ours(x, 4, 5), theirs(x, x, x)[0], **EXACT)
    torch.testing.assert_close(ours.projection(ours.heads_apart(x)), ours(x, 5, 4), **EXACT)


def test_window_attention_is_swins_without_shift_and_bias():
    config = SwinConfig(attn_implementation="eager", attention_probs_dropout_prob=0.0)
    theirs = SwinAttention(config, 12, 3, 3).double().eval()
    for weight in theirs.relative_position_bias.parameters():
        nn.init.zeros_(weight)
    ours, x = drawn(WindowAttention, 12, 3, window=3), normal(2, 6, 9, 12)
    for third, name in enumerate(("q_proj", "k_proj", "v_proj")):
        getattr(theirs, name).weight.data = ours.qkv.weight.data.chunk(3)[third]
        getattr(theirs, name).bias.data = ours.qkv.bias.data.chunk(3)[third]
    theirs.o_proj.load_state_dict(ours.projection.state_dict())
    windows = theirs(to_windows(x, 3).flatten(0, 1))[0].unflatten(0, (2, -1))
    # Swin takes its softmax in float32.
    expected = from_windows(windows, 6).flatten(1, 2)
    torch.testing.assert_close(ours(x.flatten(1, 2), 6, 9), expected, rtol=0, atol=1e-6)


def test_spatial_reduction_attention_is_pvts():
    theirs = PvtEfficientSelfAttention(PvtConfig(layer_norm_eps=1e-5), 12, 3, 2).double().eval()
    ours, x = drawn(SRA, 12, 3), normal(2, 24, 12)
    theirs.query.load_state_dict(ours.query.state_dict())
    for half, layer in enumerate((theirs.key, theirs.value)):
        layer.weight.data = ours.key_value.weight.data.chunk(2)[half]
        layer.bias.data = ours.key_value.bias.data.chunk(2)[half]
    theirs.sequence_reduction.load_state_dict(ours.reduction.state_dict())
    theirs.layer_norm.load_state_dict(ours.norm.state_dict())
    torch.testing.assert_close(ours(x, 4, 6), ours.projection(theirs(x, 4, 6)[0]), **EXACT)


# --- identities -------------------------------------------------------------------------------------------


def distance(alpha: float, window: int, peer: MSA) -> float:
    """The verdict's number of C1."""
    layer, x = drawn(HiLo, 12, 6, window, alpha), normal(2, 16, 12)
    share_weights(layer, peer)
    return (layer(x, 4, 4) - peer(x, 4, 4)).abs().max().item()


def test_one_token_windows_are_standard_attention_and_no_lofi_is_window_attention():
    for alpha in (0.0, 0.5, 1.0):
        assert distance(alpha, 1, MSA(12, 6).double()) <= 1e-12
    for window in (2, 4):
        assert distance(0.0, window, WindowAttention(12, 6, window).double()) <= 1e-12
    # One window as large as the map is standard attention too.
    assert distance(0.0, 4, MSA(12, 6).double()) <= 1e-12


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_same_weights_that_look_elsewhere_are_another_function(alpha):
    assert distance(alpha, 2, MSA(12, 6).double()) > 1e-2  # the control of C1


def test_a_token_reaches_its_window_in_hifi_and_everything_in_lofi():
    layer, x = drawn(HiLo, 8, 4, 2, 0.5), normal(1, 6, 6, 8)
    moved = x.clone()
    moved[0, 2, 5] += 1
    inside = torch.zeros(6, 6, dtype=torch.bool)
    inside[2:4, 4:6] = True
    changed = (layer.hifi(moved) != layer.hifi(x)).any(-1)[0]
    assert torch.equal(changed, inside)
    assert (layer.lofi(moved) != layer.lofi(x)).any(-1).all()


def test_windows_come_back_and_are_squares():
    x = normal(2, 6, 10, 3)
    assert torch.equal(from_windows(to_windows(x, 2), 6), x)
    assert torch.equal(to_windows(x, 2)[:, 6].reshape(2, 2, 2, 3), x[:, 2:4, 2:4])


@pytest.mark.parametrize(
    ("heads", "alpha", "split"),
    [
        (12, 0.9, (2, 10)),
        (4, 0.5, (2, 2)),
        (10, 0.7, (3, 7)),
        (3, 0.9, (1, 2)),
        (5, 0.0, (5, 0)),
        (5, 1.0, (0, 5)),
    ],
)
def test_heads_are_dealt_in_whole_numbers(heads, alpha, split):
    assert split_heads(heads, alpha) == split


def test_only_the_depthwise_convolution_knows_where_a_token_is():
    net = small(lambda _, dim: MSA(dim, 4))
    images = normal(2, 1, 16, 16)
    turned = images.reshape(2, 1, 4, 4, 16).flip(2).reshape(2, 1, 16, 16)  # rows of patches, bottom up
    assert (net(images) - net(turned)).abs().max() > 1e-4
    for ffn in (m for m in net.modules() if isinstance(m, ConvFFN)):
        with torch.no_grad():
            centre = ffn.depthwise.weight[..., 1, 1].clone()
            ffn.depthwise.weight.zero_()[..., 1, 1] = centre
    torch.testing.assert_close(net(images), net(turned), rtol=0, atol=1e-12)


def test_a_block_without_a_mixer_has_no_attention():
    block, x = drawn(LITBlock, 8, None), normal(2, 25, 8)
    torch.testing.assert_close(block(x, 5, 5), x + block.ffn(block.norm_ffn(x), 5, 5), **EXACT)


def test_token_merging_starts_without_offsets_and_ignores_them():
    merging, x = drawn(TokenMerging, 4), normal(2, 4, 6, 6)
    assert not any(weight.any() for weight in merging.offsets.parameters())
    assert merging(x).shape == (2, 8, 3, 3)


def test_what_the_mixers_see_is_what_they_are_given():
    net, images = small(hilo_mixer, depths=(1, 2), embed=8), normal(2, 1, 16, 16)
    seen = net.mixer_inputs(images)
    assert [tuple(x.shape) for x in seen] == [(2, 4, 4, 8), (2, 2, 2, 16), (2, 2, 2, 16)]
    first = net.stages[0][0]
    tokens = net.norm_embed(net.embed(images).flatten(2).transpose(1, 2))
    torch.testing.assert_close(seen[0].flatten(1, 2), first.norm_mixer(tokens), **EXACT)
    assert not any(m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize(
    ("make", "side"),
    [
        (lambda: HiLo(4, 2, 2, 0.5), 4),
        (lambda: HiLo(4, 2, 1), 2),
        (lambda: WindowAttention(4, 2, 3), 3),
        (lambda: SRA(4, 2), 4),
        (lambda: ConvFFN(2), 3),
    ],
)
def test_gradients(make, side):
    layer = drawn(make)
    weights = dict(layer.named_parameters())
    width = 2 if isinstance(layer, ConvFFN) else 4
    x = normal(1, side**2, width).requires_grad_()

    def run(x, *values):
        return functional_call(layer, dict(zip(weights, values, strict=True)), (x, side, side))

    assert torch.autograd.gradcheck(run, (x, *weights.values()), fast_mode=True)


# --- cost -------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(
    heads=st.integers(1, 5), window=st.integers(1, 4), alpha=st.floats(0, 1), rows=st.integers(1, 3),
    columns=st.integers(1, 3),
)  # fmt: skip
@example(heads=1, window=1, alpha=0.0, rows=1, columns=1)
def test_a_layers_closed_form_is_what_torch_counts(heads, window, alpha, rows, columns):
    height, width, dim = rows * window, columns * window, 3 * heads
    with torch.device("meta"):
        layers = [
            HiLo(dim, heads, window, alpha),
            MSA(dim, heads),
            WindowAttention(dim, heads, window),
            SRA(dim, heads, window),
        ]
    for layer in layers:
        form = layer.macs(height, width)
        counted = cost.macs(layer, (1, height * width, dim), height, width)
        assert counted == (sum(form) if isinstance(form, tuple) else form)


def cost_on_14(window: int = 2, alpha: float = 0.9) -> int:
    """Of the published layer: width 768, twelve heads."""
    with torch.device("meta"):
        return sum(HiLo(768, 12, window, alpha).macs(14, 14))


def test_the_published_layer_and_its_controls():
    assert cost_on_14() == 298_296_320
    assert cost_on_14(window=7) == 245_027_840
    assert cost_on_14(window=4) == 332_398_592  # padded to 16 x 16
    assert cost_on_14(window=1) == 521_428_992  # no pooling: standard attention, and C2 fails
    assert cost_on_14() < cost_on_14(alpha=0.0) < cost_on_14(window=1)


@pytest.mark.parametrize(
    ("size", "image", "millions", "giga"),
    [
        ("S", 224, 27.844, 3.734),
        ("M", 224, 48.830, 7.479),
        ("B", 224, 86.521, 13.194),
        ("B", 384, 86.521, 39.709),
    ],
)
def test_the_published_networks(size, image, millions, giga):
    count = litv2_count(size, image=image)
    assert (round(count.parameters / 1e6, 3), round(count.flops / 1e9, 3)) == (millions, giga)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_a_networks_closed_form_is_what_torch_counts(size, alpha):
    with torch.device("meta"):
        net = litv2(size, alpha)
    count = litv2_count(size, alpha, 64)
    assert cost.parameters(net) == count.parameters
    assert cost.macs(net, (1, 3, 64, 64)) == count.products


def test_the_last_number_of_the_published_row_is_not_what_the_formula_gives():
    row = {0.0: 3.97, 0.2: 3.88, 0.4: 3.82, 0.5: 3.77, 0.7: 3.74, 0.9: 3.73}
    assert max(abs(litv2_count("S", a).flops / 1e9 - g) for a, g in row.items()) <= 0.01
    assert abs(litv2_count("S", 1.0).flops / 1e9 - 3.70) > 0.01
    standard = litv2_count("S", windows=(None, None, 1, 1)).flops / 1e9
    assert min(abs(standard - g) for g in row.values()) > 0.01


# --- frequencies and training -----------------------------------------------------------------------------


def test_share_of_high_frequencies_is_that_of_cosines_and_noise():
    x = torch.arange(8, dtype=torch.float64)
    slow, fast = (torch.cos(2 * torch.pi * k * x / 8).expand(8, 8) for k in (1, 4))
    maps = torch.stack([3 + slow, fast], -1)[None]
    # At Nyquist a cosine has its whole power, twice that of a slower one of the same amplitude.
    assert high_share(maps) == pytest.approx(2 / 3)
    assert high_share(maps[..., :1]) == pytest.approx(0)
    # Of the 63 frequencies of an 8 x 8 map without the mean 12 lie within 0.25 cycles per token.
    assert high_share(normal(4000, 8, 8, 1)) == pytest.approx(51 / 63, abs=0.01)


def test_untrained_hifi_carries_a_smaller_share_of_high_frequencies_than_lofi():
    for seed in range(4):
        layer, x = drawn(HiLo, 24, 4, 2, 0.5, seed=seed), normal(8, 8, 8, 24, seed=seed)
        with torch.no_grad():
            assert high_share(layer.hifi(x)) < high_share(layer.lofi(x))


@pytest.mark.parametrize("mixer", [hilo_mixer, lambda _, dim: MSA(dim, 4), lambda _, dim: None])
def test_networks_train_and_repeat(mixer):
    images = normal(12, 1, 16, 16)
    labels = torch.arange(12) % 3
    test = images.expand(2, *images.shape), labels.expand(2, 12)
    recipe = Recipe(15, batch=6, lr=1e-2)

    def make():
        return LITv2(embed=8, depths=(1,), mixer=mixer, classes=3, channels=1)

    def run():
        return train(make, [0, 1], shuffled(images, labels), test, recipe, together=False)

    first = run()
    assert (first.loss[:, -2:].mean(1) < first.loss[:, :2].mean(1)).all()
    assert torch.equal(first.loss, run().loss)


# --- bad input --------------------------------------------------------------------------------------------


X = torch.zeros(1, 15, 12)
REFUSED = [
    (lambda: HiLo(12, 5), "heads must be >= 1 and divide dim, got heads=5, dim=12"),
    (lambda: MSA(12, 0), "heads must be >= 1 and divide dim, got heads=0, dim=12"),
    (lambda: SRA(2, 4), "heads must be >= 1 and divide dim, got heads=4, dim=2"),
    (lambda: HiLo(12, 4, 0), "window must be >= 1, got 0"),
    (lambda: HiLo(12, 4, 2, 1.1), r"alpha must be in 0\.\.1, got 1\.1"),
    (lambda: HiLo(12, 4, 2, -0.1), r"alpha must be in 0\.\.1, got -0\.1"),
    (lambda: HiLo(12, 4, 2, float("nan")), r"alpha must be in 0\.\.1, got nan"),
    (lambda: split_heads(0, 0.5), "heads must be >= 1, got 0"),
    (lambda: HiLo(12, 4, 2, 0.0)(X, 3, 5), "divide the map, got 2 for 3 x 5"),
    (lambda: HiLo(12, 4, 2, 1.0)(X, 3, 5), "divide the map, got 2 for 3 x 5"),
    (lambda: WindowAttention(12, 4)(X, 3, 5), "divide the map, got 7 for 3 x 5"),
    (lambda: WindowAttention(12, 4).macs(3, 5), "divide the map, got 7 for 3 x 5"),
    (lambda: SRA(12, 4)(X, 3, 5), "divide the map, got 2 for 3 x 5"),
    (lambda: HiLo(12, 4)(X, 4, 4), r"expected 4 x 4 = 16 tokens, got \(1, 15, 12\)"),
    (lambda: to_windows(torch.zeros(1, 4, 4, 1), 0), "window must be >= 1 .*got 0"),
    (lambda: share_weights(HiLo(12, 4), MSA(8, 4)), "peer must be 12 wide as hilo is, got 8"),
    (lambda: litv2("L"), "size must be one of S, M, B, got 'L'"),
    (lambda: litv2("S", 2.0), r"alpha must be in 0\.\.1, got 2\.0"),
    (lambda: litv2_count("XS"), "size must be one of S, M, B, got 'XS'"),
    (lambda: litv2_count("S", image=100), "image must be a multiple of 32, got 100"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_attention_weights_sum_to_one():
    q, k = normal(2, 3, 5, 12), normal(2, 3, 7, 12)
    torch.testing.assert_close(attend(q, k, torch.ones_like(k), 4), torch.ones_like(q), **EXACT)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"window": 7}, "^window = 7: expected a divisor of grid, which is 8$"),
        ({"grid": 14, "window": 4}, "^window = 4: expected a divisor of grid, which is 14$"),
        ({"width": 25}, "^width = 25: expected a multiple of heads, which is 4$"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused_by_name(given, message):
    record = records.load("litv2")
    with pytest.raises(ParameterError, match=message):
        validate(record, record.values("quick") | given)


# --- the mechanism taken out ------------------------------------------------------------------------------


def unpooled(self, x):
    """Lo-Fi heads attend to every token instead of to the means of windows."""
    tokens = x.flatten(1, 2)
    k, v = self.lo_key_value(tokens).chunk(2, -1)
    return self.lo_projection(attend(self.lo_query(tokens), k, v, self.lo_heads).reshape(*x.shape[:3], -1))


MUTATIONS = [("HiLo.lofi", unpooled)]
