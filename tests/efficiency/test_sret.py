"""SReT's grouped attention is ordinary attention on pieces, and a shared block is one block used twice."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from fourfold import cost, training
from fourfold.efficiency.sret import (
    SIZES,
    GroupAttention,
    NonLinearProjection,
    RecursiveSlot,
    SlicedBlock,
    Spec,
    SReT,
    amid_noise,
    attention_macs,
    block_parameters,
    compared,
    counted,
    hidden_features,
    macs_by_stage,
    map_ratio,
    nll_parameters,
    saving,
    slot_parameters,
    small_counts,
    sret_counts,
    update_cosines,
    widened,
)
from fourfold.judging import parameters, records

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}
TINY = Spec((8,), (2,), (1,), ((1, 1),), 2.0, patch=3)
PYRAMID = Spec((6, 12, 24), (2, 3, 6), (1, 2, 1), ((4, 2), (2, 1), (1, 1)), 1.6, 1.5)


def built(make, *given, **how) -> nn.Module:
    """A module in double precision whose norms, biases and coefficients are not where they start."""
    with training.seeded(0):
        module = make(*given, **how).double()
        with torch.no_grad():
            for value in module.parameters():
                value.add_(0.1 * torch.randn_like(value))
    return module


def on_meta(spec: Spec, image: int) -> SReT:
    with torch.device("meta"):
        return SReT(spec, image)


def tiny(spec: Spec = TINY, image: int = 12) -> SReT:
    with training.seeded(0):
        return SReT(spec, image, 1, 10)


# --- attention --------------------------------------------------------------------------------------------


def theirs(ours: GroupAttention) -> nn.MultiheadAttention:
    """Torch's own attention with the same weights."""
    other = nn.MultiheadAttention(ours.projection.in_features, ours.heads, batch_first=True).double()
    other.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight, "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.projection.weight, "out_proj.bias": ours.projection.bias,
        }
    )  # fmt: skip
    return other


@pytest.mark.parametrize(("groups", "shuffled"), [(1, False), (3, False), (4, True), (12, True)])
def test_grouped_attention_is_torchs_on_every_piece(groups, shuffled):
    ours, x = built(GroupAttention, 10, 2), normal(2, 12, 10)
    perm = torch.tensor([7, 2, 11, 0, 5, 9, 1, 4, 10, 3, 8, 6])
    order = perm if shuffled else torch.arange(12)
    expected, reference = torch.zeros_like(x), theirs(ours)
    for piece in order.view(groups, -1):
        expected[:, piece] = reference(x[:, piece], x[:, piece], x[:, piece])[0]
    torch.testing.assert_close(ours(x, groups, perm if shuffled else None), expected, **EXACT)


def test_the_order_does_not_matter_to_one_group_and_does_to_two():
    ours, x, perm = built(GroupAttention, 6, 3), normal(1, 8, 6), torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    torch.testing.assert_close(ours(x, 1, perm), ours(x), **EXACT)
    assert float((ours(x, 2, perm) - ours(x, 2)).detach().abs().max()) > 1e-3


# --- recursion --------------------------------------------------------------------------------------------


def test_a_shared_block_gets_the_gradients_of_both_its_uses():
    shared = built(RecursiveSlot, 6, 2, 2.0, 1.0, (1, 1))
    apart = built(RecursiveSlot, 6, 2, 2.0, 1.0, (1, 1), share=False)
    for block in apart.blocks:
        block.load_state_dict(shared.blocks[0].state_dict())
    apart.projections.load_state_dict(shared.projections.state_dict())
    x, target = normal(2, 5, 6), normal(2, 5, 6, seed=1)
    for slot in (shared, apart):
        (slot(x) * target).sum().backward()
    torch.testing.assert_close(shared(x), apart(x), **EXACT)
    for name, value in shared.blocks[0].named_parameters():
        both = [dict(block.named_parameters())[name].grad for block in apart.blocks]
        assert all(float(part.abs().max()) > 0 for part in both)
        torch.testing.assert_close(value.grad, both[0] + both[1], **EXACT)


def test_a_pass_is_its_formula():
    slot, x = built(RecursiveSlot, 6, 2, 2.0, 1.5, (1, 1)), normal(2, 5, 6)
    block, expected = slot.blocks[0], x
    for nll in slot.projections:
        one, two, three = block.after_attention, block.after_mlp, nll.after
        expected = one.a * expected + one.b * block.attention(block.norm_attention(expected))
        expected = two.a * expected + two.b * block.mlp(block.norm_mlp(expected))
        expected = three.a * expected + three.b * nll.mlp(nll.norm(expected))
    torch.testing.assert_close(slot(x), expected, **EXACT)
    assert len({id(nll) for nll in slot.projections}) == 2


def test_only_later_passes_are_shuffled_and_each_anew():
    x = normal(1, 8, 6)
    first_only, both = (
        built(RecursiveSlot, 6, 2, 2.0, 1.0, groups, nll=False) for groups in ((4, 1), (1, 4))
    )
    assert torch.equal(first_only(x), first_only(x))
    assert not torch.equal(both(x), both(x))
    with training.seeded(0):
        a, b = (RecursiveSlot(6, 2, 2.0, 1.0, (4, 2), rng=np.random.default_rng(3)) for _ in range(2))
    b.load_state_dict(a.state_dict())
    assert torch.equal(a(x.float()), b(x.float()))


def test_a_block_without_projections_can_run_on():
    slot, x = built(RecursiveSlot, 6, 2, 2.0, 1.0, (1, 1), nll=False), normal(1, 4, 6)
    assert torch.equal(slot.passes(x, 4)[2], slot(x))
    assert torch.equal(slot.passes(x, 4)[4], slot(slot(x)))
    assert len(slot.passes(x, 1)) == 2


def test_gradients_are_right_in_float64():
    slot = built(RecursiveSlot, 4, 2, 1.0, 1.0, (2, 1))
    weights = dict(slot.named_parameters())

    def apply(x, *values):
        return functional_call(slot, dict(zip(weights, values, strict=True)), (x,))

    x = normal(1, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(apply, (x, *weights.values()), fast_mode=True)


def test_updates_that_repeat_have_cosine_one_and_taking_back_minus_one():
    net = tiny(TINY._replace(nll=False))
    images = normal(3, 1, 12, 12).float()
    block = net.stages[0][0].blocks[0]
    with torch.no_grad():
        # Attention and MLP add nothing, so that a pass is a multiplication by both coefficients.
        block.attention.projection.weight.zero_(), block.attention.projection.bias.zero_()
        block.mlp.down.weight.zero_(), block.mlp.down.bias.zero_()
        for factor, expected in ((2.0, 1.0), (0.5, 1.0), (-0.5, -1.0)):
            block.after_mlp.a.fill_(factor)
            found = update_cosines(net, images)
            torch.testing.assert_close(found, torch.tensor([[expected]]), rtol=0, atol=1e-5)


# --- what is stored and computed --------------------------------------------------------------------------

COUNTED = {
    "T": (4_755_979, 1_112_444_672, 1_365_682_944),
    "LT": (4_988_024, 1_164_477_184, 1_417_715_456),
    "LT, 16 and 14 groups": (4_988_024, 1_224_537_856, 1_417_715_456),
    "S": (20_899_692, 4_172_819_112, 4_671_381_960),
}


@pytest.mark.parametrize("name", SIZES)
def test_published_networks_at_true_size(name):
    sliced = SIZES[name]
    whole = sliced.with_loops(2)
    assert (*sret_counts(sliced), sret_counts(whole).macs) == COUNTED[name]
    assert cost.parameters(on_meta(sliced, 224)) == cost.parameters(on_meta(whole, 224)) == COUNTED[name][0]


@pytest.mark.parametrize("spec", [SIZES["T"], SIZES["S"].with_loops(2)])
def test_torch_counts_as_much_while_they_run(spec):
    assert counted(spec) == sret_counts(spec)


def test_maps_are_counted_without_their_weights():
    assert map_ratio(12, 4, 3, 2) == 1.5
    assert map_ratio(12, 4, 2, 2, weights=True) == (2 * 4 * 12 * 16 + 2 * 144 * 4) / (
        4 * 12 * 16 + 2 * 144 * 4
    )


def test_networks_compared_store_what_their_names_say():
    arms = compared(24, 2, 3.0, 1.0, 3, (4, 2))
    stored, computed = ({arm: small_counts(spec)[i] for arm, spec in arms.items()} for i in (0, 1))
    assert stored["one pass"] == stored["two passes"]
    assert stored["two passes, NLL"] == stored["sliced"] == stored["second pass alone"]
    for arm, like in (("four narrow blocks", "one pass"), ("two passes, wider", "two passes, NLL")):
        assert 0.99 * stored[like] < stored[arm] <= stored[like]
    assert 1.8 < computed["two passes"] / computed["one pass"] < 2
    assert computed["second pass alone"] < computed["two passes, NLL"] > computed["sliced"]
    for spec in arms.values():
        assert cost.parameters(tiny(spec)) == small_counts(spec).parameters


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("nll", [True, False])
@pytest.mark.parametrize("spec", [PYRAMID, PYRAMID._replace(patch=4, groups=((4, 4), (2, 2), (1, 1)))])
def test_closed_forms_are_what_a_network_has(spec, share, nll):
    spec = spec._replace(share=share, nll=nll)
    image = 64 if spec.patch is None else 32
    net = SReT(spec, image, 2, 7)
    found = sret_counts(spec, image, 2, 7)
    assert found == (cost.parameters(net), cost.macs(net, (1, 2, image, image)))
    assert found.macs == sum(sum(parts.values()) for parts in macs_by_stage(spec, image, 2, 7))
    assert slot_parameters(6, spec) == cost.parameters(net.stages[0][0])


def test_a_pass_adds_one_nll_where_weights_are_shared():
    assert (block_parameters(32, 3.6), nll_parameters(32, 1)) == (11_863, 2_178)
    assert nll_parameters(32, 1) == 2 * 32**2 + 4 * 32 + 2
    assert cost.parameters(SlicedBlock(32, 4, 3.6)) == 11_863
    assert cost.parameters(NonLinearProjection(32, 1)) == 2_178
    deep = Spec((32,), (4,), (2,), ((1,) * 50,), 3.6, patch=2)
    assert 2 * slot_parameters(32, deep) == 241_526
    assert 2 * slot_parameters(32, deep._replace(share=False)) == 1_404_100


def test_as_many_groups_as_passes_cost_one_global_attention():
    for loops in (1, 2, 4, 7):
        assert attention_macs(196, 64, [loops] * loops) == 2 * 196**2 * 64
    assert attention_macs(196, 64, [1, 1]) == 4 * 196**2 * 64


@pytest.mark.parametrize("most", [2000, 5000, 5001, 17_104])
def test_a_widened_network_fills_its_budget(most):
    wide = widened(TINY, most, 12, 1, 10)
    found = cost.parameters(tiny(wide))
    wider = wide._replace(mlp_ratio=wide.mlp_ratio + 1 / 8)
    assert found <= most < cost.parameters(tiny(wider))


def test_savings():
    assert [round(saving(SIZES[name]), 1) for name in ("T", "LT", "S")] == [18.5, 17.9, 10.7]
    only_last = SIZES["T"]._replace(groups=((1, 1), (1, 1), (7, 7)))
    assert 0 < saving(only_last) < 1


def test_other_groups_miss_the_published_number():
    alike = SIZES["T"]._replace(groups=((8, 8), (4, 4), (1, 1)))
    assert round(sret_counts(alike).macs / 1e9, 1) != 1.1
    assert round(sret_counts(SIZES["T"]._replace(share=False)).parameters / 1e6, 1) != 4.8


# --- data and training ------------------------------------------------------------------------------------


def test_a_digit_stands_in_the_middle_of_noise():
    digits = torch.rand(3, 8, 8)
    first, again = (amid_noise(digits, training.stream(1, "noise")) for _ in range(2))
    assert torch.equal(first, again)
    pixels = first * 0.3 + 0.25
    torch.testing.assert_close(pixels[:, 0, 2:10, 2:10], digits)
    pixels[:, 0, 2:10, 2:10] = 0
    assert first.shape == (3, 1, 12, 12)
    assert -1e-6 <= float(pixels.min()) < float(pixels.max()) <= 0.5 + 1e-6


def learned(spec: Spec = TINY):
    generator = training.stream(0, "bars")
    labels = torch.randint(2, (96,), generator=generator)
    images = 0.3 * torch.randn(96, 1, 12, 12, generator=generator)
    images[labels == 0, :, 4:6] += 1
    images[labels == 1, :, :, 4:6] += 1
    return training.train(
        lambda: SReT(spec, 12, 1, 2, np.random.default_rng(0)),
        (0, 1),
        training.shuffled(images, labels),
        (images.expand(2, -1, -1, -1, -1), labels.expand(2, -1)),
        training.Recipe(6, batch=16, lr=1e-2),
    )


@pytest.mark.parametrize("groups", [(1, 1), (4, 2)])
def test_it_learns_side_by_side_and_twice_the_same(groups):
    first, again = (learned(TINY._replace(groups=(groups,))) for _ in range(2))
    assert torch.equal(first.loss, again.loss)
    assert float(first.accuracy[:, -1].min()) > 0.85


# --- mutations --------------------------------------------------------------------------------------------

unmutated = RecursiveSlot.__init__


def unshared(self, dim, heads, mlp_ratio, nll_ratio, groups, share=True, nll=True, rng=None):
    """Every pass has a block of its own; nothing is shared."""
    unmutated(self, dim, heads, mlp_ratio, nll_ratio, groups, share=False, nll=nll, rng=rng)


MUTATIONS = [("RecursiveSlot.__init__", unshared)]


@pytest.mark.parametrize(("target", "mutation"), MUTATIONS)
def test_what_is_mutated_still_trains(monkeypatch, target, mutation):
    before = cost.parameters(tiny())
    monkeypatch.setattr(f"fourfold.efficiency.sret.{target}", mutation)
    net = tiny()
    assert cost.parameters(net) != before
    cross_entropy(net(torch.rand(4, 1, 12, 12)), torch.arange(4)).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in net.parameters())


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dim": 20}, "dim = 20: expected a multiple of 8"),
        ({"sliced": [3, 2]}, r"sliced = \[3, 2\]: expected list\[int\].*1 \| 2 \| 4"),
        ({"sliced": [4]}, r"sliced = \[4\].*at least 2 values"),
        ({"n_train": 100}, "n_train = 100: expected a multiple of 16"),
        ({"patch": 4}, r"patch = 4: expected int, 2 \| 3"),
    ],
)
def test_parameters_that_no_network_can_have_are_refused_by_name(given, message):
    record = records.load("sret")
    with pytest.raises(parameters.ParameterError, match=message):
        parameters.validate(record, record.values("quick") | given)


REFUSED = [
    (lambda: GroupAttention(10, 3), "heads must be >= 1 and divide dim = 10, got 3"),
    (lambda: GroupAttention(4, 2)(torch.rand(1, 9, 4), 2), "groups must.*the number of tokens = 9, got 2"),
    (lambda: hidden_features(4, 0.2), r"ratio \* dim >= 1, got 0.2 \* 4"),
    (lambda: RecursiveSlot(4, 2, 1, 1, ()), "number of passes must be >= 1, got 0"),
    (lambda: TINY.with_loops(0), "loops must be >= 1, got 0"),
    (lambda: built(RecursiveSlot, 4, 2, 1, 1, (1, 1)).passes(normal(1, 4, 4), 3), "loops must be 2.*got 3"),
    (lambda: tiny(image=13), "stride must be >= 1 and divide image = 13, got 3"),
    (lambda: tiny(TINY._replace(heads=(2, 2))), r"heads must be one for each of dims = \[8\], got \(2, 2\)"),
    (lambda: tiny(TINY._replace(groups=((3, 1),))), "groups must.*the number of tokens = 16, got 3"),
    (lambda: on_meta(PYRAMID._replace(groups=((1,), (1, 1), (1,))), 64), "as many passes in every stage"),
    (lambda: on_meta(PYRAMID._replace(dims=(6, 9, 24)), 64), "width must be.*divide that.* = 9, got 6"),
    (lambda: SReT(TINY, 12, 0, 10), "in_chans must be >= 1, got 0"),
    (lambda: widened(TINY, 100, 12, 1, 10), "most must be >= .*, got 100"),
    (lambda: widened(PYRAMID, 10**6, 64, 1, 10), "number of dims must be in 1..1.*, got 3"),
    (lambda: attention_macs(9, 4, [2]), "groups must.*the number of tokens = 9, got 2"),
    (lambda: amid_noise(torch.rand(2, 9, 8), training.stream(0, "x")), r"\(n, 8, 8\), got \(2, 9, 8\)"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
