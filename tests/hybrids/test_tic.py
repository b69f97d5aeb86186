"""MSA-Conv is attention that others wrote, through a window; without it the chapter's measurements fail."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import avg_pool2d, conv2d, cross_entropy, pad, scaled_dot_product_attention, unfold
from transformers import ViTConfig
from transformers.models.vit.modeling_vit import ViTLayer

from fourfold import attention, cost
from fourfold.hybrids.tic import (
    BagOfPatches,
    InterPool,
    MSAConv2d,
    TiC,
    canvas,
    global_attention,
    influence,
    macs,
    masked_attention,
    msa_conv,
    multi_directional_shift,
    offsets,
    one_way_shift,
    resampled,
    resized,
    share_outside,
    sides,
)
from fourfold.judging import parameters, records
from fourfold.training import Recipe, seeded, shuffled, train

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}
SETTINGS = [(3, 1, 1), (3, 2, 4), (5, 1, 8), ((5, 1), 2, 1), ((1, 3), 1, 2)]
"""Window, dilation and heads: standard, dilated, depthwise, and two bars."""


def maps(channels: int = 8, height: int = 7, width: int = 9) -> tuple[torch.Tensor, ...]:
    return tuple(normal(3, 2, channels, height, width))


def layer(*sizes: int, seed: int = 0, **how) -> MSAConv2d:
    with seeded(seed):
        return MSAConv2d(*sizes, **how).double().eval()


def small(seed: int = 0, **how) -> TiC:
    with seeded(seed):
        return TiC(1, 3, [8, 16], [1, 2], **{"heads": 4} | how).double().eval()


# --- oracles ----------------------------------------------------------------------------------------------


def dense(q, k, v, window, dilation, heads, masked=False):
    """torch's attention over the padded map, whose margin is zero, with a mask that leaves the window."""
    batch, channels, height, width = q.shape
    down, right = (side // 2 * dilation for side in sides(window))
    high, wide = height + 2 * down, width + 2 * right
    looks = torch.zeros(height, width, high, wide, dtype=torch.bool)
    for y in range(height):
        for x in range(width):
            looks[y, x, y : y + 2 * down + 1 : dilation, x : x + 2 * right + 1 : dilation] = True
    if masked:
        outside = torch.ones(high, wide, dtype=torch.bool)
        outside[down : down + height, right : right + width] = False
        looks &= ~outside

    def split(x):
        return x.unflatten(1, (heads, -1)).flatten(3).mT

    k, v = (split(pad(x, (right, right, down, down))) for x in (k, v))
    mask = torch.where(looks.reshape(height * width, -1), 0.0, -math.inf).double()
    out = scaled_dot_product_attention(split(q), k, v, attn_mask=mask)
    return out.mT.reshape(batch, channels, height, width)


@pytest.mark.parametrize("how", SETTINGS)
def test_it_is_dense_attention_with_the_window_for_a_mask(how):
    q, k, v = maps()
    out, weights = msa_conv(q, k, v, *how)
    torch.testing.assert_close(out, dense(q, k, v, *how), **EXACT)
    count = math.prod(sides(how[0]))
    assert weights.shape == (2, how[2], count, 7 * 9)
    torch.testing.assert_close(weights.sum(2), torch.ones(2, how[2], 63, dtype=torch.float64), **EXACT)


def test_masking_the_padding_changes_the_border_and_nothing_else():
    q, k, v = maps()
    change = (msa_conv(q, k, v)[0] - dense(q, k, v, 3, 1, 1, masked=True)).abs().amax((0, 1))
    assert change[1:-1, 1:-1].max() < 1e-12
    border = torch.cat([change[0], change[-1], change[:, 0], change[:, -1]])
    assert border.min() > 1e-4
    assert border.max() > 1e-2


@pytest.mark.parametrize("how", SETTINGS)
def test_the_reference_of_the_page_is_the_one_of_this_file(how):
    q, k, v = maps()
    torch.testing.assert_close(masked_attention(q, k, v, *how), dense(q, k, v, *how), **EXACT)
    hidden = masked_attention(q, k, v, *how, margin=False)
    torch.testing.assert_close(hidden, dense(q, k, v, *how, masked=True), **EXACT)


@pytest.mark.parametrize(("window", "dilation"), [(3, 1), (3, 2), (5, 1)])
def test_it_is_a_weighted_sum_of_what_torch_unfolds(window, dilation):
    q, k, v = maps()
    out, weights = msa_conv(q, k, v, window, dilation, 4)
    columns = unfold(v, window, dilation, dilation * (window // 2)).unflatten(1, (4, 2, -1))
    torch.testing.assert_close((weights[:, :, None] * columns).sum(3).reshape(v.shape), out, **EXACT)


def test_it_is_what_four_loops_compute():
    q, k, v = normal(3, 1, 2, 4, 5)
    expected = torch.zeros_like(q)
    for y in range(4):
        for x in range(5):
            places = [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
            inside = [0 <= a < 4 and 0 <= b < 5 for a, b in places]
            scores = [
                float(q[0, :, y, x] @ k[0, :, a, b]) / math.sqrt(2) if there else 0.0
                for (a, b), there in zip(places, inside, strict=True)
            ]
            total = sum(map(math.exp, scores))
            for score, (a, b), there in zip(scores, places, inside, strict=True):
                if there:
                    expected[0, :, y, x] += math.exp(score) / total * v[0, :, a, b]
    torch.testing.assert_close(msa_conv(q, k, v)[0], expected, **EXACT)


def test_a_window_of_one_gives_values_back_and_without_queries_it_is_a_mean():
    q, k, v = maps()
    torch.testing.assert_close(msa_conv(q, k, v, 1)[0], v, **EXACT)
    for window in (3, 5):
        mean = avg_pool2d(v, window, 1, window // 2, count_include_pad=True)
        torch.testing.assert_close(msa_conv(torch.zeros_like(q), k, v, window, 1, 2)[0], mean, **EXACT)


def test_a_window_that_wraps_around_all_of_the_map_is_global_attention():
    q, k, v = maps(8, 5, 3)
    out = msa_conv(q, k, v, (5, 3), 1, 2, "circular")[0]
    torch.testing.assert_close(out, global_attention(q, k, v, 2), **EXACT)


def test_the_uniform_layer_is_the_attending_one_without_queries():
    x = normal(2, 8, 6, 7)
    attending, uniform = (layer(8, 6, heads=4, operator=operator) for operator in ("attention", "uniform"))
    with torch.no_grad():
        attending.qkv.weight[:8] = 0
        attending.qkv.bias[:8] = 0
    torch.testing.assert_close(attending(x), uniform(x), **EXACT)


def test_without_an_operator_the_layer_is_a_convolution():
    x, ours = normal(2, 4, 6, 7), layer(4, 6, operator="none", norm=False, stride=2)
    v = conv2d(x, ours.qkv.weight[8:], ours.qkv.bias[8:])
    expected = conv2d(x + v, ours.fuse[0].weight, stride=2, padding=1).relu()
    torch.testing.assert_close(ours(x), expected, **EXACT)


def test_the_released_layer_step_by_step():
    x, ours = normal(2, 4, 6, 7), layer(4, 6, norm=False, dilation=2)
    q, k, v = conv2d(x, ours.qkv.weight, ours.qkv.bias).chunk(3, 1)
    expected = conv2d(x + dense(q, k, v, 3, 2, 1), ours.fuse[0].weight, padding=1).relu()
    torch.testing.assert_close(ours(x), expected, **EXACT)


def test_the_block_it_is_held_against_costs_what_that_of_transformers_does():
    config = ViTConfig(
        hidden_size=64, num_attention_heads=4, intermediate_size=256, attn_implementation="eager"
    )
    with torch.device("meta"):
        theirs = ViTLayer(config)
        ours = attention.Block(64, attention.Attention(64, 4), attention.MLP(64, 256))
    assert cost.macs(ours, (1, 49, 64)) == cost.macs(theirs, (1, 49, 64)) == 12 * 49 * 64**2 + 2 * 49**2 * 64


# --- gradients --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [(3, 1, 1), (3, 2, 2), ((3, 1), 1, 4)])
@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_gradients_of_the_operator_are_right_in_float64(how, padding):
    given = [x.requires_grad_() for x in normal(3, 2, 4, 4, 5).unbind(0)]
    assert torch.autograd.gradcheck(lambda *x: msa_conv(*x, *how, padding)[0], given)


def test_gradients_of_layers_with_shifts_and_pooling_are_right_in_float64():
    net = nn.Sequential(layer(4, 4, heads=2, shift=1), InterPool(), layer(4, 3, heads=4, stride=2)).train()
    weights = dict(net.named_parameters())

    def apply(x, *values):
        return functional_call(net, dict(zip(weights, values, strict=True)), (x,))

    x = normal(2, 4, 5, 4).requires_grad_()
    assert torch.autograd.gradcheck(apply, (x, *weights.values()), eps=1e-6, atol=1e-5)


# --- shifts, pooling, sizes ---------------------------------------------------------------------------------


def test_each_quarter_of_the_channels_moves_its_own_way_and_back():
    x = normal(2, 8, 5, 6)
    moved = multi_directional_shift(x, 2)
    for quarter, (down, right) in enumerate(((2, 0), (-2, 0), (0, 2), (0, -2))):
        mine = slice(2 * quarter, 2 * quarter + 2)
        for y in range(5):
            for z in range(6):
                torch.testing.assert_close(moved[:, mine, (y + down) % 5, (z + right) % 6], x[:, mine, y, z])
    assert torch.equal(multi_directional_shift(moved, -2), x)
    assert torch.equal(multi_directional_shift(x, 0), x)
    assert torch.equal(one_way_shift(x, 1)[:, :, 1:], x[:, :, :-1])


def test_pooling_adds_the_mean_of_a_block_and_smaller_blocks_at_odd_borders():
    x = normal(1, 3, 5, 4)
    out = InterPool()(x)
    torch.testing.assert_close(
        out[..., :2, 2:] - x[..., :2, 2:], x[..., :2, 2:].mean((2, 3), True).expand(1, 3, 2, 2)
    )
    torch.testing.assert_close(
        out[..., 4:, :2] - x[..., 4:, :2], x[..., 4:, :2].mean((2, 3), True).expand(1, 3, 1, 2)
    )


@pytest.mark.parametrize("size", [(20, 20), (28, 28), (37, 53), (64, 64)])
def test_one_set_of_weights_reads_any_size(size):
    net, twice = small(), small()
    x = normal(2, 1, *size)
    with torch.no_grad():
        assert net(x).shape == (2, 3)
        assert torch.equal(net(x), twice(x))
        assert small(shift=2, inter_pool=True, pool="max")(x).isfinite().all()


def test_away_from_the_border_a_crop_gives_the_crop_of_the_output():
    net = nn.Sequential(*(layer(4, 4, heads=2, seed=seed) for seed in range(3)))
    x = normal(1, 4, 21, 23)
    with torch.no_grad():
        whole, part = net(x), net(x[..., 2:19, 3:20])
    torch.testing.assert_close(part[..., 6:11, 6:11], whole[..., 8:13, 9:14], **EXACT)
    assert (part[..., 0, 0] - whole[..., 2, 3]).abs().max() > 1e-3


def test_it_follows_a_shift_where_the_map_wraps_around_and_not_where_it_ends():
    q, k, v = maps()
    for padding, follows in (("circular", True), ("zeros", False)):
        out = msa_conv(q, k, v, 3, 2, 2, padding)[0]
        moved = msa_conv(*(x.roll((2, 3), (2, 3)) for x in (q, k, v)), 3, 2, 2, padding)[0]
        assert bool((moved - out.roll((2, 3), (2, 3))).abs().max() < 1e-12) is follows


def test_a_vit_with_positions_is_refused_elsewhere_until_they_are_resampled():
    with seeded(0):
        vit = attention.ViT(tokens=16, dim=8, depth=1, heads=2, mlp_ratio=2, classes=3).double()
    more = normal(2, 36, 8)
    with pytest.raises(ValueError, match=r"expected x of shape \(batch, 16, 8\)"):
        vit(more)
    assert resampled(vit, 6)(more)[0].shape == (2, 3)
    same = normal(2, 16, 8)
    torch.testing.assert_close(resampled(vit, 4)(same)[0], vit(same)[0], **EXACT)
    assert vit.positions.shape == (17, 8)


def test_resampled_positions_that_are_all_alike_stay_so():
    with seeded(0):
        vit = attention.ViT(tokens=16, dim=8, depth=1, heads=2, mlp_ratio=2, classes=3).double()
    with torch.no_grad():
        vit.positions[1:] = normal(8)
    grown = resampled(vit, 7).positions
    assert grown.shape == (50, 8)
    torch.testing.assert_close(grown[1:], vit.positions[1:2].expand(49, 8), **EXACT)
    assert torch.equal(grown[0], vit.positions[0])


def test_a_canvas_keeps_the_image_and_resizing_keeps_its_mean():
    x = normal(2, 4, 4)
    for side, before in ((4, 0), (7, 1), (8, 2)):
        framed = canvas(x, side)
        assert torch.equal(framed[:, before : before + 4, before : before + 4], x)
        assert framed.shape == (2, side, side)
        torch.testing.assert_close(framed.sum(), x.sum())
    assert torch.equal(resized(x, 4), x)
    torch.testing.assert_close(resized(torch.ones(1, 4, 4), 7), torch.ones(1, 7, 7))
    torch.testing.assert_close(resized(x, 2).mean((1, 2)), x.mean((1, 2)), rtol=0, atol=0.3)


def test_a_bag_of_patches_does_not_know_their_order_and_takes_any_number():
    with seeded(0):
        bag = BagOfPatches(1, 4, dim=8, depth=2, heads=2, mlp_ratio=2, classes=3).double()
    x = normal(2, 1, 8, 8)
    upside_down = torch.cat([x[:, :, 4:], x[:, :, :4]], 2)
    torch.testing.assert_close(bag(x), bag(upside_down), **EXACT)
    assert bag(normal(1, 1, 12, 20)).shape == (1, 3)


# --- what the chapter measures ----------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "dilation"), [(3, 1), (7, 1), (3, 2), ((5, 1), 1)])
def test_the_operator_costs_its_closed_form(window, dilation):
    shape = (1, 8, 16, 20)
    count = math.prod(sides(window))
    assert macs(lambda *x: msa_conv(*x, window, dilation, 4), shape, shape, shape) == 2 * count * 8 * 320
    assert macs(global_attention, shape, shape, shape) == 2 * 320**2 * 8


@pytest.mark.parametrize("window", [3, 7])
def test_a_layer_costs_its_closed_form_and_with_the_whole_map_as_much_as_a_vit_block(window):
    with torch.device("meta"):
        here, everywhere = (
            MSAConv2d(16, 16, window, heads=4, operator=operator) for operator in ("attention", "global")
        )
    shape, tokens = (1, 16, 10, 12), 120
    assert macs(here, shape) == ((3 + window**2) * 16**2 + 2 * window**2 * 16) * tokens
    assert macs(everywhere, shape) == ((3 + window**2) * 16**2 + 2 * tokens * 16) * tokens


def stack(pool=False, **how):
    layers = [layer(8, 8, heads=4, seed=seed, **how) for seed in range(3)]
    between = [InterPool()] if pool else []
    return nn.Sequential(layers[0], *between, layers[1], *between, layers[2])


@pytest.mark.parametrize(
    ("how", "width"),
    [
        ({}, 13), ({"shift": 2}, 25), ({"shift": 4}, 33), ({"dilation": 2}, 19),
        ({"window": 5, "fusing": 3}, 19), ({"window": 5}, 25), ({"operator": "none"}, 7),
        ({"window": 1, "fusing": 3}, 7),
    ],
)  # fmt: skip
def test_three_layers_see_as_far_as_the_formula_says(how, width):
    seen = influence(stack(**how), normal(1, 8, 33, 33)) > 0
    assert seen.any(0).sum() == seen.any(1).sum() == width
    # 1 + 2 L (d (K - 1) / 2 + (F - 1) / 2 + s), cut off by the map
    window, fusing = how.get("window", 3), how.get("fusing", how.get("window", 3))
    reach = how.get("dilation", 1) * (window - 1) // 2 * (how.get("operator") != "none")
    assert width == min(33, 1 + 6 * (reach + (fusing - 1) // 2 + how.get("shift", 0)))


def test_shifts_and_pooling_see_more_and_only_shifts_see_much_more():
    image = normal(1, 8, 33, 33)
    plain, shifted, pooled = (influence(stack(**how), image) for how in ({}, {"shift": 2}, {"pool": True}))
    assert (pooled > 0).any(0).sum() == 14
    assert share_outside(plain, 13) < 1e-12 < share_outside(pooled, 13) < share_outside(shifted, 13)
    assert share_outside(torch.ones(5, 7), 3) == pytest.approx(1 - 9 / 35)


def test_influence_is_the_square_of_differences():
    net, image = stack(), normal(1, 8, 15, 15)
    step = torch.zeros_like(image)
    step[0, 2, 6, 8] = 1e-6
    with torch.no_grad():
        high, low = (net(image + sign * step)[0, :, 7, 7].sum() for sign in (1, -1))
    x = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(x)[0, :, 7, 7].sum(), x)
    assert float((high - low) / 2e-6) == pytest.approx(float(gradient[0, 2, 6, 8]), rel=1e-4)
    torch.testing.assert_close(influence(net, image), gradient[0].square().sum(0), **EXACT)


def learned(bars, labels=None):
    x, y = bars(64, 0)
    test = bars(60, 1)
    return train(
        lambda: TiC(1, 2, [4, 8], [1, 1], heads=2),
        (0,),
        shuffled(x, y if labels is None else labels),
        tuple(part[None] for part in test),
        Recipe(epochs=8, batch=16, lr=1e-2),
        together=False,
    )


def test_it_learns_the_same_each_time_and_not_where_the_labels_say_nothing(bars):
    first, again = learned(bars), learned(bars)
    assert torch.equal(first.loss, again.loss)
    assert float(first.accuracy[0, -1]) > 0.9
    nothing = learned(bars, torch.arange(64) // 2 % 2)
    assert abs(float(nothing.accuracy[0, -1]) - 0.5) < 0.3


ARMS = [
    {}, {"shift": 2}, {"shift": 2, "ways": "one"}, {"inter_pool": True}, {"pool": "max"},
    {"operator": "uniform"}, {"operator": "none"}, {"operator": "depthwise"}, {"operator": "global"},
    {"window": 5}, {"norm": False},
]  # fmt: skip


@pytest.mark.parametrize("how", ARMS)
def test_every_arm_runs_and_uses_the_weights_that_it_should(how, bars):
    x, y = bars(8, 0)
    net = TiC(1, 2, [8, 8], [1, 2], **{"heads": 2} | how).train()
    cross_entropy(net(x), y).backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name


# --- mutations --------------------------------------------------------------------------------------------

OPERATOR = msa_conv


def every_token(q, k, v, window=3, dilation=1, heads=1, padding_mode="zeros"):
    """Every position attends to the whole map instead of its window."""
    return global_attention(q, k, v, heads), torch.empty(0)


def no_queries(q, k, v, window=3, dilation=1, heads=1, padding_mode="zeros"):
    """All queries are zero, so that a window's weights are equal."""
    return OPERATOR(q * 0, k, v, window, dilation, heads, padding_mode)


def unshifted(x, s):
    """No channel is moved."""
    return x


def unpooled(self, x):
    """Nothing is added between the layers."""
    return x


MUTATIONS = [
    ("msa_conv", every_token),
    ("msa_conv", no_queries),
    ("multi_directional_shift", unshifted),
    ("InterPool.forward", unpooled),
]


@pytest.mark.parametrize(("target", "mutation"), MUTATIONS)
def test_what_is_mutated_still_trains_and_is_another_network(monkeypatch, target, mutation, bars):
    x, y = bars(8, 0)
    with seeded(0):
        net = TiC(1, 2, [8, 8], [1, 2], heads=2, shift=1, inter_pool=True)
    before = net(x)
    monkeypatch.setattr(f"fourfold.hybrids.tic.{target}", mutation)
    after = net(x)
    assert (before - after).abs().max() > 1e-4
    cross_entropy(after, y).backward()
    assert all(w.grad is not None and w.grad.isfinite().all() for w in net.parameters())


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dims": [16]}, r"depths = \[1, 2\]: expected as many values as dims, which has 1"),
        ({"dims": [16, 30]}, r"dims = \[16, 30\]: expected a multiple of 4"),
        ({"window": 4}, "window = 4: "),
        ({"heads": 3}, "heads = 3: "),
        ({"shift": 5}, r"shift = 5: expected int, 1\.\.4"),
        ({"n_train": 110}, "n_train = 110: expected a multiple of 50"),
        ({"extra": ["swin"]}, "extra = "),
    ],
)
def test_parameters_that_no_network_can_have_are_refused_by_name(given, message):
    record = records.load("tic")
    with pytest.raises(parameters.ParameterError, match=message):
        parameters.validate(record, record.values("quick") | given)


def test_claims_about_trained_networks_need_trained_networks():
    claims = [claim for claim in records.load("tic").claims if claim.kind in ("accuracy", "robustness")]
    assert claims
    assert all("trained" in claim.conditions for claim in claims)


Q = torch.zeros(1, 4, 5, 5)
REFUSED = [
    (lambda: msa_conv(Q, Q, Q, 4), "window must be odd and >= 1 on both sides, got 4"),
    (lambda: msa_conv(Q, Q, Q, (3, 0)), r"window must be odd and >= 1 on both sides, got \(3, 0\)"),
    (lambda: offsets(3, 0), "dilation must be >= 1, got 0"),
    (lambda: msa_conv(Q, Q, Q, heads=3), "heads must be >= 1 and divide channels = 4, got 3"),
    (
        lambda: msa_conv(Q, Q, Q, padding_mode="reflect"),
        "padding_mode must be one of 'zeros', 'circular', got",
    ),
    (lambda: msa_conv(Q, Q[..., 1:], Q), r"of one shape, got \(1, 4, 5, 5\), \(1, 4, 5, 4\), \(1, 4, 5, 5\)"),
    (lambda: msa_conv(Q[0], Q[0], Q[0]), r"q, k and v must be maps \(batch, channels, H, W\) of one shape"),
    (lambda: multi_directional_shift(Q[:, :3], 1), "groups must be >= 1 and divide channels = 3, got 4"),
    (lambda: multi_directional_shift(Q, -5), "shift must be below the map's sides, 5 x 5, got -5"),
    (lambda: one_way_shift(Q, 5), "shift must be below the map's sides, 5 x 5, got 5"),
    (lambda: MSAConv2d(4, 4, 2), "window must be odd and >= 1 on both sides, got 2"),
    (lambda: MSAConv2d(4, 4, 2, fusing=3), "window must be odd and >= 1 on both sides, got 2"),
    (lambda: MSAConv2d(4, 4, fusing=2), "window must be odd and >= 1 on both sides, got 2"),
    (lambda: MSAConv2d(4, 0), "c_out must be >= 1, got 0"),
    (lambda: MSAConv2d(4, 4, shift=-1), "shift must be >= 0, got -1"),
    (lambda: MSAConv2d(4, 4, heads=3), "heads must be >= 1 and divide c_in = 4, got 3"),
    (
        lambda: MSAConv2d(4, 4, operator="swin"),
        "operator must be one of 'attention', 'uniform', .* got 'swin'",
    ),
    (lambda: MSAConv2d(4, 4, ways="two"), "ways must be one of 'four', 'one', got 'two'"),
    (lambda: TiC(1, 2, [4], [1, 1]), r"depths must be one for each of dims = \[4\], got \[1, 1\]"),
    (lambda: TiC(1, 2, [4], [0]), r"depths\[0\] must be >= 1, got 0"),
    (lambda: TiC(1, 2, [], []), "stages must be >= 1, got 0"),
    (lambda: TiC(1, 2, [4], [1], pool="sum"), "pool must be one of 'mean', 'max', got 'sum'"),
    (lambda: influence(nn.AvgPool2d(2), torch.rand(1, 1, 5, 5)), r"net must keep 5 x 5, got \(2, 2\)"),
    (lambda: canvas(Q, 4), "side must be >= 5, got 4"),
    (lambda: resized(Q[0], 0), "side must be >= 1, got 0"),
    (lambda: share_outside(torch.ones(5, 5), 4), r"side must be odd and in 1\.\.5, got 4"),
    (
        lambda: resampled(attention.ViT(tokens=4, dim=4, depth=1, heads=1, mlp_ratio=1, classes=2), 0),
        "side must be >= 1",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
