"""Token slimming is a softmax over tokens, contains dropping, and LV-ViT has the published sizes."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from fourfold import cost
from fourfold.attention import PatchEmbedding, ViT
from fourfold.efficiency.sit import (
    CONFIGS,
    GRIDS,
    REDUCERS,
    HardDrop,
    MeanPooling,
    NormPooling,
    Recalibrated,
    RepeatTokens,
    ReverseTokenSlimming,
    SlimViT,
    StaticSlimming,
    Stem,
    TokenSlimming,
    check_stages,
    cut_off,
    distillation_loss,
    frd_loss,
    hard_drop,
    lessons,
    lvvit_config,
    lvvit_counts,
    one_hot_slimming,
    patch_weights,
    preference,
    sharpened,
    slimmed,
    slimmed_lvvit,
    spared,
    token_error,
    untouched,
    with_weights,
)
from fourfold.judging import parameters, records
from fourfold.training import Recipe, seeded, shuffled, stream, train

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}


class Tiny(nn.Module):
    """16 tokens of 8 features in three blocks."""

    def __init__(self, mlp_ratio=2):
        super().__init__()
        self.patches = PatchEmbedding(1, 8, 2)
        self.vit = ViT(tokens=16, dim=8, depth=3, heads=2, mlp_ratio=mlp_ratio, classes=3)


def slim(after=(0, 1), n_tokens=(4, 2), reduce=None) -> SlimViT:
    with seeded(0):
        return SlimViT(Tiny(), after, n_tokens, reduce).double()


# --- token slimming ---------------------------------------------------------------------------------------


def test_slimming_is_numpys_softmax_over_tokens_and_an_average_of_the_raw_tokens(jolted):
    tsm = jolted(TokenSlimming(6, 3).double())
    x = normal(2, 7, 6)
    with torch.no_grad():
        scores = float(tsm.tau) * tsm.down(nn.functional.gelu(tsm.up(tsm.norm(x))))
        found = tsm(x)
    e = np.exp(scores.numpy())
    weights = e / e.sum(1, keepdims=True)
    expected = np.einsum("bnk,bnc->bkc", weights, x.numpy())
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)
    # Over the other axis it is something else.
    over_k = np.einsum("bnk,bnc->bkc", e / e.sum(2, keepdims=True), x.numpy())
    assert abs(over_k - expected).max() > 0.1


def test_one_hot_scores_are_hard_dropping():
    tsm, x = TokenSlimming(6, 3).double(), normal(1, 7, 6)
    picks = [4, 0, 5]
    scores = torch.full((1, 7, 3), -1e4, dtype=torch.float64)
    scores[0, picks, range(3)] = 1e4
    tsm.down.forward = lambda _: scores
    assert torch.equal(tsm(x)[0], x[0, picks])
    ranks = torch.zeros(1, 7, dtype=torch.float64)
    ranks[0, picks] = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    assert torch.equal(hard_drop(x, ranks, 3), tsm(x))
    assert torch.equal(one_hot_slimming(x, ranks, 3), tsm(x))


def test_rows_sum_to_one_and_the_order_of_tokens_does_not_matter(jolted):
    tsm, x = jolted(TokenSlimming(6, 3).double()), normal(2, 7, 6)
    torch.testing.assert_close(tsm.weights(x).sum(-1), torch.ones(2, 3).double(), **EXACT)
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    torch.testing.assert_close(tsm(x[:, order]), tsm(x), **EXACT)


@pytest.mark.parametrize(("make", "none"), [(lambda: TokenSlimming(6, 3), 0), (lambda: HardDrop(3), 4)])
def test_every_token_gets_a_gradient_and_of_hard_dropping_only_those_kept(make, none):
    assert untouched(make().double(), normal(1, 7, 6), normal(1, 2, 8, 8).softmax(-1)) == none


@pytest.mark.parametrize(("dim", "k"), [(384, 98), (10, 3)])
def test_published_parameters_of_the_modules(dim, k):
    n = 2 * k
    tsm, rtsm = TokenSlimming(dim, k), ReverseTokenSlimming(dim, k, n)
    assert cost.parameters(tsm) == 2 * dim + dim**2 // 2 + dim // 2 + dim * k // 2 + k + 1
    assert cost.parameters(rtsm) == 4 * dim + (4 * n * k + 4 * n) + (4 * n**2 + n) + 8 * dim**2 + 5 * dim
    if dim == 384:
        assert (cost.parameters(tsm), cost.parameters(rtsm)) == (93_603, 1_414_580)


def test_gradients_are_right_in_float64(jolted):
    tsm = jolted(TokenSlimming(4, 2).double())
    weights = dict(tsm.named_parameters())

    def apply(x, *values):
        return functional_call(tsm, dict(zip(weights, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(apply, (normal(1, 5, 4).requires_grad_(), *weights.values()))


# --- rivals and the way back ------------------------------------------------------------------------------


def test_mean_pooling_is_average_pooling_of_the_map():
    x = normal(2, 32, 3)
    found = MeanPooling((4, 8), (2, 2))(x)
    image = x.mT.reshape(2, 3, 4, 8)
    expected = nn.functional.avg_pool2d(image, (2, 4)).flatten(2).mT
    torch.testing.assert_close(found, expected, **EXACT)


def test_static_slimming_gives_every_image_the_same_weights():
    with seeded(0):
        static = StaticSlimming(7, 2).double()
    x = normal(3, 7, 4)
    weights = static(torch.eye(7).double()).detach()
    torch.testing.assert_close(static(x), weights @ x, **EXACT)


def test_hard_dropping_keeps_what_the_class_token_attends_to_most():
    x, attention = normal(2, 7, 3), normal(2, 2, 8, 8, seed=1).softmax(-1)
    best = attention[:, :, 0, 1:].mean(1).topk(3).indices
    expected = torch.stack([image[kept] for image, kept in zip(x, best, strict=True)])
    assert torch.equal(HardDrop(3)(x, attention), expected)


def test_repeated_tokens_stand_side_by_side():
    x = normal(1, 2, 3)
    assert torch.equal(RepeatTokens(3, 2, 5)(x)[0], x[0, [0, 0, 0, 1, 1]])


def test_the_way_back_is_its_formula(jolted):
    rtsm = jolted(ReverseTokenSlimming(4, 2, 5).double())
    x = normal(2, 2, 4)
    y = torch.einsum("on,bnc->boc", rtsm.up.weight, rtsm.norm_tokens(x)) + rtsm.up.bias[:, None]
    y = torch.einsum("on,bnc->boc", rtsm.down.weight, nn.functional.gelu(y)) + rtsm.down.bias[:, None]
    torch.testing.assert_close(rtsm(x), y + rtsm.mlp(rtsm.norm_features(y)), **EXACT)
    assert rtsm(x).shape == (2, 5, 4)


# --- networks and distillation ----------------------------------------------------------------------------


def test_without_slimming_it_is_its_backbone_to_the_last_bit():
    net, images = slim((), ()), normal(2, 1, 8, 8)
    with seeded(0):
        backbone = Tiny().double()
    x = backbone.vit.embed(backbone.patches(images))
    for block in backbone.vit.blocks:
        x, _ = block(x)
    assert torch.equal(net(images), backbone.vit.classify(x))


def test_tokens_fall_after_the_blocks_named():
    logits, tokens = slim().classes_and_tokens(normal(2, 1, 8, 8))
    assert logits.shape == (2, 3)
    assert [x.shape[1] for x in tokens] == slim().tokens_after() == [4, 2, 2]


def test_patch_weights_are_those_of_the_tokens_that_are_left(jolted):
    net, images = jolted(slim()), normal(2, 1, 8, 8)
    early, found = patch_weights(net, images)
    assert found.shape == (2, 2, 16)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 2).double(), **EXACT)
    x, _ = net.vit.blocks[0](net.vit.embed(net.patches(images)))
    first = net.slim[0].weights(x[:, 1:])
    x, _ = net.vit.blocks[1](torch.cat([x[:, :1], first @ x[:, 1:]], 1))
    torch.testing.assert_close(early, first, **EXACT)
    torch.testing.assert_close(found, net.slim[1].weights(x[:, 1:]) @ first, **EXACT)
    assert not any(stage._forward_pre_hooks for stage in net.slim)


def test_the_loss_is_pytorchs_divergence_and_a_plain_mean():
    student, teacher, labels = normal(5, 3), normal(5, 3, seed=1), torch.tensor([0, 2, 1, 1, 0])
    ours, theirs = (list(normal(2, 5, 4, 6, seed=seed)) for seed in (2, 3))
    tokens = token_error(ours, theirs)
    by_hand = sum(float(((a - b) ** 2).mean()) for a, b in zip(ours, theirs, strict=True)) / 2
    found = frd_loss(student, teacher, tokens, labels, lambda_token=3, lambda_logits=0.5, tau=2)
    log_student, log_teacher = (x.div(2).log_softmax(-1) for x in (student, teacher))
    divergence = nn.functional.kl_div(log_student, log_teacher, log_target=True, reduction="batchmean")
    assert float(found["tokens"]) == pytest.approx(by_hand, abs=1e-12)
    assert float(found["logits"]) == pytest.approx(4 * float(divergence), abs=1e-12)
    entropy = float(nn.functional.cross_entropy(student, labels))
    expected = entropy + 3 * by_hand + 2 * float(divergence)
    assert float(found["total"]) == pytest.approx(expected, abs=1e-12)


def test_a_network_is_taught_by_what_it_returns():
    labels = torch.tensor([0, 2])
    targets = torch.cat([labels[:, None], normal(2, 3, seed=1)], 1)
    output = normal(2, 4)
    whole = frd_loss(output[:, :3], targets[:, 1:], output[:, 3], labels)["total"]
    without = frd_loss(output[:, :3], targets[:, 1:], torch.zeros(2), labels)["total"]
    assert torch.equal(distillation_loss(output, targets), whole)
    assert torch.equal(distillation_loss(output[:, :3], targets), without)


def test_a_student_learns_beside_a_frozen_teacher_which_evaluation_leaves_out():
    net, images = Recalibrated(slim(), slim((), ())).double(), normal(2, 1, 8, 8)
    output = net.train()(images)
    assert output.shape == (2, 4)
    output.sum().backward()
    assert all(value.grad is None for value in net.teacher.parameters())
    assert all(value.grad is not None for value in net.expand.parameters())
    assert [type(make).__name__ for make in net.expand] == ["ReverseTokenSlimming"] * 3
    with torch.no_grad():
        assert torch.equal(net.eval()(images), net.student(images))
        whole = net.teacher.classes_and_tokens(images)[1]
        tokens = net.student.classes_and_tokens(images)[1]
        error = token_error([make(x) for make, x in zip(net.expand, tokens, strict=True)], whole)
    torch.testing.assert_close(output[:, -1], error, **EXACT)
    late = Recalibrated(slim((1,), (4,)), slim((), ()), RepeatTokens)
    assert [type(make).__name__ for make in late.expand] == ["Identity", "RepeatTokens", "RepeatTokens"]


def test_a_student_starts_from_trained_weights():
    make = partial(SlimViT, Tiny(), (0,), (4,))
    given = {"vit.cls": torch.stack([torch.ones(8), 2 * torch.ones(8)])}
    start = with_weights(lambda: nn.ModuleDict({"student": make()}), (3, 4), {"student.": given, "": given})
    assert torch.equal(start["student.vit.cls"], given["vit.cls"])
    up = start["student.slim.0.up.weight"]
    assert up.shape == (2, 4, 8)
    assert not torch.equal(up[0], up[1])


def test_patches_are_cut_off_or_preferred():
    first = torch.tensor([[[0.5, 0.5, 0, 0]], [[0.25, 0.25, 0.25, 0.25]]])
    last = torch.tensor([[[0.9, 0, 0.1, 0]], [[1.0, 0, 0, 0]]])
    mask = torch.tensor([[True, True, True, True], [True, False, False, True]])
    assert cut_off([first], mask) == pytest.approx(2 / 6)
    assert cut_off([first, last], mask) == pytest.approx(1 / 6)
    some = torch.tensor([[True, False, False, False]] * 2)
    assert preference(first, some, ~some) == pytest.approx(0.375 / (1.25 / 6))


def test_norm_pooling_weighs_the_tokens_of_a_rectangle_by_their_norms():
    x = normal(2, 32, 3)
    part = x.reshape(2, 4, 8, 3)[:, 2:, :4].reshape(2, 8, 3)
    weights = part.norm(dim=-1, keepdim=True).softmax(1)
    torch.testing.assert_close(NormPooling((4, 8), (2, 2))(x)[:, 2], (weights * part).sum(1), **EXACT)


def test_weights_of_hard_dropping_pick_what_it_keeps():
    x, attention, drop = normal(2, 7, 3), normal(2, 2, 8, 8, seed=1).softmax(-1), HardDrop(3)
    torch.testing.assert_close(drop.weights(x, attention) @ x, drop(x, attention), **EXACT)


def test_patch_weights_of_hard_dropping_are_of_single_patches():
    net, images = slim((0, 1), (4, 2), lambda stage: HardDrop((4, 2)[stage])), normal(2, 1, 8, 8)
    for weights in patch_weights(net, images):
        torch.testing.assert_close(weights.amax(-1), torch.ones(weights.shape[:2]).double(), **EXACT)


def test_the_last_block_spares_what_nobody_reads():
    class ReadOnly(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = ViT(tokens=16, dim=8, depth=3, heads=2, mlp_ratio=4, classes=3)

        def forward(self, x):
            return self.vit(x)[0]

    net = ReadOnly()
    all_tokens = SlimViT(Tiny(4), (), ())
    embedding = 16 * 4 * 8
    assert cost.macs(all_tokens, (1, 1, 8, 8)) - embedding - spared(16, 8) == cost.macs(net, (1, 16, 8))


@pytest.mark.parametrize("name", REDUCERS)
def test_every_rival_leaves_as_many_tokens(name):
    attention = normal(2, 1, 33, 33).softmax(-1)
    assert all(rows * columns == tokens for tokens, (rows, columns) in GRIDS.items())
    assert REDUCERS[name](6, 32, 8).double()(normal(2, 32, 6), attention).shape == (2, 8, 6)


@pytest.mark.parametrize("way", ["TSM", "hard", "static"])
def test_students_differ_in_what_reduces_their_tokens(way):
    net = slimmed(Tiny(), way, (0, 1), (4, 2))
    assert net(torch.zeros(1, 1, 8, 8)).shape == (1, 3)
    kind = {"hard": HardDrop, "static": StaticSlimming}.get(way, TokenSlimming)
    assert all(isinstance(stage, kind) for stage in net.slim)


def test_a_teacher_answers_once_for_every_epoch_and_seed(jolted):
    def draw(generator):
        return torch.rand(4, 1, 8, 8, generator=generator), torch.arange(4) % 3

    teachers = [slim((), ()).float(), jolted(slim((), ())).float()]
    found = lessons(draw, teachers, (5, 6), 3)
    assert len(found) == 6
    generator = stream(6, "train")
    for images, targets in found[1::2]:
        again, labels = draw(generator)
        assert torch.equal(images, again)
        assert torch.equal(targets[:, 0], labels.float())
        assert torch.equal(targets[:, 1:], teachers[1](images))


def test_sharpened_scores_are_nearly_one_hot_and_leave_the_network_alone(jolted):
    net, images = jolted(slim()), normal(2, 1, 8, 8)
    before = patch_weights(net, images)[0]
    after = patch_weights(sharpened(net, 1e6), images)[0]
    torch.testing.assert_close(after.amax(-1), torch.ones(2, 4).double(), **EXACT)
    assert torch.equal(after.argmax(-1), before.argmax(-1))
    assert torch.equal(patch_weights(net, images)[0], before)


def halves():
    """64 noisy images, bright above (1) or below (0), and their labels."""
    labels = torch.arange(64) % 2
    x = 0.3 * torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x[labels == 1, :, :4] += 3
    x[labels == 0, :, 4:] += 3
    return x, labels


def learned():
    x, labels = halves()
    teacher = torch.zeros(64, 3)
    taught = torch.cat([labels[:, None].float(), teacher], 1)

    def make():
        return Recalibrated(SlimViT(Tiny(), (0, 1), (4, 2)), SlimViT(Tiny(), (), ()))

    test = x[None], labels[None].float()
    recipe = Recipe(8, batch=16, lr=1e-2, slower={"expand": 5})
    weights = partial(distillation_loss, lambda_logits=0)
    return train(make, (0,), shuffled(x, taught), test, recipe, loss=weights)


def test_it_learns_and_twice_the_same():
    first, again = learned(), learned()
    assert torch.equal(first.loss, again.loss)
    assert float(first.accuracy[0, -1]) > 0.9


# --- LV-ViT -----------------------------------------------------------------------------------------------

PUBLISHED = {
    "T": (15_873, 0.987, 15_689, 3.457),
    "XS": (25_626, 1.482, 25_369, 5.532),
    "S": (25_626, 4.016, 25_369, 5.532),
    "M": (55_642, 8.019, 55_201, 11.839),
    "L": (148_168, 34.314, 147_169, 55.974),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_and_costs(name):
    found = [count for slimmed in (True, False) for count in lvvit_counts(name, slimmed)]
    expected = PUBLISHED[name]
    assert [round(found[0] / 1e3), round(found[2] / 1e3)] == [expected[0], expected[2]]
    assert [round(found[1] / 1e9, 3), round(found[3] / 1e9, 3)] == [expected[1], expected[3]]


def test_the_cost_is_its_closed_form():
    config = CONFIGS["XS"]
    dim, after, now, total = config.dim, {0: 98, 1: 49, 2: 24}, 196, 0
    for block in range(16):
        n = now + 1
        total += 4 * n * dim**2 + 2 * n**2 * dim + 6 * n * dim**2
        if block in after:
            total += now * dim // 2 * (dim + after[block]) + now * after[block] * dim
            now = after[block]
    widths = (3, dim // 8, dim // 4, dim // 2, dim)
    sides = (112, 56, 28, 14)
    stem = sum(9 * a * b * s**2 for a, b, s in zip(widths, widths[1:], sides, strict=False))
    assert lvvit_counts("XS", True).macs == total + stem + 1000 * dim


def test_modules_that_expand_are_not_part_of_the_published_size():
    assert round(lvvit_counts("T", True, expand=True).parameters / 1e6, 1) == 29.9


def test_a_large_network_has_the_published_stages():
    with torch.device("meta"):
        net = slimmed_lvvit(CONFIGS["L"])
    assert (net.after_blocks, net.n_tokens) == ((9, 13, 16), (162, 81, 40))
    assert len(net.vit.blocks) == 24


def test_a_small_lvvit_runs_and_its_blocks_are_divided(jolted):
    config = CONFIGS["T"]._replace(dim=16, heads=2, blocks=(1, 1, 1, 1), image=64)
    with seeded(0):
        net = slimmed_lvvit(config).double().eval()
    assert net.n_tokens == (8, 4, 2)
    assert net(normal(1, 3, 64, 64)).shape == (1, 1000)
    block, x = jolted(net.vit.blocks[0]), normal(1, 5, 16)
    mixed = x + block.attention(block.norm_attention(x))[0] / 2
    torch.testing.assert_close(block(x)[0], mixed + block.mlp(block.norm_mlp(mixed)) / 2, **EXACT)
    assert len(Stem(16, 6)) == 17
    assert Stem(16, 6).double()(normal(1, 3, 32, 32)).shape == (1, 4, 16)


# --- mutations --------------------------------------------------------------------------------------------


def top_one(self, x, attention=None):
    """Every average is of one token alone, the one of highest score; gradients go on as before."""
    scores = self.tau * self.down(nn.functional.gelu(self.up(self.norm(x))))
    soft = scores.softmax(dim=-2)
    hard = torch.zeros_like(soft).scatter(-2, scores.argmax(-2, keepdim=True), 1.0)
    return (hard + soft - soft.detach()).mT


def shared_scores(self, x, attention=None):
    """The scores are the mean over the batch: averages still differ, but no image decides on its own."""
    scores = self.tau * self.down(nn.functional.gelu(self.up(self.norm(x))))
    return scores.mean(-3, keepdim=True).expand_as(scores).softmax(dim=-2).mT


def tokens_not_taught(student, teacher, tokens, labels, *, lambda_token=2.0, lambda_logits=2.0, tau=1.0):
    """The tokens' error counts for nothing."""
    return frd_loss(student, teacher, tokens, labels, lambda_token=0.0, lambda_logits=lambda_logits, tau=tau)


MUTATIONS = [
    ("TokenSlimming.weights", top_one),
    ("TokenSlimming.weights", shared_scores),
    ("frd_loss", tokens_not_taught),
]


@pytest.mark.parametrize(("target", "mutation"), MUTATIONS)
def test_what_is_mutated_still_trains(jolted, monkeypatch, target, mutation):
    net, images = Recalibrated(jolted(slim()), slim((), ())).double(), normal(4, 1, 8, 8)
    targets = torch.cat([torch.tensor([[0.0], [1], [2], [0]]), normal(4, 3, seed=1)], 1)
    before = distillation_loss(net(images), targets)
    monkeypatch.setattr(f"fourfold.efficiency.sit.{target}", mutation)
    after = distillation_loss(net(images), targets)
    assert not torch.equal(before, after)
    after.backward()
    learning = [*net.student.parameters(), *net.expand.parameters()]
    assert all(value.grad is not None and value.grad.isfinite().all() for value in learning)


# --- bad input --------------------------------------------------------------------------------------------


REFUSED = [
    (lambda: TokenSlimming(8, 0), "n_out must be >= 1, got 0"),
    (lambda: TokenSlimming(8, 2, 0.1), "hidden must be >= 1, got 0"),
    (lambda: StaticSlimming(0, 2), "n_in must be >= 1, got 0"),
    (lambda: MeanPooling((4, 8), (3, 2)), "after must be >= 1 and divide the side before = 4, got 3"),
    (lambda: HardDrop(0), "n_out must be >= 1, got 0"),
    (lambda: hard_drop(normal(1, 4, 2), normal(1, 4), 5), r"k must be in 1\.\.4 .*, got 5"),
    (lambda: hard_drop(normal(1, 4, 2), normal(1, 3), 2), r"scores must be \(1, 4\), got \(1, 3\)"),
    (lambda: ReverseTokenSlimming(8, 2, 4, 0), "ratio must be >= 1, got 0"),
    (lambda: RepeatTokens(8, 5, 4), r"n_in must be in 1\.\.4 .*, got 5"),
    (lambda: slimmed(Tiny(), "soft", (0,), (4,)), "way must be one of 'TSM', .*, got 'soft'"),
    (lambda: slim((1, 0)), r"after_blocks must rise within 0\.\.2, got \[1, 0\]"),
    (lambda: slim((0, 3)), r"after_blocks must rise within 0\.\.2, got \[0, 3\]"),
    (lambda: slim((0,)), r"n_tokens must be one for each of 1, got \[4, 2\]"),
    (lambda: slim((0, 1), (4, 4)), r"n_tokens must fall from 16 and be >= 1, got \[4, 4\]"),
    (lambda: slim((0, 1), (4, 0)), r"n_tokens must fall from 16 and be >= 1, got \[4, 0\]"),
    (lambda: check_stages((0,), (16,), 3, 16), r"n_tokens must fall from 16 and be >= 1, got \[16\]"),
    (
        lambda: frd_loss(*normal(2, 2, 3), normal(2), torch.zeros(2).long(), lambda_token=-1),
        "lambda_token must be finite and >= 0, got -1",
    ),
    (
        lambda: frd_loss(*normal(2, 2, 3), normal(2), torch.zeros(2).long(), tau=0),
        "tau must be finite and > 0, got 0",
    ),
    (lambda: lvvit_config("XXL"), "name must be one of 'T', 'XS', 'S', 'M', 'L', got 'XXL'"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_high": [4]}, r"n_high = \[4\]: expected as many values as after_blocks, which has 2"),
        ({"n_low": [7, 4]}, r"n_low = \[7, 4\]: expected list\[int\]"),
        ({"heads": 3}, "heads = 3: expected .*divisor of dim"),
        ({"n_train": 60}, "n_train = 60: expected a multiple of 50"),
        ({"tau": 0.0}, r"tau = 0.0: expected float, 0\.1\.\.100"),
    ],
)
def test_parameters_that_no_network_can_have_are_refused_by_name(given, message):
    record = records.load("sit")
    with pytest.raises(parameters.ParameterError, match=message):
        parameters.validate(record, record.values("quick") | given)
