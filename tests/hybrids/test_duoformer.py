"""DuoFormer is the network of its paper, and what the chapter measures fails where its parts are gone."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, scaled_dot_product_attention, unfold
from transformers import ResNetConfig, ResNetModel

from fourfold import cost
from fourfold.attention import Attention
from fourfold.hybrids.duoformer import (
    BareBlock,
    ChannelToken,
    Classifier,
    DuoFormer,
    Merge,
    OnPacked,
    PatchTokenizer,
    TinyStages,
    drawn_tree,
    five_statistics,
    hybrid,
    influences,
    misdealt,
    misplaced,
    packed,
    patch_block,
    region_index,
    scale_attention,
    scale_block,
    score_cost,
    silent,
    spread,
    spreads,
    tree_size,
    unpacked,
    untrained,
    with_equal_patches,
)
from fourfold.judging import parameters, records
from fourfold.training import Recipe, seeded, shuffled, train

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}
CHANNELS = [6, 5, 4]
SIZES = {"grid": 2, "dim": 8, "heads": 2, "classes": 3, "mlp_ratio": 2}


def maps(batch: int = 2, grid: int = 2, channels: list[int] = CHANNELS) -> list[torch.Tensor]:
    return [normal(batch, c, grid * 2**a, grid * 2**a, seed=a) for a, c in enumerate(channels)]


def made(*how, **sizes) -> DuoFormer:
    with seeded(0):
        return DuoFormer(*(how or (CHANNELS,)), **SIZES | sizes).double().eval()


# --- tokens -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("grid", "k"), [(7, 1), (7, 2), (7, 4), (7, 8), (3, 5), (1, 2)])
def test_regions_are_those_of_unfold(grid, k):
    x = normal(2, 3, grid * k, grid * k)
    ours = x.flatten(2)[:, :, region_index(grid, k)]
    theirs = unfold(x, k, stride=k).view(2, 3, k * k, grid**2).transpose(2, 3)
    assert torch.equal(ours, theirs)


def test_every_place_is_gathered_once_and_scattered_back():
    for k in (1, 2, 4, 8):
        index, x = region_index(7, k), normal((7 * k) ** 2)
        back = torch.empty_like(x)
        back[index] = x[index]
        assert torch.equal(back, x)
        assert misplaced(index, 7, k) == 0
    assert misplaced(region_index(4, 7).view(49, 16), 7, 4) > 0


def test_trees_hold_the_tokens_of_their_patch_coarse_to_fine():
    tokenizer = PatchTokenizer(CHANNELS, 8, 2).double()
    x = maps()
    tokens = tokenizer(x)
    assert tokens.shape == (2, 4, tree_size(3), 8)
    fine = tokenizer.projections[2](x[2])
    # Patch (1, 0), token (2, 3) of its 4 x 4.
    torch.testing.assert_close(tokens[:, 2, 1 + 4 + 11], fine[:, :, 6, 3], **EXACT)
    finest = PatchTokenizer(CHANNELS[2:], 8, 2, [2]).double()
    finest.projections[0].load_state_dict(tokenizer.projections[2].state_dict())
    torch.testing.assert_close(finest(x[2:]), tokens[:, :, 5:], **EXACT)


def test_projections_start_as_released():
    with seeded(0):
        projection = PatchTokenizer([64], 512, 2).requires_grad_(False).projections[0]
    assert abs(float(projection.weight.std()) - (2 / 64) ** 0.5) < 0.01
    assert 0 < float(projection.bias.abs().max()) < 1e-5


def test_the_channel_token_sees_all_maps_and_has_the_published_shape():
    with seeded(0):
        token = ChannelToken([8, 6, 4, 2], 5).double().eval()
    x = [m.requires_grad_() for m in maps(grid=3, channels=[8, 6, 4, 2])]
    found = token(x)
    assert found.shape == (2, 9, 1, 5)
    assert all(bool(g.any()) for g in torch.autograd.grad(found.square().sum(), x))
    assert made(scale_token="channel")(maps()).shape == (2, 3)


# --- attention --------------------------------------------------------------------------------------------


def theirs_of(block, dim: int, heads: int) -> nn.TransformerEncoderLayer:
    """Torch's own layer with a block's weights."""
    layer = nn.TransformerEncoderLayer(
        dim, heads, 2 * dim, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True
    ).double()
    own = block.attention
    parts = [own.query, own.key, own.value]
    layer.self_attn.in_proj_weight.data = torch.cat([part.weight for part in parts]).detach()
    layer.self_attn.in_proj_bias.data = torch.cat([part.bias for part in parts]).detach()
    pairs = {
        layer.self_attn.out_proj: own.projection,
        layer.linear1: block.mlp.up,
        layer.linear2: block.mlp.down,
        layer.norm1: block.norm_attention,
        layer.norm2: block.norm_mlp,
    }
    for theirs, ours in pairs.items():
        theirs.load_state_dict(ours.state_dict())
    return layer.eval()


def test_a_scale_block_is_torchs_layer():
    with seeded(0):
        block = scale_block(8, 2, 2).double()
    x = normal(2, 4, 22, 8)
    with torch.no_grad():
        theirs = theirs_of(block, 8, 2)(x.flatten(0, 1)).view(x.shape)
        torch.testing.assert_close(block(x)[0], theirs, **EXACT)


def test_scale_attention_is_dense_attention_with_a_block_mask():
    with seeded(0):
        own = Attention(8, 2).double()
    x = normal(2, 4, 22, 8)
    mask = torch.block_diag(*[torch.ones(22, 22)] * 4).bool()
    q, k, v = (f(x).view(2, 88, 2, 4).transpose(1, 2) for f in (own.query, own.key, own.value))
    dense = scaled_dot_product_attention(q, k, v, attn_mask=mask)
    theirs = own.projection(dense.transpose(1, 2).reshape(2, 4, 22, 8))
    torch.testing.assert_close(own(x)[0], theirs, **EXACT)


def test_a_bare_block_is_torchs_attention_alone():
    with seeded(0):
        block = patch_block("bare", 8, 2).double()
    theirs = nn.MultiheadAttention(8, 2, batch_first=True).double()
    parts = [block.query, block.key, block.value]
    theirs.in_proj_weight.data = torch.cat([part.weight for part in parts]).detach()
    theirs.in_proj_bias.data = torch.cat([part.bias for part in parts]).detach()
    theirs.out_proj.load_state_dict(block.projection.state_dict())
    x = normal(3, 5, 8)
    torch.testing.assert_close(block(x)[0], theirs(x, x, x)[0], **EXACT)
    assert isinstance(block, BareBlock)


def test_what_is_not_read_is_not_computed_and_changes_nothing():
    net, x = made(), maps()
    trees = net.trees(x)
    torch.testing.assert_close(net.attend_scales(trees)[:, :, 0], net.patch_tokens(x), **EXACT)


def test_influence_stays_in_its_patch_and_reaches_all_scales():
    net = made()
    trees, g = net.trees(maps(1)), torch.Generator().manual_seed(0)
    found = influences(net, trees, g)
    same = torch.eye(4, dtype=torch.bool)[:, None, :, None].expand(found.shape)
    assert float(found[~same].max()) == 0
    assert float(found[same].min()) > 0
    assert float(influences(net, trees, g, flat=True).min()) > 0


def test_scale_attention_sums_to_one_and_equal_weights_are_shares_of_tokens():
    rows = scale_attention(made(), maps())
    assert rows.shape == (2, 4, 4)
    torch.testing.assert_close(rows.sum(-1), torch.ones(2, 4).double(), **EXACT)
    equal = scale_attention(made(mixing="uniform"), maps())
    expected = torch.tensor([1, 1, 4, 16]).double() / 22
    torch.testing.assert_close(equal, expected.expand(2, 4, 4), **EXACT)


def test_merges_are_linear_layers_over_tokens_or_moments():
    tokens = normal(2, 4, 21, 8)
    parts = [tokens[:, :, :1], tokens[:, :, 1:5], tokens[:, :, 5:]]
    features = {
        "linear": tokens.flatten(2),
        "means": torch.cat([part.mean(2) for part in parts], -1),
    }
    for reader, given in features.items():
        with seeded(0):
            merge = Merge(reader, [1, 4, 16], 8).double()
        torch.testing.assert_close(merge(tokens), merge.linear(given), **EXACT)


# --- the network ------------------------------------------------------------------------------------------


def test_the_published_network_has_the_parameters_of_our_sum():
    with torch.device("meta"):
        backbone = ResNetModel(ResNetConfig())
        head = DuoFormer(
            [2048, 1024, 512, 256], grid=7, dim=768, heads=12, classes=10,
            depth_scale=12, depth_patch=12, patch_kind="bare",
        )  # fmt: skip
    assert cost.parameters(backbone) == 23_508_032
    assert cost.parameters(backbone) + cost.parameters(head) == 139_970_624 + 769 * 10


def test_the_hybrid_is_a_vit_on_the_coarsest_map():
    with seeded(0):
        net = hybrid(6, **SIZES).double()
    x = maps()[:1]
    tokens = net.tokenizer.projections[0](x[0]).flatten(2).transpose(1, 2)
    tokens = torch.cat([net.cls.expand(2, -1, -1), tokens + 0], 1)
    tokens[:, 1:] = tokens[:, 1:] + net.scale_positions
    y = tokens + net.patch_positions
    for block in net.patch_blocks:
        y, _ = block(y)
    torch.testing.assert_close(net(x), net.head(net.norm(y[:, 0])), **EXACT)


def test_without_patch_blocks_the_mean_of_patches_is_read():
    net = made(depth_patch=0)
    read = net.head(net.norm(net.patch_tokens(maps()).mean(1)))
    torch.testing.assert_close(net(maps()), read, **EXACT)


def test_costs_are_those_that_torch_counts():
    def counted(groups, tokens):
        """Of one attention layer, width 12: half of what is neither of its four linear layers, the scores."""
        whole = cost.macs(scale_block(12, 2).attention, (groups, tokens, 12))
        return (whole - 4 * groups * tokens * 12**2) / 2

    for scales, tokens in ((1, 1), (2, 5), (3, 21)):
        found = score_cost(7, scales, 12)
        assert list(found) == [counted(49, tokens + 1), counted(1, 50), counted(1, 49 * tokens)]
    ratios = [score_cost(7, s, 768).flat / score_cost(7, s, 768).scale for s in (2, 3, 4)]
    assert [round(r, 1) for r in ratios] == [34.0, 44.6, 47.9]


def test_gradients_in_float64():
    net = made(dim=4, mlp_ratio=1, depth_scale=1, depth_patch=1)
    weights = dict(net.named_parameters())

    def apply(x, *values):
        return functional_call(net, dict(zip(weights, values, strict=True)), ([*maps(1)[:2], x],))

    assert torch.autograd.gradcheck(apply, (maps(1)[2].requires_grad_(), *weights.values()), fast_mode=True)


@pytest.mark.parametrize("kind", ["conv", "resnet", "metanext"])
def test_backbones_make_maps_of_all_scales(kind):
    with seeded(0):
        net = TinyStages(kind)
    shapes = [tuple(x.shape[1:]) for x in net(torch.zeros(2, 1, 32, 32))]
    assert shapes == [(64, 2, 2), (32, 4, 4), (16, 8, 8)]
    assert Classifier(net, 5)(torch.zeros(2, 1, 32, 32)).shape == (2, 5)


def test_packed_maps_come_back():
    x = maps()
    assert all(torch.equal(a, b) for a, b in zip(unpacked(packed(x), CHANNELS, 2), x, strict=True))
    net, finest = made(), made(CHANNELS[2:], scales=[2])
    torch.testing.assert_close(OnPacked(net, CHANNELS)(packed(x)), net(x), **EXACT)
    torch.testing.assert_close(OnPacked(finest, CHANNELS)(packed(x)), finest(x[2:]), **EXACT)


def learned(seed: int = 0):
    """Which of two scales carries a class that no other map knows: a sign in the finest map."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (96,), generator=g)
    x = [torch.randn(96, c, 2 * 2**a, 2 * 2**a, generator=g) for a, c in enumerate(CHANNELS)]
    x[2][:, 0] += 2 * (labels - 1)[:, None, None]
    with torch.no_grad():
        inputs = packed(x)
    make = lambda: OnPacked(DuoFormer(CHANNELS, **SIZES), CHANNELS)  # noqa: E731
    test = (inputs[None], labels[None])
    return train(make, (0,), shuffled(inputs, labels), test, Recipe(12, batch=16, lr=5e-3)), inputs, labels


def test_it_learns_from_the_finest_map_twice_the_same_and_not_with_that_of_another_image():
    (first, inputs, labels), (again, *_) = learned(), learned()
    assert torch.equal(first.loss, again.loss)
    net = first.member(0)
    with torch.no_grad():
        right = (net(inputs).argmax(1) == labels).double().mean()
        others = torch.cat([inputs[:, :-256], inputs[:, -256:].roll(1, 0)], 1)
        severed = (net(others).argmax(1) == labels).double().mean()
    assert float(right) > 0.9 > 0.6 > float(severed)


def test_equal_patch_attention_leaves_the_network_alone():
    net, x = made(), maps()
    before = net(x)
    assert not torch.allclose(with_equal_patches(net)(x), before)
    assert torch.equal(net(x), before)


def test_misdealt_tokens_are_the_same_tokens_elsewhere():
    for where, inside in (("across", False), ("inside", True)):
        net = misdealt(made(), where, torch.Generator().manual_seed(0))
        for k, region in zip((1, 2, 4), net.tokenizer.regions, strict=True):
            assert torch.equal(region.flatten().sort().values, torch.arange((2 * k) ** 2))
            assert (misplaced(region, 2, k) == 0) == (inside or k == 1)
        assert not torch.equal(net.tokenizer.regions[2], region_index(2, 4))


def test_bare_blocks_make_tokens_one_and_standard_ones_do_not():
    x = normal(2, 10, 24)
    with seeded(0):
        bare, vit = (spreads(untrained(kind, 6, 24, 4), x) for kind in ("bare", "vit"))
        equal = spreads(untrained("bare", 1, 24, 4, "uniform"), x)
    assert min(vit) > 0.5 > 1e-10 > bare[-1]
    assert equal[0] < 1e-15
    same = x[:, :1].expand(-1, 10, -1)
    assert float(spread(same).max()) < 1e-15
    assert torch.equal(spread(x - x.mean(1, keepdim=True)).round(), torch.ones(2).double())


def test_a_drawn_tree_is_the_means_of_its_patch():
    photo = torch.arange(64.0).view(8, 8)
    one, four = drawn_tree(photo, 2, 1, 0, 2)
    patch = photo[4:, :4]
    assert one.item() == patch.mean()
    assert four[0, 1] == patch[:2, 2:].mean()


def test_silent_weights_are_counted():
    net = made()
    net([x * (i == 0) for i, x in enumerate(maps())]).sum().backward()
    assert silent(net) == 2


def test_five_statistics_of_known_images():
    x = torch.arange(4.0).repeat(4, 1)[None, None]
    expected = torch.tensor([[1.5, 1.0, x.std(), 0.0, 0.0]])
    torch.testing.assert_close(five_statistics(x), expected)


# --- mutations --------------------------------------------------------------------------------------------


def only_the_coarsest(self, given):
    """All tokens of a patch's tree hold the coarsest map given, and finer maps are not looked at."""
    x = adaptive_avg_pool2d(self.projections[0](given[0]), self.grid).flatten(2).transpose(1, 2)
    # Times zero, so that the others' weights keep a gradient.
    nothing = sum(0 * (project.bias + project.weight.sum()) for project in self.projections)
    return x[:, :, None].expand(-1, -1, sum(self.sizes), -1) + nothing


SCALE_BLOCK = scale_block


def equal_weights(dim, heads, mlp_ratio=4, mixing="softmax"):
    """Every token of a scale block attends to all tokens of its tree alike."""
    return SCALE_BLOCK(dim, heads, mlp_ratio, "uniform")


MUTATIONS = [("PatchTokenizer.forward", only_the_coarsest), ("scale_block", equal_weights)]


@pytest.mark.parametrize(("target", "mutation"), MUTATIONS)
def test_what_is_mutated_still_trains(monkeypatch, target, mutation):
    before, finest = made()(maps()), made(CHANNELS[2:], scales=[2])(maps()[2:])
    monkeypatch.setattr(f"fourfold.hybrids.duoformer.{target}", mutation)
    net = made()
    assert not torch.allclose(net(maps()), before)
    assert not torch.allclose(made(CHANNELS[2:], scales=[2])(maps()[2:]), finest)
    assert all(block.attention.mixing == "softmax" for block in net.patch_blocks)
    cross_entropy(net(maps()), torch.tensor([0, 1])).backward()
    assert any(bool(weight.grad.any()) for weight in net.parameters() if weight.grad is not None)


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dim": 33}, "dim = 33: expected a multiple of heads, which is 2"),
        ({"n_train": 310}, "n_train = 310: expected a multiple of 50"),
        ({"extra": ["vit"]}, "extra = .*: expected"),
        ({"grid": 3}, r"grid = 3: expected int, 2 \| 4"),
    ],
)
def test_parameters_that_no_network_can_have_are_refused_by_name(given, message):
    record = records.load("duoformer")
    with pytest.raises(parameters.ParameterError, match=message):
        parameters.validate(record, record.values("quick") | given)


REFUSED = [
    (lambda: region_index(0, 2), "grid must be >= 1, got 0"),
    (lambda: PatchTokenizer([], 8, 2), "number of maps must be >= 1, got 0"),
    (lambda: PatchTokenizer([4, 4], 8, 2, [0]), r"scales must be 2 numbers >= 0, got \[0\]"),
    (lambda: made()(maps()[:2]), "maps must be 3, got 2"),
    (lambda: made()([*maps()[:2], normal(2, 4, 6, 8)]), "the map of scale 2 must be 8 x 8, got 6 x 8"),
    (lambda: made(heads=3), "heads must be >= 1 and divide dim, got heads=3, dim=8"),
    (lambda: made(depth_scale=0), "depth_scale must be >= 1 with a scale token, got 0"),
    (lambda: made(depth_patch=-1), "depth_patch must be >= 0, got -1"),
    (lambda: made(reader="sum"), "reader must be one of 'attention', .*, got 'sum'"),
    (lambda: made(scale_token="cls"), "scale_token must be one of .*, got 'cls'"),
    (lambda: made(patch_kind="linear"), "kind must be one of 'vit', 'bare', got 'linear'"),
    (lambda: made(classes=0), "classes must be >= 1, got 0"),
    (lambda: Merge("attention", [1], 8), "reader must be one of 'linear', .*, got 'attention'"),
    (lambda: TinyStages("vgg"), "kind must be one of 'conv', .*, got 'vgg'"),
    (lambda: TinyStages(dims=()), "number of stages must be >= 1, got 0"),
    (lambda: drawn_tree(torch.zeros(6, 6), 2, 0, 0, 2), "finest must be >= 1 and divide side = 6, got 4"),
    (lambda: score_cost(7, 0, 8), "scales must be >= 1, got 0"),
    (lambda: misdealt(made(), "away", torch.Generator()), "where must be one of 'across', .*, got 'away'"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
