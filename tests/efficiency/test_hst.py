"""HST: registers are one more token of HuggingFace's ViT, and the side network is its second writing."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score
from torch import nn
from torch.nn import functional
from transformers import ViTConfig, ViTModel

from fourfold import cost
from fourfold.attention import Attention
from fourfold.efficiency.hst import (
    ARMS,
    GROUPS,
    HSN,
    LAWS,
    PUBLISHED,
    Backbone,
    BlocksHead,
    Bridge,
    CrossAttention,
    MetaRegisterViT,
    PooledHead,
    Prompted,
    SideBlock,
    Sizes,
    draw_families,
    kept_bytes,
    mean_iou,
    mosaics,
    texture_energy,
    textures,
    trainable_parameters,
    tuned,
    vit_b,
)
from fourfold.judging import parameters, records
from fourfold.judging.card import judge
from fourfold.training import Recipe, seeded, shuffled, stream, train

from ..draws import normal
from ..hugging_face import THEIR_NAMES

SMALL = {"size": 32, "patch": 8, "channels": 1, "dim": 16, "depth": 4, "heads": 4, "classes": 3}
SIZES = Sizes((4, 8, 8, 12), (2, 2, 4, 4), (1, 1, 1, 1), classes=3, patch=8)


def jolted(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in float64 with random norms and biases, which start as ones and zeros and hide mistakes."""
    module = module.double()
    for i, value in enumerate(module.parameters()):
        value.data += 0.3 * normal(*value.shape, seed=1000 * seed + i) if value.numel() else 0
    return module.eval()


def backbone(seed: int = 0, **how) -> Backbone:
    with seeded(seed):
        return jolted(Backbone(**{**SMALL, **how}), seed)


# --- the transformer, against HuggingFace ------------------------------------------------------------------


def huggingface(net: Backbone) -> ViTModel:
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64, image_size=32,
        patch_size=8, num_channels=1, layer_norm_eps=1e-6, hidden_act="gelu", hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, attn_implementation="eager",
    )  # fmt: skip
    state = net.state_dict()
    theirs = {
        "embeddings.cls_token": state["vit.cls"][None, None],
        "embeddings.position_embeddings": state["vit.positions"][None],
    }
    for kind in ("weight", "bias"):
        theirs[f"embeddings.patch_embeddings.projection.{kind}"] = state[f"patches.{kind}"]
        theirs[f"layernorm.{kind}"] = state[f"vit.norm.{kind}"]
        for block in range(4):
            for ours, name in THEIR_NAMES.items():
                theirs[f"layers.{block}.{name}.{kind}"] = state[f"vit.blocks.{block}.{ours}.{kind}"]
    model = ViTModel(config, add_pooling_layer=False).double().eval()
    model.load_state_dict(theirs, strict=True)
    return model


def test_without_registers_every_blocks_map_is_huggingfaces():
    net, images = backbone(), normal(2, 1, 32, 32)
    registers, maps = MetaRegisterViT(net, 0)(images)
    hidden = huggingface(net)(images, output_hidden_states=True).hidden_states[1:]
    assert [r.shape for r in registers] == [(2, 0, 16)] * 4
    for ours, theirs in zip(maps, hidden, strict=True):
        expected = theirs[:, 1:].transpose(1, 2).reshape(2, 16, 4, 4)
        # Their softmax is in single precision.
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


class HidesFirst(nn.Module):
    """An attention in which no token sees the first ``n``."""

    def __init__(self, attention: Attention, n: int):
        super().__init__()
        self.attention, self.n = attention, n

    def forward(self, x, queries=None):
        a = self.attention
        q, k, v = (a._split(linear(x)) for linear in (a.query, a.key, a.value))
        scores = q @ k.transpose(-2, -1) * a.scale
        scores[..., : self.n] = -torch.inf
        mixed = (scores.softmax(-1) @ v).transpose(-3, -2).flatten(-2)
        return a.projection(mixed), scores


def test_registers_are_seen_by_the_tokens_of_their_block_and_do_nothing_else():
    net, images = backbone(), normal(2, 1, 32, 32)
    without = MetaRegisterViT(net, 0)(images)[1]
    vit = jolted(MetaRegisterViT(backbone(), 2), 3)
    vit.backbone.load_state_dict(net.state_dict())
    registers, maps = vit(images)
    assert [r.shape for r in registers] == [(2, 2, 16)] * 4
    assert all((one - other).abs().max() > 1e-3 for one, other in zip(maps, without, strict=True))
    for block in vit.backbone.blocks:
        block.attention = HidesFirst(block.attention, 2)
    for one, other in zip(vit(images)[1], without, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_a_blocks_register_is_gone_before_the_next():
    vit, images = jolted(MetaRegisterViT(backbone(), 1), 3), normal(2, 1, 32, 32)
    before = vit(images)
    vit.registers.data[2] += 1
    after = vit(images)
    for block in range(4):
        same = torch.equal(before[1][block], after[1][block])
        assert same == (block < 2)
    tokens = vit.backbone.embed(images)
    for block, register in zip(vit.backbone.blocks, vit.registers, strict=True):
        tokens = block(torch.cat([register.expand(2, -1, -1), tokens], 1))[0][:, 1:]
    torch.testing.assert_close(after[1][3], vit.backbone.as_map(tokens), rtol=0, atol=1e-12)


# --- the side network, written a second time --------------------------------------------------------------


@pytest.mark.parametrize(("dim", "heads", "few"), [(8, 2, 2), (12, 3, 1), (6, 6, 5)])
def test_cross_attention_is_torchs(dim, heads, few):
    ours = jolted(CrossAttention(dim, heads))
    theirs = nn.MultiheadAttention(dim, heads, kdim=dim, vdim=dim, batch_first=True).double().eval()
    theirs.in_proj_weight.data = torch.cat([ours.query.weight, ours.key.weight, ours.value.weight])
    theirs.in_proj_bias.data = torch.cat([ours.query.bias, ours.key.bias, ours.value.bias])
    theirs.out_proj.load_state_dict(ours.projection.state_dict())
    x, kv = normal(3, 7, dim), normal(3, few, dim, seed=1)
    torch.testing.assert_close(ours(x, kv), theirs(x, kv, kv)[0], rtol=0, atol=1e-12)


def norm(x, module):
    return functional.layer_norm(x, x.shape[-1:], module.weight, module.bias, 1e-6)


def second_writing(net: HSN, images, registers, maps, *, use_global=True, use_fine=True):
    """The side network, step by step as in the paper, on torch's functions alone."""
    x, pyramid, block = images, [], 0
    for number, stage in enumerate(net.stages):
        if number == 0:
            first, bn, _, second = stage.entry.convolve
            x = functional.conv2d(x, first.weight, None, 2, 1)
            x = functional.batch_norm(
                x, bn.running_mean, bn.running_var, bn.weight, bn.bias, False, eps=bn.eps
            )
            x = functional.conv2d(x.relu(), second.weight, second.bias, 2)
        else:
            x = functional.conv2d(x, stage.entry.convolve.weight, stage.entry.convolve.bias, 2, 1)
        rows, columns = x.shape[-2:]
        tokens = norm(x.flatten(2).transpose(1, 2), stage.entry.norm)
        t = stage.bridge.linear
        for index, side in enumerate(stage.blocks):
            fine = functional.interpolate(maps[block], (rows, columns), mode="bilinear", align_corners=False)
            fine = functional.linear(fine.flatten(2).transpose(1, 2), t.weight, t.bias)
            few = [norm(functional.linear(registers[block], t.weight, t.bias), stage.bridge.norms[index])]
            few += [fine.mean(1, keepdim=True)] if use_global else []
            attention, few = side.attention, torch.cat(few, 1)
            theirs = (
                nn.MultiheadAttention(tokens.shape[-1], attention.heads, batch_first=True).double().eval()
            )
            linears = (attention.query, attention.key, attention.value)
            theirs.in_proj_weight.data = torch.cat([linear.weight for linear in linears])
            theirs.in_proj_bias.data = torch.cat([linear.bias for linear in linears])
            theirs.out_proj.load_state_dict(attention.projection.state_dict())
            tokens = tokens + theirs(norm(tokens, side.norm_attention), few, few)[0]
            tokens = tokens + fine if use_fine else tokens
            hidden = functional.gelu(side.mlp.up(norm(tokens, side.norm_mlp)))
            tokens = tokens + side.mlp.down(hidden)
            block += 1
        x = norm(tokens, stage.norm).transpose(1, 2).reshape(len(images), -1, rows, columns)
        pyramid.append(x)
    return pyramid


@pytest.mark.parametrize("size", [(32, 32), (50, 35)])
@pytest.mark.parametrize("parts", [{}, {"use_global": False}, {"use_fine": False}])
def test_the_side_network_is_its_second_writing(size, parts):
    net = jolted(HSN(16, (4, 8, 8, 12), (2, 2, 4, 4), (2, 1, 1, 1), 2, **parts))
    images = normal(2, 2, *size)
    registers = [normal(2, 1, 16, seed=i) for i in range(5)]
    maps = [normal(2, 16, 3, 4, seed=10 + i) for i in range(5)]
    ours, theirs = net(images, registers, maps), second_writing(net, images, registers, maps, **parts)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)
    assert [tuple(x.shape[1:2]) for x in ours] == [(4,), (8,), (8,), (12,)]


def test_nothing_to_attend_to_and_nothing_to_add_leave_an_mlp():
    block = jolted(SideBlock(8, 2))
    x = normal(2, 5, 8)
    expected = x + block.mlp(block.norm_mlp(x))
    torch.testing.assert_close(block(x, normal(2, 0, 8), None), expected, rtol=0, atol=1e-12)
    assert (block(x, normal(2, 1, 8), None) - expected).abs().max() > 1e-3


# --- counts -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large():
    with torch.device("meta"):
        return tuned("HST", vit_b(), PUBLISHED)


def test_every_group_has_the_papers_count(large):
    assert trainable_parameters(large) == {
        "bridges": 24_608 + 36_912 + 49_216 + 55_368,
        "bridge norms": 1_296,
        "side blocks": 38_112 + 84_816 + 149_952 + 189_432,
        "stage entries": 5_120 + 13_968 + 27_840 + 41_688,
        "stage norms": 432,
        "registers": 9_216,
        "ViT norms": 36_864,
        "head": 73 * 50,
    }
    assert cost.parameters(large) == 764_840 + 73 * 50
    assert round((764_840 + 73 * 940 / 19) / 1e6, 2) == 0.77


def test_scales_and_operations_at_the_papers_size(large):
    pyramid = large.pyramid(torch.empty(2, 3, 224, 224, device="meta"))
    assert [tuple(x.shape[1:]) for x in pyramid] == [(32, 56, 56), (48, 28, 28), (64, 14, 14), (72, 7, 7)]
    assert round(cost.macs(large, (1, 3, 224, 224)) / 1e9, 2) == 18.24


def test_what_an_arm_trains_is_what_its_name_says():
    net, counts = backbone(), {}
    vit_norms = 4 * 4 * 16
    for arm in ARMS:
        model = tuned(arm, net, SIZES)
        counts[arm] = cost.parameters(model)
        assert model.double()(normal(2, 1, 32, 32)).shape == (2, 3, 32, 32)
    head = 3 * (4 * 16 + 1)
    assert counts["linear probe"] == head
    assert counts["LN tuning"] == head + vit_norms
    assert counts["VPT"] == head + 8 * 16
    read = [
        v.numel() for name, v in net.named_parameters() if "vit.norm" not in name and "vit.head" not in name
    ]
    assert counts["full fine-tuning"] == head + sum(read)
    registers = 4 * 16
    assert counts["HST"] - counts["side network alone"] == registers + vit_norms
    assert counts["HST"] - counts["norms not tuned"] == vit_norms
    assert counts["HST"] - counts["no registers"] == registers
    assert counts["HST"] == counts["no fine map"] == counts["no global token"]
    assert counts["HST, ViT not tuned"] == counts["side network alone"]
    assert counts["added afterwards"] == counts["side network alone"] + head


def test_bytes_kept_for_the_gradient_are_those_of_a_small_net_counted_by_hand():
    net = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3))
    # Inputs of both linear layers and of the GELU, in four bytes each.
    assert kept_bytes(net, 2, 5) == 4 * 2 * (5 + 7 + 7)
    net[0].requires_grad_(False)
    assert kept_bytes(net, 2, 5) == 4 * 2 * 7
    assert kept_bytes(net.requires_grad_(False), 2, 5) == 0


def test_side_tuning_keeps_more_than_full_fine_tuning_unless_no_gradient_enters_the_transformer():
    def kept(arm):
        with torch.device("meta"):
            return kept_bytes(tuned(arm, vit_b(), PUBLISHED), 2, 3, 224, 224)

    assert kept("HST") > kept("full fine-tuning") > kept("LN tuning") > kept("HST, ViT not tuned")
    assert kept("linear probe") < kept("side network alone") / 100


# --- gradients, training ----------------------------------------------------------------------------------


def test_gradients_are_the_numerical_ones():
    block = jolted(SideBlock(4, 2))
    inputs = normal(1, 3, 4), normal(1, 2, 4, seed=1), normal(1, 3, 4, seed=2)
    assert torch.autograd.gradcheck(block, tuple(x.requires_grad_() for x in inputs))
    bridge = jolted(Bridge(5, 4, 1))
    register, features = normal(1, 1, 5).requires_grad_(), normal(1, 5, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda r, f: bridge(0, r, f, (3, 2)), (register, features))


@pytest.mark.parametrize("arm", ARMS)
def test_only_what_is_trainable_moves_and_training_repeats(arm):
    net = backbone().float()
    draw = mosaics(draw_families(3, stream(0, "families")), 6, 32, stream(0, "mosaics"))
    test = draw.images[None, :1], draw.labels[None, :1]

    def run():
        return train(
            lambda: tuned(arm, net, SIZES), (5,), shuffled(draw.images, draw.labels), test,
            Recipe(2, batch=3, lr=1e-2), together=False, score=lambda scores, _: torch.zeros(len(scores)),
        )  # fmt: skip

    once, again = run(), run()
    assert torch.equal(once.loss, again.loss)
    with seeded(5):
        start = tuned(arm, net, SIZES)
    trained = once.member(0)
    for (name, before), after in zip(start.named_parameters(), trained.parameters(), strict=True):
        # A softmax over one key is 1, whatever the query: with either token gone nobody attends any more.
        idle = arm in ("no registers", "no global token") and ("attention" in name or ".norms." in name)
        if before.numel() and not idle:
            assert before.requires_grad != torch.equal(before, after), name


def test_a_class_for_the_image_from_either_head():
    images = normal(4, 1, 32, 32)
    for arm in ("HST", "LN tuning"):
        model = tuned(arm, backbone(), SIZES._replace(dense=False)).double().train()
        assert model(images).shape == (4, 3)
    head = PooledHead(12, 3).double().train()
    pooled = normal(4, 12, 2, 2).mean((2, 3))
    expected = head.linear((pooled - pooled.mean(0)) / (pooled.var(0, correction=0) + 1e-6).sqrt())
    torch.testing.assert_close(head([normal(4, 12, 2, 2)]), expected, rtol=0, atol=1e-12)


def test_a_linear_head_may_resize_classes_in_place_of_features():
    head, maps = (
        jolted(BlocksHead(5, 2, 3, patch=4, dense=True)),
        [normal(2, 5, 3, 3, seed=i) for i in range(2)],
    )
    features = torch.cat([functional.layer_norm(x.movedim(1, -1), (5,)).movedim(-1, 1) for x in maps], 1)
    upsampled = functional.interpolate(features, size=(12, 12), mode="bilinear", align_corners=False)
    torch.testing.assert_close(head(maps), head.linear(upsampled), rtol=0, atol=1e-12)


# --- textures ---------------------------------------------------------------------------------------------


def test_textures_are_standardised_differ_between_families_and_repeat():
    families = draw_families(6, stream(0, "families"))
    labels = torch.arange(60) % 6
    drawn = textures(families, labels, 24, stream(0, "draw"))
    torch.testing.assert_close(drawn.mean((1, 2)), torch.zeros(60), rtol=0, atol=1e-5)
    torch.testing.assert_close(drawn.var((1, 2)), torch.ones(60), rtol=0, atol=1e-5)
    assert torch.equal(drawn, textures(families, labels, 24, stream(0, "draw")))
    assert not torch.equal(drawn[0], drawn[6])


def test_a_familys_spectrum_is_where_it_says():
    families = draw_families(1, stream(0, "one"))._replace(
        wavelength=torch.tensor([6.0]), bandwidth=torch.tensor([0.15]), orientation=torch.tensor([0.0]),
        spread=torch.tensor([0.15]), shape=torch.tensor([0]),
    )  # fmt: skip
    power = (
        torch.fft.fft2(textures(families, torch.zeros(50, dtype=torch.int64), 48, stream(0, "draw"))).abs()
        ** 2
    )
    row, column = divmod(int(power.mean(0).argmax()), 48)
    assert min(row, 48 - row) <= 1  # crests run down the picture
    assert abs(min(column, 48 - column) - 8) <= 1  # 48 / 6


def test_mosaics_show_two_families_each_as_it_would_stand_alone():
    families = draw_families(4, stream(1, "families"))
    found = mosaics(families, 40, 20, stream(1, "mosaics"))
    assert found.images.shape == (40, 1, 20, 20)
    kinds = [set(labels.flatten().tolist()) for labels in found.labels]
    assert {len(k) for k in kinds} == {2}
    assert set().union(*kinds) == {0, 1, 2, 3}
    share = float((found.labels == found.labels[:, :1, :1]).double().mean())
    assert 0.35 < share < 0.85


def test_mean_iou_is_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randint(5, (3, 8, 8), generator=generator) for _ in range(2))
    theirs = jaccard_score(other.flatten(), one.flatten(), average="macro")
    assert mean_iou(one, other, 5) == pytest.approx(100 * theirs, rel=1e-12)
    # A class that neither holds does not count.
    assert mean_iou(one, other, 7) == mean_iou(one, other, 5)
    assert mean_iou(one, one, 5) == 100


def test_laws_energy_is_a_mean_of_absolute_answers():
    images = normal(1, 1, 21, 21).float()
    found = texture_energy(images, 3)
    assert found.shape == (1, 25, 21, 21)
    mask = np.outer(LAWS[1], LAWS[3])
    patch = images[0, 0].numpy()
    answers = [
        abs((patch[y - 2 : y + 3, x - 2 : x + 3] * mask).sum()) for y in (9, 10, 11) for x in (9, 10, 11)
    ]
    assert float(found[0, 1 * 5 + 3, 10, 10]) == pytest.approx(math.log(np.mean(answers) + 1e-3), rel=1e-4)


# --- the mechanism without its heart ----------------------------------------------------------------------


def zeros(self, images):
    """The side network reads zeros in place of the transformer's registers and maps."""
    rows = math.isqrt(self.backbone.vit.positions.shape[0] - 1)
    shapes = (self.registers.shape[1], self.backbone.dim), (self.backbone.dim, rows, rows)
    registers, maps = ([images.new_zeros(len(images), *shape)] * len(self.registers) for shape in shapes)
    return registers, maps


MUTATIONS = [("MetaRegisterViT.forward", zeros)]


# --- what the record says ---------------------------------------------------------------------------------

RECORD = records.load("hst")
FEW = [1.0, 1.2, 0.9, 1.1, 1.0, 0.8]


def words(claim, criteria, controls, trained=20.0, pretrained=80.0):
    """The verdict on a claim if each of these quantities had such values, give or take a little."""
    given = [
        {name: [value * x for x in FEW] for name, value in part.items()} for part in (criteria, controls)
    ]
    conditions = {"trained": [trained] * 6, "pretrained": [pretrained] * 6}
    return judge(RECORD, claim, *given, conditions).word


LEAD = {"over_probe": 4, "over_norms": 3, "over_prompts": 5}
LAZY = {"alone": -3, "added": -2, "energies": -4}


@pytest.mark.parametrize("rival", LAZY)
def test_a_lead_that_lazy_rivals_have_too_is_none(rival):
    assert words("C3", LEAD, LAZY) == "reproduced"
    assert words("C3", LEAD, LAZY | {rival: 2}) == "inconclusive"
    assert words("C3", LEAD | {"over_probe": -5}, LAZY) == "not reproduced"


def test_reading_the_transformer_is_not_adding_its_scores():
    lead = {"over_alone": 6, "over_random": 5}
    lazy = {"random": -1, "added": 0.5, "energies": -2, "added_random": -3}
    assert words("C3b", lead, lazy) == "reproduced"
    assert words("C3b", lead, lazy | {"added": 4}) == "inconclusive"
    assert words("C3b", lead, lazy | {"added_random": 4}) == "inconclusive"
    full = {"probe": -4, "alone": -5, "energies": -1}
    assert words("C4", {"over_full": 2}, full) == "reproduced"
    assert words("C4", {"over_full": -3}, full) == "not reproduced"
    assert words("C4", {"over_full": 2}, full | {"energies": 1}) == "inconclusive"


@pytest.mark.parametrize("condition", [{"trained": 2.0}, {"pretrained": 30.0}])
def test_networks_that_have_not_learnt_show_nothing(condition):
    assert words("C3", LEAD, LAZY, **condition) == "inconclusive"


def test_a_bridge_for_each_block_is_counted_larger(large):
    groups = trainable_parameters(large)
    assert set(GROUPS) < groups.keys()
    assert 2 * groups["bridges"] == 332_208
    with torch.device("meta"):
        apart = [HSN(768, PUBLISHED.dims, PUBLISHED.heads, (1, 1, 1, 1)).stages for _ in range(3)]
    assert (
        sum(cost.parameters(stage.bridge.linear) for net in apart for stage in net) == 3 * groups["bridges"]
    )


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("n_train", 50, "a multiple of 20"),
        ("width", 12, "a multiple of 8"),
        ("vit_depth", 6, "a multiple of 4"),
    ],
)
def test_sizes_that_cannot_be_are_refused(name, value, says):
    with pytest.raises(parameters.ParameterError, match=says):
        parameters.validate(RECORD, RECORD.values("quick") | {name: value})


# --- bad input --------------------------------------------------------------------------------------------

REFUSED = [
    (lambda: Backbone(**{**SMALL, "patch": 5}), "patch must be >= 1 and divide size = 32, got 5"),
    (lambda: MetaRegisterViT(backbone(), -1), "n_registers must be >= 0, got -1"),
    (lambda: CrossAttention(8, 3), "heads must be >= 1 and divide dim = 8, got 3"),
    (lambda: Bridge(8, 0, 1), "dim must be >= 1, got 0"),
    (lambda: HSN(8, (4, 4, 4), (1,) * 4, (1,) * 4), r"dims must be 4 values >= 1, got \[4, 4, 4\]"),
    (lambda: HSN(8, (4,) * 4, (1,) * 4, (1, 0, 1, 1)), r"depths must be 4 values >= 1, got \[1, 0, 1, 1\]"),
    (
        lambda: tuned("HST", backbone(), SIZES._replace(depths=(2, 1, 1, 1)))(normal(2, 1, 32, 32)),
        "depths must add up",
    ),
    (lambda: Prompted(backbone(), nn.Identity(), -1), "n_tokens must be >= 0, got -1"),
    (lambda: tuned("LoRA", backbone(), SIZES), "arm must be one of .*, got 'LoRA'"),
    (lambda: draw_families(0, stream(0, "x")), "n must be >= 1, got 0"),
    (
        lambda: textures(draw_families(1, stream(0, "x")), torch.zeros(1).long(), 3, stream(0, "y")),
        "size must be >= 4",
    ),
    (lambda: mosaics(draw_families(1, stream(0, "x")), 1, 8, stream(0, "y")), "families must be >= 2, got 1"),
    (lambda: mean_iou(torch.zeros(2).long(), torch.zeros(3).long(), 2), r"got \(2,\), \(3,\)"),
    (lambda: mean_iou(torch.tensor([2]), torch.tensor([0]), 2), r"lowest_class must be in 0\.\.1, got 2"),
    (lambda: texture_energy(normal(1, 1, 9, 9).float(), 4), "window must be odd and >= 1, got 4"),
]


@pytest.mark.parametrize(("call", "words"), REFUSED)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
