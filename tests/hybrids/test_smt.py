"""SMT is the network of its authors, and what the chapter measures fails where its parts are gone."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import batch_norm, conv2d, cross_entropy, gelu, layer_norm, linear

from fourfold import cost
from fourfold.hybrids.smt import (
    MLP,
    RELEASED,
    SAM,
    SMT,
    Convolution,
    LocalGlobalAttention,
    MultiHeadMixedConv,
    ScaleAwareAggregation,
    SMTBlock,
    Spec,
    convolved,
    count,
    influence,
    inputs_of,
    kernels_of,
    kinds,
    reach,
    saa_groups,
)
from fourfold.judging import parameters, records
from fourfold.training import Recipe, seeded, shuffled, train

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}
TINY = Spec((8, 16), (2, 1), (1, 1), (1, 2), patch=1)


def on_meta(*how, **more):
    with torch.device("meta"):
        return SMT(*how, **more)


# --- oracles ----------------------------------------------------------------------------------------------


def by_hand(sam: SAM, x: torch.Tensor, heads: int) -> torch.Tensor:
    """A modulation as the paper writes it down, (batch, height, width, dim): group by group, head by head."""
    s = linear(x, sam.source.weight, sam.source.bias).movedim(-1, 1)
    parts = [
        conv2d(part, head.weight, head.bias, padding=1 + i, groups=part.shape[1])
        for i, (part, head) in enumerate(zip(s.chunk(heads, 1), sam.mixed.heads, strict=True))
    ]
    # (batch, channel of a head, head, height, width)
    stacked = torch.stack(parts, 2)
    width = stacked.shape[1]
    weight = sam.fuse.narrow.weight.view(width, -1, heads)
    narrow = torch.einsum("bjihw,joi->bjohw", stacked, weight) + sam.fuse.narrow.bias.view(width, -1, 1, 1)
    norm = sam.fuse.norm
    narrow = batch_norm(narrow.flatten(1, 2), norm.running_mean, norm.running_var, norm.weight, norm.bias)
    m = conv2d(gelu(narrow), sam.fuse.dense.weight, sam.fuse.dense.bias).movedim(1, -1)
    return linear(m * linear(x, sam.value.weight, sam.value.bias), sam.out.weight, sam.out.bias)


@pytest.mark.parametrize(("dim", "heads", "size"), [(16, 4, (5, 7)), (12, 2, (3, 1)), (9, 3, (2, 10))])
def test_modulation_is_the_papers_written_down(jolted, dim, heads, size):
    sam = jolted(SAM, dim, heads)
    x = normal(2, *size, dim)
    torch.testing.assert_close(sam(x), by_hand(sam, x, heads), **EXACT)


def test_late_blocks_are_torchs_attention_and_a_convolution_of_the_values(jolted):
    dim, heads = 8, 2
    ours = jolted(LocalGlobalAttention, dim, heads)
    theirs = nn.MultiheadAttention(dim, heads, batch_first=True).double()
    theirs.in_proj_weight.data = torch.cat([ours.query.weight, ours.key_value.weight])
    theirs.in_proj_bias.data = torch.cat([ours.query.bias, ours.key_value.bias])
    nn.init.eye_(theirs.out_proj.weight)
    nn.init.zeros_(theirs.out_proj.bias)
    x = normal(2, 5, 3, dim)
    tokens = x.flatten(1, 2)
    everywhere = theirs(tokens, tokens, tokens)[0].view(x.shape)
    v = linear(x, ours.key_value.weight[dim:], ours.key_value.bias[dim:]).movedim(-1, 1)
    local = conv2d(v, ours.local.weight, ours.local.bias, padding=1, groups=dim).movedim(1, -1)
    torch.testing.assert_close(ours(x), ours.out(everywhere + local), **EXACT)


def test_the_block_is_two_scaled_branches_with_a_convolution_in_the_second(jolted):
    block = jolted(lambda: SMTBlock(8, SAM(8), 2, layer_scale=0.5))
    x = normal(2, 4, 6, 8)

    def normed(norm, x):
        return layer_norm(x, (8,), norm.weight, norm.bias, 1e-6)

    y = x + block.scales[0] * by_hand(block.mixer, normed(block.norm_mixer, x), 4)
    z = block.mlp.up(normed(block.norm_mlp, y))
    local = conv2d(z.movedim(-1, 1), block.mlp.local.weight, block.mlp.local.bias, padding=1, groups=16)
    expected = y + block.scales[1] * block.mlp.down(gelu(z + local.movedim(1, -1)))
    torch.testing.assert_close(block(x), expected, **EXACT)


def test_published_parameters_and_costs():
    # Counted on the official classes.
    exact = {"T": 11_506_536, "S": 22_550_952, "B": 32_037_352, "L": 80_620_264}
    # All multiply-accumulates, those without products, and with biases, BatchNorm and activations.
    giga = {
        ("T", 224): (2.461, 2.380, 2.399),
        ("L", 384): (55.061, 51.366, 51.615),
    }
    nets = {name: on_meta(name) for name in exact}
    assert {name: cost.parameters(net) for name, net in nets.items()} == exact
    for (name, size), expected in giga.items():
        found = count(nets[name], size)
        for number, ours in zip(expected, (found.whole, found.multiplied, found.layers), strict=True):
            assert abs(ours / 1e9 - number) < 1e-3
    assert not any(module._forward_hooks for net in nets.values() for module in net.modules())
    assert cost.parameters(on_meta(RELEASED["L"]._replace(layer_scale=None))) == 80_589_544
    assert cost.parameters(on_meta(RELEASED["S"]._replace(depths=(3, 4, 18, 1)))) == 20_432_808


@pytest.mark.parametrize(("dim", "heads"), [(64, 4), (24, 3)])
def test_a_modulation_has_the_parameters_of_its_closed_form(dim, heads):
    kernels = sum(dim // heads * (kernel**2 + 1) for kernel in kernels_of(heads))
    fuse = 2 * heads * dim + 2 * dim + 4 * dim + 2 * dim**2 + dim
    assert cost.parameters(ScaleAwareAggregation(dim, heads)) == fuse
    assert cost.parameters(SAM(dim, heads)) == 3 * (dim**2 + dim) + kernels + fuse


def test_a_released_network_starts_as_the_official_one_and_takes_odd_sizes():
    with seeded(0):
        net = SMT(Spec((64, 128), (1, 1), (2, 2), (1, 8)), classes=7)
    block = net.stages[0][0]
    assert abs(block.mlp.up.weight.std().item() - 0.02) < 1e-3
    head = block.mixer.mixed.heads[1]
    assert abs(head.weight.std().item() - (2 / 25) ** 0.5) < 0.05
    assert all(not layer.bias.any() for layer in (block.mlp.up, head))
    with torch.no_grad():
        assert net.eval()(torch.randn(1, 3, 33, 50)).shape == (1, 7)


# --- the parts --------------------------------------------------------------------------------------------


def test_a_layer_counter_adds_what_layers_put_out():
    attention = SMT(Spec((4, 8), (1, 1), (1, 1), (1, 2)), "all_msa", classes=2)
    # 16 x 16 pixels: 8 x 8 after the stem's first convolution, then maps of 4 x 4 and 2 x 2.
    stem = 8 * 8 * 4 * (2 + 1) + 4 * 4 * 4
    first, second = 4 * 4 * 4 * (1 + 1 + 1), 2 * 2 * 8 * (1 + 1 + 1)
    found = count(attention, 16)
    assert found.small == stem + first + 2 * 2 * 8 + second
    assert found.products == 2 * 16**2 * 4 + 2 * 4**2 * 8


def test_mlps_can_have_any_width():
    assert MLP(16, 2.4375).up.out_features == 39


def test_the_strategies():
    sam, msa = "sam", "msa"
    depths = (2, 2, 4, 1)
    assert kinds(depths) == [[sam] * 2, [sam] * 2, [sam, msa, sam, msa], [msa]]
    assert kinds(depths, "half")[2] == [sam, sam, msa, msa]
    assert kinds(depths, "reversed") == [[msa, msa], [sam, msa], [sam] * 4, [sam]]
    assert kinds((1, 3, 1))[1] == [sam, msa, sam]
    assert kinds(depths, "all_sam") == [[sam] * depth for depth in depths]
    assert kinds(depths, "all_msa") == [[msa] * depth for depth in depths]
    blocks = [block.mixer for block in on_meta("T").modules() if isinstance(block, SMTBlock)]
    assert [type(mixer) for mixer in blocks] == [SAM] * 5 + [LocalGlobalAttention, SAM] * 3 + [
        LocalGlobalAttention
    ] * 2


def test_groups_hold_one_channel_of_every_head_and_without_interleaving_neighbours(jolted):
    assert saa_groups(16, 4) == [[j, 4 + j, 8 + j, 12 + j] for j in range(4)]
    for interleave, expected in ((True, saa_groups(16, 4)), (False, torch.arange(16).view(4, 4).tolist())):
        fuse = jolted(ScaleAwareAggregation, 16, interleave=interleave)
        for channel in range(16):
            x = normal(1, 16, 1, 1)
            other = x.clone()
            other[:, channel] += 1
            change = fuse.narrow(other[:, fuse.order]) - fuse.narrow(x[:, fuse.order])
            groups = (change.view(4, 8).abs().sum(1) > 0).nonzero().flatten().tolist()
            assert groups == [next(g for g, members in enumerate(expected) if channel in members)]


def test_each_gate_is_what_it_says(jolted):
    gated = {gate: jolted(SAM, 8, gate=gate) for gate in ("product", "sum", "value", "modulator")}
    for other in ("sum", "value", "modulator"):
        gated[other].load_state_dict(
            {name: gated["product"].state_dict()[name] for name in gated[other].state_dict()}
        )
    x = normal(2, 3, 4, 8)
    m, v, out = gated["product"].modulator(x), gated["product"].value(x), gated["product"].out
    for gate, inside in (("product", m * v), ("sum", m + v), ("value", v), ("modulator", m)):
        torch.testing.assert_close(gated[gate](x), out(inside), **EXACT)
    assert cost.parameters(gated["sum"]) == cost.parameters(gated["product"])


def test_a_single_wide_kernel_can_stand_for_the_narrow_one(jolted):
    narrow = jolted(MultiHeadMixedConv, 8, 4, (3,) * 4)
    wide = jolted(MultiHeadMixedConv, 8, 4, (9,) * 4)
    for small, large in zip(narrow.heads, wide.heads, strict=True):
        large.weight.data.zero_()
        large.weight.data[..., 3:6, 3:6] = small.weight.data
        large.bias.data = small.bias.data
    x = normal(2, 8, 5, 6)
    torch.testing.assert_close(wide(x), narrow(x), **EXACT)


@pytest.mark.parametrize(
    "make", [partial(SAM, 4, 2), partial(LocalGlobalAttention, 4, 2), partial(MLP, 4, 1)]
)
def test_gradients_are_right_in_float64(jolted, make):
    module = jolted(make)
    weights = dict(module.named_parameters())

    def apply(x, *values):
        return functional_call(module, dict(zip(weights, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(apply, (normal(1, 2, 3, 4).requires_grad_(), *weights.values()))


# --- what the chapter measures ----------------------------------------------------------------------------


def test_reach_is_nothing_at_the_centre_and_one_where_spread_evenly():
    energy = torch.zeros(5, 5, dtype=torch.float64)
    energy[2, 2] = 3
    assert reach(energy) == 0
    assert reach(torch.ones(4, 6)) == pytest.approx(1)
    energy[2, 2], energy[2, 0] = 0, 1
    # Two tokens away; the squares of all distances are 4 in the mean.
    assert reach(energy) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"energy must be > 0 on two tokens or more, got \(1, 1\)"):
        reach(torch.ones(1, 1))


def test_influence_is_the_support_of_the_block_and_not_what_it_hands_on(jolted):
    x = normal(2, 15, 15, 8)
    draw = torch.Generator().manual_seed(0)
    block = jolted(lambda: SMTBlock(8, SAM(8), 1))
    seen = influence(block, x, draw) > 1e-20
    assert seen[2:13, 2:13].all()
    assert int(seen.sum()) == 11 * 11
    assert (influence(jolted(lambda: SMTBlock(8, LocalGlobalAttention(8, 2), 1)), x, draw) > 0).all()
    assert not influence(nn.Identity(), x, draw).any()


def test_inputs_of_blocks_are_found_and_hooks_are_gone(jolted):
    net = jolted(SMT, TINY, in_chans=1, classes=3)
    found = inputs_of(net, normal(2, 1, 12, 10))
    assert [tuple(x.shape) for x in found] == [(2, 6, 5, 8), (2, 6, 5, 8), (2, 3, 3, 16)]
    torch.testing.assert_close(net.stages[0][0](found[0]), found[1], **EXACT)
    assert not any(module._forward_pre_hooks for module in net.modules())


def bars(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with a bar, upright (1) or lying (0), at a random place."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 * torch.randn(n, 1, 12, 12, generator=generator)
    labels = torch.arange(n) % 2
    places = torch.randint(1, 10, (n,), generator=generator).tolist()
    for image, label, place in zip(images, labels, places, strict=True):
        (image[0, :, place : place + 2] if label else image[0, place : place + 2]).add_(2)
    return images, labels


def learned(labels=None):
    images, given = bars(80, 0)
    test = bars(40, 1)
    return train(
        partial(SMT, TINY, in_chans=1, classes=2, start="torch"),
        (0,),
        shuffled(images, given if labels is None else labels),
        (test[0][None], test[1][None]),
        Recipe(epochs=5, batch=10, lr=1e-2),
        together=False,
    )


def test_it_learns_and_does_not_where_the_labels_say_nothing(learns_only_from_labels):
    learns_only_from_labels(learned)


# --- mutations --------------------------------------------------------------------------------------------


def ungrouped(dim, heads):
    """The aggregation's first layer is dense: one group of all channels."""
    return [list(range(dim))]


MUTATIONS = [("saa_groups", ungrouped)]


@pytest.mark.parametrize(("target", "mutation"), MUTATIONS)
def test_what_is_mutated_still_trains(monkeypatch, target, mutation):
    monkeypatch.setattr(f"fourfold.hybrids.smt.{target}", mutation)
    images, labels = bars(10, 0)
    net = SMT(TINY, in_chans=1, classes=2)
    cross_entropy(net(images), labels).backward()
    assert all(weight.grad.isfinite().all() for weight in net.parameters())


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dims": [16, 40, 64]}, "dims = .*: expected a multiple of head_dim, which is 16"),
        ({"dims": [16, 32]}, "depths = .*: expected as many values as dims, which has 2"),
        ({"n_train": 410}, "n_train = 410: expected a multiple of 50"),
        ({"n_reach": 600}, "n_reach = 600: expected at most n_test, which is 500"),
        ({"extra": ["all MSA"]}, "extra = .*: expected"),
    ],
)
def test_parameters_that_no_network_can_have_are_refused_by_name(given, message):
    record = records.load("smt")
    with pytest.raises(parameters.ParameterError, match=message):
        parameters.validate(record, record.values("quick") | given)


REFUSED = [
    (lambda: MultiHeadMixedConv(10, 4), "heads must be >= 1 and divide dim = 10, got 4"),
    (lambda: MultiHeadMixedConv(8, 4, (3, 5, 7)), r"kernels must be 4 odd numbers >= 1, got \(3, 5, 7\)"),
    (lambda: MultiHeadMixedConv(8, 2, (3, 4)), r"kernels must be 2 odd numbers >= 1, got \(3, 4\)"),
    (lambda: saa_groups(6, 4), "heads must be >= 1 and divide dim = 6, got 4"),
    (lambda: ScaleAwareAggregation(8, 4, expand=0), "expand must be >= 1, got 0"),
    (lambda: SAM(8, aggregation="none"), "aggregation must be one of .*, got 'none'"),
    (lambda: SAM(8, gate="none"), "gate must be one of .*, got 'none'"),
    (lambda: LocalGlobalAttention(8, 3), "heads must be >= 1 and divide dim = 8, got 3"),
    (lambda: MLP(8, 0.05), "hidden must be >= 1, got 0"),
    (lambda: kinds((2, 2), "mixed"), "strategy must be one of .*, got 'mixed'"),
    (lambda: kinds((2,)), "stages must be >= 2, got 1"),
    (lambda: SMT("M"), "spec must be one of .*, got 'M'"),
    (lambda: SMT(TINY, start="zeros"), "start must be one of .*, got 'zeros'"),
    (lambda: SMT(TINY, classes=0), "classes must be >= 1, got 0"),
    (lambda: SMT(TINY._replace(patch=0)), "patch must be >= 1, got 0"),
    (lambda: SMT(TINY._replace(dims=(8, 16, 32))), "must be one a stage, got"),
    (lambda: SMT(TINY, [["sam"], ["msa"]]), r"strategy must have a kind for each block of depths \(2, 1\)"),
    (lambda: count(SMT(TINY), 0), "size must be >= 1, got 0"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_convolution_of_a_map_is_that_of_its_view(jolted):
    convolution = jolted(Convolution, 4)
    x = normal(1, 3, 5, 4)
    expected = convolution.out(convolution.local(convolution.enter(x).movedim(-1, 1)).movedim(1, -1))
    torch.testing.assert_close(convolution(x), expected, **EXACT)
    assert convolved(nn.Identity(), x).is_contiguous()
