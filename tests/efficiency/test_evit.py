"""EViT: reorganisation is sorting by class attention, keep rate 1 is a ViT, and its cost is the counter's."""

from functools import partial

import numpy as np
import pytest
import torch
from einops import rearrange
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.func import vmap
from torch.nn.functional import cross_entropy
from transformers import ViTConfig, ViTModel
from transformers.models.vit.modeling_vit import ViTEmbeddings

from fourfold import cost
from fourfold.attention import PatchEmbedding
from fourfold.data import probes
from fourfold.efficiency.evit import (
    FUSED,
    SELECTS,
    DeiT,
    EViT,
    SideBySide,
    beside,
    beside_background,
    block_costs,
    class_attention_scores,
    contrast,
    evit_macs,
    masked,
    mosaic,
    on_the_digit,
    original_indices,
    patch_norm,
    reorganize,
    resize_positions,
    token_counts,
    tokens_kept,
)
from fourfold.judging import parameters, records
from fourfold.judging.card import judge
from fourfold.training import Recipe, seeded, shuffled, stream, train

from ..draws import normal
from ..hugging_face import THEIR_NAMES

EXACT = {"rtol": 0, "atol": 1e-12}
SMALL = {"image": 12, "patch": 2, "channels": 1, "dim": 16, "depth": 4, "heads": 4, "classes": 3}
DEIT_S = {"image": 224, "patch": 16, "dim": 384, "depth": 12, "heads": 6, "classes": 1000}


def scores_for(batch: int, candidates: int, seed: int = 0) -> torch.Tensor:
    return normal(batch, candidates + 1, seed=seed).softmax(-1)[:, 1:]


def small(seed: int = 0, **how) -> EViT:
    with seeded(seed):
        return EViT(**{**SMALL, "locations": (1, 2), **how}).double().eval()


# --- oracles ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("candidates", "keep"), [(1, 1), (2, 1), (7, 3), (36, 18), (36, 35), (36, 36)])
@pytest.mark.parametrize("fuse", [True, False])
def test_reorganize_is_sorting_each_sample_with_numpy(candidates, keep, fuse):
    x, scores = normal(3, candidates + 1, 5), scores_for(3, candidates)
    tokens, kept = reorganize(x, scores, keep, fuse=fuse)
    assert kept.shape == (3, keep)
    for sample in range(3):
        patches, weights = x[sample, 1:].numpy(), scores[sample].numpy()
        order = np.argsort(-weights, kind="stable") if keep < candidates else np.arange(candidates)
        rows = [x[sample, 0].numpy(), *(patches[i] for i in order[:keep])]
        if fuse and keep < candidates:
            rows.append(sum(weights[i] * patches[i] for i in order[keep:]))
        assert kept[sample].tolist() == order[:keep].tolist()
        np.testing.assert_allclose(tokens[sample].numpy(), np.stack(rows), rtol=0, atol=1e-12)


def in_their_names(net: DeiT) -> dict[str, torch.Tensor]:
    """Our weights under the names of HuggingFace's ViT."""
    state = net.state_dict()
    theirs = {
        "embeddings.cls_token": state["vit.cls"][None, None],
        "embeddings.position_embeddings": state["vit.positions"][None],
    }
    for kind in ("weight", "bias"):
        theirs[f"embeddings.patch_embeddings.projection.{kind}"] = state[f"patches.{kind}"]
        theirs[f"layernorm.{kind}"] = state[f"vit.norm.{kind}"]
        for block in range(len(net.vit.blocks)):
            for ours, name in THEIR_NAMES.items():
                theirs[f"layers.{block}.{name}.{kind}"] = state[f"vit.blocks.{block}.{ours}.{kind}"]
    return theirs


def huggingface(net: DeiT) -> ViTModel:
    config = ViTConfig(
        hidden_size=SMALL["dim"], num_hidden_layers=SMALL["depth"], num_attention_heads=SMALL["heads"],
        intermediate_size=4 * SMALL["dim"], image_size=SMALL["image"], patch_size=SMALL["patch"],
        num_channels=SMALL["channels"], layer_norm_eps=1e-6, hidden_act="gelu", hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, attn_implementation="eager",
    )  # fmt: skip
    theirs = ViTModel(config, add_pooling_layer=False).eval()
    theirs.load_state_dict(in_their_names(net), strict=True)
    return theirs


def test_at_keep_rate_one_it_is_huggingfaces_vit():
    net, images = small().float(), normal(2, 1, 12, 12).float()
    expected = net.vit.head(huggingface(net)(images).last_hidden_state[:, 0])
    torch.testing.assert_close(net(images, 1.0), expected, rtol=0, atol=1e-5)
    assert (net(images, 0.7) - expected).abs().max() > 1e-3


@pytest.mark.parametrize(("old", "new"), [(6, 9), (6, 4), (3, 3), (1, 2)])
def test_positions_are_resized_as_huggingface_does(old, new):
    config = ViTConfig(hidden_size=8, num_attention_heads=2, image_size=2 * old, patch_size=2, num_channels=1)
    theirs, positions = ViTEmbeddings(config), normal(old**2 + 1, 8).float()
    theirs.position_embeddings.data = positions[None]
    tokens = torch.zeros(1, new**2 + 1, 8)
    expected = theirs.interpolate_pos_encoding(tokens, 2 * new, 2 * new)[0]
    torch.testing.assert_close(resize_positions(positions, new), expected, rtol=0, atol=1e-5)
    assert torch.equal(resize_positions(positions, new)[0], positions[0])


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("rate", [1.0, 0.7, 0.5, 0.07])
def test_the_closed_form_is_torchs_counter_and_the_published_numbers(fuse, rate):
    with torch.device("meta"):
        net = EViT(**DEIT_S, keep_rate=rate, fuse=fuse)
    counts = token_counts(224, 16, 12, rate, (3, 6, 9), fuse)
    macs = evit_macs(224, 16, 384, counts)
    assert cost.macs(net, (1, 3, 224, 224)) == macs
    assert cost.parameters(net) == 22_050_664
    known = {
        (1.0, True): 4.5989,
        (0.7, True): 3.0293,
        (0.5, True): 2.3088,
        (0.7, False): 2.9970,
        (0.5, False): 2.2824,
    }
    if (rate, fuse) in known:
        assert round(macs / 1e9, 4) == known[rate, fuse]


def test_token_counts_of_deit_s():
    counts = token_counts(224, 16, 12, 0.7, (3, 6, 9))
    assert [counts[block][1] - 1 for block in (3, 6, 9)] == [139, 99, 71]
    assert counts[:4] == [(197, 197)] * 3 + [(197, 140)]
    costs = block_costs(counts, 384)
    assert costs[3].attention == costs[0].attention
    assert costs[3].mlp < costs[0].mlp


@pytest.mark.parametrize("rate", [1.0, 0.7, 0.5, 0.1, 0.03])
def test_hiding_tokens_gives_the_logits_of_dropping_them_at_full_cost(rate):
    net, images = small(), normal(4, 1, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(masked(net, images, rate), net(images, rate), **EXACT)
    with torch.device("meta"):
        large = EViT(**DEIT_S)
    whole = evit_macs(224, 16, 384, token_counts(224, 16, 12, 1.0, ()))
    assert whole <= cost.macs(Hidden(large, rate), (1, 3, 224, 224)) <= 1.02 * whole


class Hidden(torch.nn.Module):
    """What ``masked`` computes, as a module that torch's counter can run."""

    def __init__(self, net: EViT, rate: float):
        super().__init__()
        self.net, self.rate = net, rate

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return masked(self.net, images, self.rate)


# --- identities -------------------------------------------------------------------------------------------


def mismatch(rate: float) -> float:
    """The verdict's number of C2: largest difference to the plain network's logits."""
    net = small()
    with seeded(9):
        plain = DeiT(**SMALL).double().eval()
    net.load_state_dict(plain.state_dict(), strict=True)
    images = normal(4, 1, 12, 12)
    with torch.no_grad():
        return float((net(images, rate) - plain(images)).abs().max())


def test_at_keep_rate_one_it_is_deit_to_the_bit_and_below_it_is_not():
    assert mismatch(1.0) == 0
    assert mismatch(0.7) > 1e-3


def test_a_model_built_at_keep_rate_one_obeys_a_later_one():
    net, images = small(keep_rate=1.0), normal(4, 1, 12, 12)
    assert [kept.shape for kept in net.kept(images)] == [(4, 36), (4, 36)]
    assert [kept.shape for kept in net.kept(images, 0.5)] == [(4, 18), (4, 10)]


def test_leaving_out_what_nobody_reads_changes_nothing():
    images, whole, short = normal(4, 1, 12, 12), small(), small(whole=False)
    for rate in (1.0, 0.7, 0.3):
        torch.testing.assert_close(short(images, rate), whole(images, rate), **EXACT)
    with seeded(0):
        plain = DeiT(**SMALL, whole=False).double()
    torch.testing.assert_close(plain(images), whole(images, 1.0), **EXACT)


@pytest.mark.parametrize("rate", [1.0, 0.6, 0.2])
def test_the_order_of_patches_does_not_matter_once_they_have_their_positions(rate):
    net, images = small(), normal(3, 1, 12, 12)
    expected = net(images, rate)
    embed, order = net.vit.embed, torch.randperm(36, generator=torch.Generator().manual_seed(0))

    def shuffled_embed(tokens):
        x = embed(tokens)
        return torch.cat([x[:, :1], x[:, 1:][:, order]], 1)

    net.vit.embed = shuffled_embed
    torch.testing.assert_close(net(images, rate), expected, **EXACT)


@settings(deadline=None, max_examples=40)
@given(candidates=st.integers(1, 40), data=st.data(), select=st.sampled_from(SELECTS))
def test_kept_and_fused_partition_the_candidates_of_each_sample(candidates, data, select):
    keep = data.draw(st.integers(1, candidates))
    x = torch.eye(candidates + 1, dtype=torch.float64).expand(3, -1, -1)
    scores = scores_for(3, candidates, seed=candidates)
    tokens, kept = reorganize(x, scores, keep, select=select, generator=torch.Generator().manual_seed(0))
    assert all(len(set(row)) == keep for row in kept.tolist())
    assert tokens.shape == (3, min(keep + 2, candidates + 1), candidates + 1)
    if keep < candidates:  # one-hot tokens: the fused one shows the weight of each candidate
        weights = scores.scatter(1, kept, 0.0)
        torch.testing.assert_close(tokens[:, -1, 1:], weights, **EXACT)
        normalized = reorganize(
            x, scores, keep, normalize=True, select=select, generator=torch.Generator().manual_seed(0)
        )[0]
        torch.testing.assert_close(normalized[:, -1, 1:], weights / weights.sum(1, keepdim=True), **EXACT)


def test_selections_are_what_they_are_called():
    x, scores = normal(4, 11, 3), scores_for(4, 10)

    def kept(select, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return reorganize(x, scores, 4, select=select, generator=generator)[1]

    for top, bottom, row in zip(kept("top"), kept("bottom"), scores, strict=True):
        assert row[top].min() >= row.sort().values[6]
        assert row[bottom].max() <= row.sort().values[3]
    assert (kept("shared") == kept("shared")[0]).all()
    assert torch.equal(kept("random"), kept("random"))
    assert not torch.equal(kept("random"), kept("random", seed=1))


def test_ranks_of_ones_own_choose_who_is_kept_and_scores_weigh_the_rest():
    x, scores, ranks = normal(4, 11, 3), scores_for(4, 10), normal(4, 10, seed=5)
    tokens, kept = reorganize(x, scores, 4, select=ranks)
    assert torch.equal(kept, ranks.topk(4).indices)
    rest = scores.scatter(1, kept, 0.0)
    torch.testing.assert_close(tokens[:, -1], (rest[..., None] * x[:, 1:]).sum(1), **EXACT)


@pytest.mark.parametrize("fuse", [True, False])
def test_patches_ranked_by_the_image_keep_their_rank_and_the_fused_token_comes_last(fuse):
    images = normal(5, 1, 12, 12)
    net = small(select=patch_norm, fuse=fuse)
    first, second = original_indices(net.kept(images, 0.5), fuse)
    order = patch_norm(images).argsort(descending=True)
    assert torch.equal(first, order[:, :18])
    assert torch.equal(second, order[:, : 10 if fuse else 9])
    assert (net(images, 0.5) - small(fuse=fuse)(images, 0.5)).abs().max() > 1e-3
    assert torch.equal(net(images, 1.0), small(fuse=fuse)(images, 1.0))
    # At so low a rate that one is left, the fused token is not the one.
    assert torch.equal(original_indices(net.kept(images, 0.03), fuse)[1], order[:, :1])


def test_scores_are_the_class_tokens_row_without_itself():
    attention = normal(2, 3, 5, 5).softmax(-1)
    scores = class_attention_scores(attention)
    torch.testing.assert_close(scores, attention.mean(1)[:, 0, 1:], **EXACT)
    torch.testing.assert_close(scores.sum(-1), 1 - attention.mean(1)[:, 0, 0], **EXACT)


@given(n=st.integers(1, 400), percent=st.integers(1, 100))
@example(n=100, percent=7)
@example(n=1, percent=1)
def test_as_many_are_kept_as_whole_numbers_say(n, percent):
    assert tokens_kept(n, percent / 100) == -(-percent * n // 100)


def test_places_are_followed_through_three_stages():
    first = torch.tensor([[4, 2, 5, 0]])
    second = torch.tensor([[1, 4, 3]])  # 4 is the fused token of the first stage
    third = torch.tensor([[1, 3, 0]])  # place 1 is that fused token again, 3 the one of the second stage
    places = original_indices([first, second, third])
    assert [place.tolist() for place in places] == [[[4, 2, 5, 0]], [[2, FUSED, 0]], [[FUSED, FUSED, 2]]]
    plain = original_indices([first, torch.tensor([[1, 3]])], fuse=False)
    assert plain[1].tolist() == [[2, 0]]
    assert original_indices([]) == []


def test_places_of_a_network_never_come_back():
    net = small(depth=6, locations=(1, 2, 4))
    places = original_indices(net.kept(normal(5, 1, 12, 12), 0.6))
    for sample in range(5):
        sets = [{int(p) for p in stage[sample] if p != FUSED} for stage in places]
        assert sets[0] >= sets[1] >= sets[2]
        assert len(sets[2]) >= 1


# --- gradients, training ----------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [True, False])
def test_gradients_are_the_numerical_ones_and_reach_scores_through_the_fused_token(normalize):
    x, scores = normal(2, 7, 3).requires_grad_(), scores_for(2, 6).requires_grad_()

    def tokens(x, scores):
        return reorganize(x, scores, 3, normalize=normalize)[0]

    assert torch.autograd.gradcheck(tokens, (x, scores))
    _, kept = reorganize(x, scores, 3)
    (gradient,) = torch.autograd.grad(tokens(x, scores).square().sum(), scores)
    assert (gradient.gather(1, kept) == 0).all()
    assert gradient.ne(0).sum() == 2 * 3
    (dropped,) = torch.autograd.grad(reorganize(x, scores, 3, fuse=False)[0].sum() + 0 * scores.sum(), scores)
    assert (dropped == 0).all()


def test_an_ensemble_reorganises_as_its_members_do():
    x, scores = normal(3, 4, 8, 5), torch.stack([scores_for(4, 7, seed) for seed in range(3)])
    together, kept = vmap(lambda x, scores: reorganize(x, scores, 3))(x, scores)
    for member in range(3):
        alone, indices = reorganize(x[member], scores[member], 3)
        assert torch.equal(kept[member], indices)
        torch.testing.assert_close(together[member], alone, **EXACT)


def test_training_goes_on_from_vanilla_with_a_falling_keep_rate():
    images, labels = normal(24, 1, 12, 12).float(), torch.arange(24) % 3
    test = images.expand(2, *images.shape), labels.expand(2, -1)
    rates = []

    def shrink(model, step):
        model.keep_rate = max(0.5, 1 - step / 8)
        rates.append(model.keep_rate)

    make = partial(EViT, **SMALL, locations=(1, 2), whole=False)
    vanilla = train(partial(make, keep_rate=1.0), [3, 4], shuffled(images, labels), test, Recipe(2, batch=12))
    args = [3, 4], shuffled(images, labels), test, Recipe(epochs=8, batch=12)
    tuned = train(make, *args, start=vanilla.parameters, each_step=shrink)
    assert rates[0] == 1
    assert rates[-1] == 0.5
    assert (tuned.loss[:, -4:].mean(1) < tuned.loss[:, :4].mean(1)).all()
    again = train(make, *args, start=vanilla.parameters, each_step=shrink)
    assert torch.equal(tuned.loss, again.loss)
    alone = train(make, *args, start=vanilla.parameters, each_step=shrink, together=False)
    torch.testing.assert_close(alone.loss, tuned.loss, rtol=0, atol=1e-3)


def test_one_image_and_one_token_that_is_kept_still_train():
    net = small(keep_rate=0.01)
    image = normal(1, 1, 12, 12)
    assert [indices.shape for indices in net.kept(image)] == [(1, 1), (1, 1)]
    cross_entropy(net(image), torch.tensor([1])).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


# --- what the verdicts measure, with the mechanism replaced by its baseline -------------------------------


def content(select: str) -> float:
    """Share of the right tokens among the kept when scores do point at them: C5b's number."""
    mask = on_the_digit(torch.arange(20) % 3 == 0)
    scores = torch.where(mask, 2.0, 1.0).double() / 60 + 1e-6 * normal(20, 32)
    generator = torch.Generator().manual_seed(0)
    kept = reorganize(normal(20, 33, 2), scores, 16, select=select, generator=generator)[1]
    return float(mask.gather(1, kept).double().mean())


def test_only_the_top_selection_finds_the_digit():
    assert content("top") == 1
    assert content("random") < 0.65
    assert content("shared") < 0.68
    assert content("bottom") == 0


def test_reorganising_early_or_after_the_mlp_costs_something_else():
    published = 3.0
    early = evit_macs(224, 16, 384, token_counts(224, 16, 12, 0.7, (0, 1, 2)))
    late = evit_macs(224, 16, 384, [(n, n) for n, _ in token_counts(224, 16, 12, 0.7, (3, 6, 9))])
    right = evit_macs(224, 16, 384, token_counts(224, 16, 12, 0.7, (3, 6, 9)))
    assert round(right / 1e9, 1) == published
    assert round(early / 1e9, 1) < published
    assert late > right


def test_digits_stand_beside_noise_and_are_otherwise_themselves():
    digits, right = normal(200, 8, 8).sigmoid().float(), torch.arange(200) % 2 == 0
    canvas = (beside_background(digits, right, stream(0, "noise")) * 0.3 + 0.25)[:, 0]
    left_half, right_half = canvas[..., :8], canvas[..., 8:]
    torch.testing.assert_close(right_half[right], digits[right])
    torch.testing.assert_close(left_half[~right], digits[~right])
    noise = torch.cat([left_half[right], right_half[~right]])
    assert -1e-6 <= noise.min() < 0.01 < 0.49 < noise.max() <= 0.5 + 1e-6
    assert abs(float(noise.mean()) - 0.25) < 0.01
    again = beside_background(digits, right, stream(0, "noise"))[:, 0] * 0.3 + 0.25
    assert torch.equal(canvas, again)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_a_mosaic_has_the_norms_and_contrasts_of_the_digits_at_each_place_and_not_their_order(patch):
    digits = normal(300, 8, 8).sigmoid().float()
    made = mosaic(digits, stream(0, "background"), patch)
    for measure in (patch_norm, contrast):
        one, other = (measure(images[:, None] - 0.25, patch).sort(0).values for images in (digits, made))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    # Neither one digit's patches nor, in a patch, their order: nearly none is at home with its neighbour.
    tiles, dealt = (rearrange(x, "n (y a) (x b) -> n y x (a b)", a=patch, b=patch) for x in (digits, made))
    assert (tiles == dealt).all(-1).float().mean() < 0.02
    assert torch.equal(made, mosaic(digits, stream(0, "background"), patch))


def test_norm_and_contrast_find_a_digit_beside_noise_and_not_beside_a_mosaic():
    digits, right = probes.digits()[0].images, torch.arange(1400) % 2 == 0
    mask, generator = on_the_digit(right), stream(0, "background")

    def found(canvas, measure):
        return float(mask.gather(1, measure(canvas).topk(16).indices).float().mean())

    noise = beside_background(digits, right, generator)
    canvas = beside(digits, mosaic(digits, generator), right)
    torch.testing.assert_close(noise[..., 8:][right], canvas[..., 8:][right])
    torch.testing.assert_close(noise[..., :8][~right], canvas[..., :8][~right])
    assert found(noise, patch_norm) > 0.9
    for measure in (patch_norm, contrast):
        assert found(canvas, measure) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_mask_contrast_and_norm_are_those_of_the_patches_of_the_network(patch):
    right = torch.tensor([True, False, True])
    canvas = torch.where(torch.arange(16) >= 8, 1.0, 0.0).expand(1, 1, 8, 16)
    images = torch.where(right[:, None, None, None], canvas, 1 - canvas)
    embedded = PatchEmbedding(1, 1, patch).requires_grad_(False)
    embedded.weight.fill_(1)
    embedded.bias.fill_(0)
    mask = on_the_digit(right, patch)
    assert torch.equal(embedded(images)[..., 0] > 0, mask)
    assert mask.sum(1).tolist() == [64 // patch**2] * 3
    noise = normal(3, 1, 8, 16)
    assert torch.equal(contrast(noise * images, patch) > 0, mask if patch > 1 else torch.zeros_like(mask))
    theirs = noise[0, 0, :patch, :patch].numpy().std()
    assert float(contrast(noise, patch)[0, 0]) == pytest.approx(float(theirs), rel=1e-12)
    assert torch.equal(patch_norm(noise * images, patch) > 0, mask)
    theirs = np.linalg.norm(noise[0, 0, :patch, :patch].numpy())
    assert float(patch_norm(noise, patch)[0, 0]) == pytest.approx(float(theirs), rel=1e-12)


def test_two_squares_side_by_side_are_twice_the_tokens_and_else_the_same_network():
    net = SideBySide(patch=2, dim=16, depth=4, heads=4, classes=3, locations=(1, 2), keep_rate=0.5)
    kept = net.eval().kept(normal(5, 1, 8, 16).float())
    assert [indices.shape for indices in kept] == [(5, 16), (5, 9)]
    assert cost.parameters(net) == cost.parameters(small(image=8)) + 16 * 16


# --- what the record says ---------------------------------------------------------------------------------

RECORD = records.load("evit")


@pytest.mark.parametrize(("accuracy", "word"), [(90.0, "reproduced"), (12.0, "inconclusive")])
def test_networks_that_have_not_learnt_lose_nothing_and_show_nothing(accuracy, word):
    none, rivals = [0.0, 0.1] * 4, {"random": 5.0, "norm": 4.0, "contrast": 4.5, "bottom": 6.0}
    lost = {arm: [points, points + 0.1] * 4 for arm, points in rivals.items()}
    verdict = judge(RECORD, "C4a", {"drop_70": none}, lost, {"trained": [accuracy] * 8})
    assert verdict.word == word


def test_features_that_heads_do_not_divide_are_refused():
    with pytest.raises(parameters.ParameterError, match="heads = 4: expected a divisor of dim, which is 33"):
        parameters.validate(RECORD, RECORD.values("quick") | {"dim": 33})


# --- the mechanism without its heart ----------------------------------------------------------------------


def all_kept(candidates, keep_rate):
    """Every token is kept, at any keep rate."""
    return candidates


def fixed_order(attention):
    """Tokens are ranked by their place, the first one highest, whatever the class token looks at."""
    scores = attention[..., 0, 1:].mean(-2)
    return scores.mean() * torch.linspace(2, 0, scores.shape[-1], dtype=scores.dtype).expand_as(scores)


MUTATIONS = [
    ("tokens_kept", all_kept),
    ("class_attention_scores", fixed_order),
]


# --- bad input --------------------------------------------------------------------------------------------


TOKENS, SCORES = torch.zeros(2, 5, 3), torch.zeros(2, 4)
REFUSED = [
    (lambda: tokens_kept(0, 0.5), "candidates must be >= 1, got 0"),
    (lambda: tokens_kept(4, 0.0), "keep_rate must be > 0 and <= 1, got 0.0"),
    (lambda: tokens_kept(4, 1.1), "keep_rate must be > 0 and <= 1, got 1.1"),
    (lambda: tokens_kept(4, float("nan")), "keep_rate must be > 0 and <= 1, got nan"),
    (lambda: reorganize(TOKENS, SCORES, 0), r"keep must be in 1\.\.4, got 0"),
    (lambda: reorganize(TOKENS, SCORES, 5), r"keep must be in 1\.\.4, got 5"),
    (lambda: reorganize(TOKENS, SCORES[:, 1:], 2), r"scores must be \(2, 4\), got \(2, 3\)"),
    (lambda: reorganize(TOKENS, SCORES, 2, select="best"), "select must be one of top, .*, got 'best'"),
    (
        lambda: reorganize(TOKENS, SCORES, 2, select=SCORES[:1]),
        r"select must be ranks \(2, 4\), got \(1, 4\)",
    ),
    (lambda: reorganize(TOKENS, SCORES, 2, select="random"), "'random' needs a generator, got None"),
    (lambda: small(keep_rate=0.0), "keep_rate must be > 0 and <= 1, got 0.0"),
    (lambda: small()(torch.zeros(1, 1, 12, 12).double(), 2.0), "keep_rate must be > 0 and <= 1, got 2.0"),
    (lambda: small(locations=(2, 1)), r"locations must rise within 0\.\.3, got \[2, 1\]"),
    (lambda: small(locations=(1, 1)), r"locations must rise within 0\.\.3, got \[1, 1\]"),
    (lambda: small(locations=(4,)), r"locations must rise within 0\.\.3, got \[4\]"),
    (lambda: small(locations=(-1,)), r"locations must rise within 0\.\.3, got \[-1\]"),
    (lambda: small(locations=(3,), whole=False), r"locations must rise within 0\.\.2, got \[3\]"),
    (lambda: small(heads=3), "heads must be >= 1 and divide dim, got heads=3, dim=16"),
    (lambda: small(patch=5), "patch must be >= 1 and divide the image's side, got 5 and 12"),
    (lambda: small()(torch.zeros(1, 1, 16, 16).double()), r"expected x of shape \(batch, 36, 16\)"),
    (
        lambda: masked(small(fuse=False), TOKENS, 0.5),
        "fuse = True, normalize = False, got True, False, False",
    ),
    (lambda: masked(small(whole=False), TOKENS, 0.5), "masked needs whole = True, .* got False, True, False"),
    (lambda: masked(small(normalize=True), TOKENS, 0.5), "normalize = False, got True, True, True"),
    (lambda: token_counts(224, 16, 12, 0.7, (12,)), r"locations must rise within 0\.\.11, got \[12\]"),
    (lambda: token_counts(224, 15, 12, 0.7, (3,)), "patch must be >= 1 and divide .*, got 15 and 224"),
    (lambda: evit_macs(10, 16, 8, []), "patch must be >= 1 and divide .*, got 16 and 10"),
    (lambda: resize_positions(torch.zeros(37, 4), 0), r"side >= 1 and n\^2 \+ 1 positions, got 0 and 37"),
    (lambda: resize_positions(torch.zeros(36, 4), 6), r"side >= 1 and n\^2 \+ 1 positions, got 6 and 36"),
    (
        lambda: beside_background(torch.zeros(2, 9, 8), torch.zeros(2) > 0, torch.Generator()),
        r"digits \(n, 8, 8\) and right \(n,\), got \(2, 9, 8\) and \(2,\)",
    ),
    (lambda: beside_background(torch.zeros(2, 8, 8), torch.zeros(3) > 0, torch.Generator()), r"and \(3,\)"),
    (
        lambda: beside(torch.zeros(2, 8, 8), torch.zeros(2, 8, 9), torch.zeros(2) > 0),
        r"digits and background \(2, 8, 8\), got \(2, 8, 8\) and \(2, 8, 9\)",
    ),
    (lambda: beside(torch.zeros(2, 8, 8), torch.zeros(2, 8, 8), torch.zeros(3) > 0), r"\(3, 8, 8\), got"),
    (lambda: mosaic(torch.zeros(2, 8, 8), torch.Generator(), 3), "divide the sides, got 3 and 8 x 8"),
    (lambda: on_the_digit(torch.zeros(2) > 0, 3), "patch must be >= 1 and divide .*, got 3 and 8"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
