"""The comparison's room: equal parameters, each arm its paper's mixer, and measures with closed forms."""

import math

import pytest
import torch
from einops import rearrange
from torch import nn

from fourfold import cost, spectra, training
from fourfold.compared import hybrids as compared
from fourfold.compared.hybrids import ARMS, BUDGET, FAR, SQUARE, TASKS
from fourfold.hybrids import dhvt, duoformer, glmix, h_denseunet, polyphase_vit, tic
from fourfold.recorded import benchmark

EXACT = {"rtol": 0, "atol": 1e-12}
GLOBAL = set(ARMS) - {"CNN", "nothing", "TiC", "InceptionNeXt", "H-DenseUNet"}
"""Arms whose blocks see all of a map of 16 x 16 tokens."""


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def built(name, sides=SQUARE, read=None):
    with training.seeded(0):
        return compared.network(name, sides, read).eval()


@pytest.mark.parametrize("name", ARMS)
def test_parameters_are_equal_and_maps_keep_their_shape(name):
    net = built(name)
    assert cost.parameters(net) == pytest.approx(BUDGET, rel=0.05)
    dim, _ = compared.fitted(name)
    for block in net.blocks:
        assert block(normal(2, dim, *SQUARE)).shape == (2, dim, *SQUARE)
    assert net(normal(3, 1, 12, 12)).shape == (3, 10)
    assert built(name, FAR, 4)(normal(3, 1, 8, 32)).shape == (3, 10)


@pytest.mark.parametrize("name", ARMS)
def test_only_the_mixer_moves_anything_between_tokens(name):
    net = built(name)
    for block in net.blocks:
        block.mixer = nn.Identity()
    x = normal(1, compared.fitted(name)[0], *SQUARE).requires_grad_()
    (gradient,) = torch.autograd.grad(net.blocks(x)[..., 3, 3].sum(), x)
    elsewhere = gradient.abs().sum((0, 1))
    elsewhere[3, 3] = 0
    if ARMS[name].feed(8, 16, 0).__class__ is compared.MLP:
        assert elsewhere.sum() == 0


@pytest.mark.parametrize("name", ARMS)
def test_who_sees_the_whole_map(name):
    x = normal(1, compared.fitted(name)[0], 16, 16)
    seen = compared.derivative(built(name, (16, 16)).blocks, x, torch.Generator().manual_seed(0))
    reached = (seen.square().sum((0, 1)) > 0).float().mean()
    if name in GLOBAL:
        assert reached == 1
    if name == "CNN":
        assert reached == (2 * compared.DEPTH + 1) ** 2 / 16**2
    if name == "nothing":
        assert reached == 1 / 16**2


def test_arms_hold_their_papers_mixers():
    kinds = {name: type(built(name).blocks[0].mixer) for name in ARMS}
    assert kinds["TiC"] is tic.MSAConv2d
    assert issubclass(kinds["GLMix"], glmix.Sum)
    assert [type(block.mixer.mixer).__name__ for block in built("SMT").blocks] == [
        "SAM", "LocalGlobalAttention",
    ]  # fmt: skip


def test_channel_tokens_of_one_position_are_neighbours():
    net, image = built("ChannelViT"), torch.zeros(1, 1, 12, 12)
    empty = net.embed(image)
    image[0, 0, 5, 6] = 1  # in the 4 x 4 pixels of row 1, column 1; phase 1, 0
    changed = (net.embed(image) - empty).abs().sum(1)[0].nonzero()
    assert changed.tolist() == [[3, 2]]


def test_polyvit_is_blind_to_circular_shifts_and_others_are_not():
    pictures = normal(4, 1, 12, 12)
    test = compared.Images(pictures, torch.zeros(4))
    logits = polyphase_vit.over_shifts(built("PolyViT"), pictures, compared.SHIFTS)
    torch.testing.assert_close(logits, logits[:1].expand_as(logits), rtol=0, atol=1e-4)
    assert compared.consistency(built("PolyViT"), test) == 1
    assert (
        polyphase_vit.spread(
            polyphase_vit.over_shifts(built("ViT, conv stem"), pictures, compared.SHIFTS)
        ).min()
        > 1e-3
    )


def test_dhvt_on_maps_is_its_chapters_layers_with_the_mean_for_cls():
    x = normal(2, 8, 4, 4)
    tokens = rearrange(x, "b c h w -> b (h w) c")
    with_mean = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
    for ours, theirs in (
        (compared.HeadTokens(8, 2), lambda layer: dhvt.HeadInteractionAttention.forward(layer, with_mean)[0]),
        (compared.Aggregation(8, 2).eval(), lambda layer: dhvt.DAFF.forward(layer, with_mean)),
    ):
        out = theirs(ours)
        expected = rearrange(out[:, 1:] + out[:, :1], "b (h w) c -> b c h w", h=4)
        torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-6)


def test_trees_are_duoformers_own():
    x, trees = normal(2, 8, 6, 6), compared.Trees(8)
    tokenizer = duoformer.PatchTokenizer([8, 8], 8, grid=3)
    for projection in tokenizer.projections:
        nn.init.dirac_(projection.weight)
        nn.init.zeros_(projection.bias)
    theirs = tokenizer([nn.functional.avg_pool2d(x, 2), x])
    torch.testing.assert_close(trees.trees(x), theirs, rtol=1e-5, atol=1e-6)


def test_dense_layers_are_those_of_the_network_for_slices():
    block, back = compared.dense_layers(8, SQUARE, 0)
    assert [type(layer) for layer in block] == 2 * [h_denseunet.DenseLayer]
    assert block(normal(2, 8, 6, 6)).shape == (2, back.in_channels, 6, 6)


def test_hyena_on_a_square_map_is_the_layer_and_on_another_cuts_what_was_added():
    x = normal(2, 8, 6, 6)
    mixer = compared.OnSquare(8, (6, 6))
    theirs = mixer.mixer(rearrange(x, "b c h w -> b (h w) c"))
    torch.testing.assert_close(mixer(x), rearrange(theirs, "b (h w) c -> b c h w", h=6), **EXACT)
    wide = compared.OnSquare(8, FAR)
    assert wide.mixer.grid == 16
    assert wide(normal(2, 8, *FAR)).shape == (2, 8, *FAR)


def test_digits_are_means_of_the_middle_and_seeds_draw_their_own():
    pixels = torch.rand(2, 28, 28, generator=torch.Generator().manual_seed(0))
    small = compared.shown(pixels)
    assert small.shape == (2, 1, 12, 12)
    assert float(small[1, 0, 3, 4]) == pytest.approx((float(pixels[1, 8:10, 10:12].mean()) - 0.18) / 0.33)
    (one, test), (other, same) = (compared.drawn(TASKS["100 digits"], seed) for seed in (0, 1))
    assert one.images.shape == (100, 1, 12, 12)
    assert not torch.equal(one.images, other.images)
    assert torch.equal(test.images, same.images)
    assert len(test.labels) == compared.TEST
    assert test.images.mean().abs() < 0.1
    assert abs(float(test.images.std()) - 1) < 0.1


@pytest.mark.parametrize("name", ["400 digits", "far read-out"])
def test_rates_are_chosen_on_images_that_are_in_no_other_part(name):
    def places_left(part):
        # The canvas of the far read-out has digits at places of their own.
        return {tuple(sorted(image[image != image.min()].tolist())) for image in part.images}

    train, held_out = compared.drawn(TASKS[name], 7, held_out=True)
    _, test = compared.drawn(TASKS[name], 7)
    assert len(held_out.labels) == compared.HELD_OUT
    assert len(places_left(held_out) & places_left(train)) <= 1  # sklearn ships a digit or two twice
    assert len(places_left(held_out) & places_left(test)) <= 1


def test_the_response_is_the_convolutions_own():
    conv = nn.Conv2d(1, 1, 5, padding=2, padding_mode="circular").double()
    x = normal(2, 1, 16, 16).double()
    rings, found = compared.response(compared.derivative(conv, x, torch.Generator().manual_seed(0)))
    amplitude = spectra.transfer_function(conv.weight[0].detach(), 16)[0].abs().square()
    ring = (spectra.frequencies(16, 16) * 16 + 0.5).long()
    own = torch.stack([amplitude[ring == k].mean() for k in range(9)])
    torch.testing.assert_close(found, (own / amplitude.mean()).sqrt(), **EXACT)
    assert rings.tolist() == pytest.approx([k / 16 for k in range(9)])


def test_detail_of_a_mean_is_none_and_of_one_token_its_share_of_frequencies():
    token = torch.zeros(1, 3, 6, 6)
    token[..., 3, 3] = 1
    share = (spectra.frequencies(6, 6) >= 0.25 - spectra.TIE).double().mean()
    assert compared.detail(token) == pytest.approx(float(share))
    assert compared.detail(torch.ones(1, 3, 6, 6)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("side", [8, 16])
def test_multiply_adds_of_plain_arms_are_closed_forms(side):
    tokens = side**2
    for name in ("ViT, conv stem", "CNN", "nothing"):
        dim, hidden = compared.fitted(name)
        mixing = {
            "ViT, conv stem": 4 * dim**2 + 2 * tokens * dim,
            "CNN": 9 * dim**2,
            "nothing": dim**2,
        }[name]
        whole = tokens * (25 * dim + compared.DEPTH * (mixing + 2 * dim * hidden)) + 10 * dim
        assert compared.multiply_adds(name, side) == whole


def test_multiply_adds_see_tics_windows():
    dim, _ = compared.fitted("TiC")
    with torch.device("meta"):
        layer = tic.MSAConv2d(dim, dim, heads=compared.HEADS, shift=compared.SHIFT)
    mixers = tic.macs(layer.eval(), (1, dim, 8, 8))
    _, hidden = compared.fitted("TiC")
    rest = 64 * (25 * dim + compared.DEPTH * 2 * dim * hidden) + 10 * dim
    assert compared.multiply_adds("TiC", 8) == pytest.approx(rest + compared.DEPTH * mixers, rel=0.05)


def test_leaders_are_told_by_paired_differences():
    seeds = normal(10).tolist()
    values = {
        "good": seeds,
        "as good": [v + 0.01 * (-1) ** i for i, v in enumerate(seeds)],
        "a little less": [v - 0.1 - 0.01 * (-1) ** i for i, v in enumerate(seeds)],
        "other seeds": normal(10, seed=1).tolist(),
    }
    values["other seeds"] = [
        v - sum(values["other seeds"]) / 10 + sum(seeds) / 10 - 0.2 for v in values["other seeds"]
    ]
    best, near = compared.leaders(values)
    assert best in ("good", "as good")
    assert set(near) == {"good", "as good", "other seeds"} - {best}


def test_a_network_learns_to_read_digits():
    train, test = compared.drawn(TASKS["400 digits"], 7, held_out=True)
    assert compared.accuracy(compared.trained("CNN", TASKS["400 digits"], 7, 0.012, train), test) > 0.6


def test_records_hold_every_arm_and_seed():
    kept, swept, timed = (benchmark.load(f"hybrids_{name}") for name in ("trained", "rates", "compared"))
    if kept is None or swept is None or timed is None:
        pytest.fail("the page needs its three records: benchmarks/hybrids_*.py")
    found = {(row["arm"], row["task"], row["seed"]) for row in kept["rows"]}
    lines = ("logistic regression", "SVM")
    learnt = set(TASKS) - {"400 digits"}  # which only chose the rates
    assert found == {(a, t, s) for a in (*ARMS, *lines) for t in learnt for s in kept["seeds"]}
    assert len(kept["seeds"]) >= 5
    assert {row["arm"] for row in swept["rows"]} == {row["arm"] for row in timed["rows"]} == set(ARMS)
    assert swept["seed"] not in kept["seeds"]
    assert all(math.isfinite(row["seconds"]) for row in timed["rows"])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"arm must be one of 'ViT, conv stem', .*got 'Swin'"):
        compared.Shell("Swin", 8, 16)
    with pytest.raises(ValueError, match="images must be >= 1 and divide steps"):
        compared.trained(
            "CNN", compared.Task(300), 0, 0.01, compared.Images(normal(300, 1, 12, 12), torch.zeros(300))
        )
    with pytest.raises(ValueError, match="pool must be >= 4300"):
        compared.drawn(compared.Task(3900), 0, held_out=True)
