"""ChannelViT is its slow loop, with one channel the ViT of transformers; sampling is as its formulas say."""

from functools import partial
from itertools import combinations

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, dropout2d
from transformers import ViTConfig, ViTModel

from fourfold import cost
from fourfold.data.probes import Images, digits
from fourfold.hybrids.channelvit import (
    ChannelViT,
    MaskedViT,
    PatchEmbedPerChannel,
    Sampled,
    by_size,
    channel_dropout,
    coin_sample,
    colour_crops,
    disguised,
    filled,
    hcs_probability,
    hcs_sample,
    masked,
    mixed_batches,
    odd_one_out,
    on_pixels,
    shares,
    standardised,
    subsets,
)
from fourfold.judging import parameters, records
from fourfold.training import Recipe, seeded, shuffled, train

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}
SINGLE = {"rtol": 0, "atol": 2e-6}
"""transformers takes its softmax in single precision."""
SIZES = {"dim": 8, "depth": 2, "heads": 2, "patch": 4, "size": 8, "classes": 3}
S_16 = {"dim": 384, "depth": 12, "heads": 6, "patch": 16, "size": 224, "classes": 7}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(kind, channels: int, **how) -> nn.Module:
    """A network in double precision, every weight away from its start so that none can be mixed up unseen."""
    with seeded(0), torch.no_grad():
        net = kind(channels, **(SIZES | how)).double().eval()
        for weight in net.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return net


# --- oracles ----------------------------------------------------------------------------------------------


def by_transformers(ours: nn.Module, projection: torch.Tensor, bias: torch.Tensor) -> nn.Module:
    """The ViT of transformers with our weights, and a projection of its own."""
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=8,
        patch_size=4, num_channels=projection.shape[1], hidden_act="gelu", layer_norm_eps=1e-6,
        attn_implementation="eager",
    )  # fmt: skip
    theirs = ViTModel(config, add_pooling_layer=False).double().eval()
    embeddings = theirs.embeddings
    with torch.no_grad():
        embeddings.cls_token.copy_(ours.cls[None, None])
        embeddings.position_embeddings.copy_(ours.positions[None])
        embeddings.patch_embeddings.projection.weight.copy_(projection)
        embeddings.patch_embeddings.projection.bias.copy_(bias)
    theirs.layernorm.load_state_dict(ours.norm.state_dict())
    named = {
        name: module
        for name, module in theirs.named_modules()
        if isinstance(module, (nn.Linear, nn.LayerNorm))
    }
    inside = [(name, module) for name, module in named.items() if ".0." in name or ".1." in name]
    for index, block in enumerate(ours.blocks):
        here = [(name, module) for name, module in inside if f".{index}." in name]
        # In the order of its class: queries, keys, values, output; then the MLP and the norms.
        for end, part in (
            (("query", "q_proj"), block.attention.query),
            (("key", "k_proj"), block.attention.key),
            (("value", "v_proj"), block.attention.value),
            (("attention.output.dense", "o_proj"), block.attention.projection),
            (("intermediate.dense", "fc1"), block.mlp.up),
            ((f".{index}.output.dense", "fc2"), block.mlp.down),
            (("layernorm_before",), block.norm_attention),
            (("layernorm_after",), block.norm_mlp),
        ):
            (found,) = [module for name, module in here if name.endswith(end)]
            found.load_state_dict(part.state_dict())
    return theirs


@pytest.mark.parametrize("channels", [1, 3])
def test_the_vit_is_the_one_of_transformers(channels):
    ours = made(MaskedViT, channels)
    theirs = by_transformers(ours, ours.embed.weight, ours.embed.bias)
    x = normal(5, channels, 8, 8)
    with torch.no_grad():
        expected = theirs(x).last_hidden_state
        torch.testing.assert_close(ours.encode(x)[0], expected, **SINGLE)
        torch.testing.assert_close(ours(x), ours.head(expected[:, 0]), **SINGLE)
        if channels == 3:
            zeroed = torch.stack([1.5 * x[:, 0], 0 * x[:, 1], 1.5 * x[:, 2]], 1)
            torch.testing.assert_close(
                ours.encode(x[:, [0, 2]], [0, 2])[0], theirs(zeroed).last_hidden_state, **SINGLE
            )


def test_with_one_channel_it_is_the_vit_of_transformers_whose_bias_has_the_channels_embedding():
    ours = made(ChannelViT, 1)
    layer = ours.embed.projection
    theirs = by_transformers(ours, layer.weight, layer.bias + ours.embed.channel[0])
    x = normal(5, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(ours.encode(x)[0], theirs(x).last_hidden_state, **SINGLE)


def test_tokens_are_those_of_the_slow_loop_over_channels_and_patches():
    net = made(ChannelViT, 4)
    x, present = normal(2, 3, 8, 8), [3, 0, 2]
    layer = net.embed.projection
    tokens = [(net.cls + net.positions[0]).expand(2, 8)]
    for place, channel in enumerate(present):
        for n in range(4):
            y, z = 4 * (n // 2), 4 * (n % 2)
            patch = x[:, place, y : y + 4, z : z + 4].reshape(2, 16)
            token = patch @ layer.weight.reshape(8, 16).T + layer.bias
            tokens.append(token + net.positions[1 + n] + net.embed.channel[channel])
    torch.testing.assert_close(net.tokens(x, present), torch.stack(tokens, 1), **EXACT)


def test_published_parameters_and_closed_forms_of_the_cost():
    for kind, channels, values, giga in (
        (ChannelViT, 3, 21_470_208, 15.76), (ChannelViT, 8, 21_472_128, 56.16),
        (MaskedViT, 3, 21_665_664, 4.60), (MaskedViT, 8, 22_157_184, 4.70),
    ):  # fmt: skip
        with torch.device("meta"):
            net = kind(channels, **S_16)
        assert cost.parameters(net) - cost.parameters(net.head) == values
        tokens = 1 + 196 * (channels if kind is ChannelViT else 1)
        block = 12 * 384**2 * tokens + 2 * 384 * tokens**2
        assert cost.macs(net.blocks[0], (1, tokens, 384)) == block
        assert abs((12 * block + 196 * 256 * channels * 384) / 1e9 / giga - 1) < 0.01


# --- channels are known by their names --------------------------------------------------------------------


def test_channels_are_known_by_name_and_not_by_place():
    x, order = normal(3, 4, 8, 8), [2, 0, 3, 1]
    net, vit, blind = made(ChannelViT, 4), made(MaskedViT, 4), made(ChannelViT, 4, embedding="none")
    with torch.no_grad():
        blind.embed.channel.zero_()
        for each in (net, vit):
            torch.testing.assert_close(each(x[:, order], order), each(x), **EXACT)
            assert (each(x[:, order]) - each(x)).abs().max() > 1e-3
        # Without embeddings nothing tells the channels apart: permutation invariance.
        torch.testing.assert_close(blind(x[:, order]), blind(x), **EXACT)


@pytest.mark.parametrize("present", [[1], [0, 3], [4, 1, 2], [0, 1, 2, 3, 4]])
def test_a_subset_is_a_network_for_fewer_channels(present):
    net, fewer = made(ChannelViT, 5), made(ChannelViT, len(present))
    fewer.load_state_dict(net.state_dict() | {"embed.channel": net.embed.channel[present]})
    x = normal(2, len(present), 8, 8)
    torch.testing.assert_close(net(x, present), fewer(x), **EXACT)
    assert net.encode(x, present)[0].shape == (2, 1 + 4 * len(present), 8)


def test_embeddings_learn_stay_or_are_not_there_and_nothing_else_starts_otherwise():
    with seeded(3):
        learned = ChannelViT(3, **SIZES)
    for how in ("frozen", "none"):
        with seeded(3):
            net = ChannelViT(3, embedding=how, **SIZES)
        same = {
            name for name, value in net.state_dict().items() if torch.equal(value, learned.state_dict()[name])
        }
        assert net.state_dict().keys() - same == ({"embed.channel"} if how == "none" else set())
        cross_entropy(net(torch.randn(4, 3, 8, 8)), torch.arange(4) % 3).backward()
        assert net.embed.channel.grad is None
        assert all(w.grad is not None for name, w in net.named_parameters() if name != "embed.channel")
    assert 0.01 < learned.embed.channel.std() < 0.03


def test_gradients_are_right_in_float64():
    net = made(ChannelViT, 3, dim=4, depth=1)
    weights = dict(net.named_parameters())

    def apply(x, *values):
        return functional_call(net, dict(zip(weights, values, strict=True)), (x, [2, 0]))

    x = normal(1, 2, 8, 8).requires_grad_()
    assert torch.autograd.gradcheck(apply, (x, *weights.values()), eps=1e-6, atol=1e-5, fast_mode=True)


# --- sampling ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [1, 2, 5, 8])
def test_probabilities_of_sets_are_those_of_the_closed_forms(total):
    sets = subsets(total)
    assert len(sets) == 2**total - 1
    assert sum(hcs_probability(total, len(s)) for s in sets) == pytest.approx(1, abs=1e-12)
    for count in range(1, total + 1):
        of_size = sum(hcs_probability(total, len(s)) for s in sets if len(s) == count)
        assert of_size == pytest.approx(1 / total, abs=1e-12)
    kept = sum(hcs_probability(total, len(s)) for s in sets if 0 in s)
    assert kept == pytest.approx((total + 1) / (2 * total), abs=1e-12)


def test_draws_are_as_frequent_as_their_probabilities_and_coins_are_not():
    counts = {s: 0 for s in subsets(3)}
    draw = generator()
    for _ in range(7000):
        counts[tuple(hcs_sample(3, draw))] += 1
    for chosen, count in counts.items():
        expected = hcs_probability(3, len(chosen))
        assert abs(count / 7000 - expected) < 5 * (expected * (1 - expected) / 7000) ** 0.5
    coins = [len(coin_sample(8, draw)) for _ in range(2000)]
    assert coins.count(1) < 60
    assert abs(sum(coins) / 2000 - 4.5) < 0.2
    assert hcs_sample(1, draw) == coin_sample(1, draw) == [0]


def test_what_vit_is_given_is_the_image_on_average_and_it_is_scaled_once():
    x = normal(2, 4, 8, 8)
    mean = sum(hcs_probability(4, len(s)) * masked(x[:, s], s, 4) for s in subsets(4))
    torch.testing.assert_close(mean, x, **EXACT)
    there = masked(x[:, [3, 1]], [3, 1], 4)
    torch.testing.assert_close(there[:, [1, 3]], 2 * x[:, [1, 3]], **EXACT)
    assert not there[:, [0, 2]].any()
    whole = filled(x[:, [3, 1]], [3, 1], 4)
    torch.testing.assert_close(whole[:, [1, 3]], x[:, [1, 3]], **EXACT)
    torch.testing.assert_close(whole[:, 0], (x[:, 1] + x[:, 3]) / 2, **EXACT)
    assert torch.equal(whole[:, 0], whole[:, 2])


def test_channel_dropout_is_torchs_on_average_and_image_by_image():
    x = torch.ones(4000, 3, 2, 2)
    ours, theirs = channel_dropout(x, 0.3, generator()), dropout2d(x, 0.3)
    assert set(ours.unique().tolist()) == set(theirs.unique().tolist())
    assert abs(float(ours.mean()) - 1) < 0.02
    assert (ours.amax((2, 3)) == ours.amin((2, 3))).all()
    all_gone = (ours == 0).all((1, 2, 3)).double().mean()
    assert abs(float(all_gone) - 0.3**3) < 0.015
    assert torch.equal(channel_dropout(x, 0.0, generator()), x)


def test_in_training_a_network_reads_what_was_drawn_and_in_evaluation_all():
    net = made(ChannelViT, 3)
    model, x = Sampled(net), normal(2, 3, 8, 8)
    model.present = [0, 2]
    torch.testing.assert_close(model.train()(x), net(x[:, [0, 2]], [0, 2]), **EXACT)
    torch.testing.assert_close(model.eval()(x), net(x), **EXACT)


@pytest.mark.parametrize(("n", "whole"), [(200, 50), (200, 200), (50, 50)])
def test_batches_are_of_one_kind_and_an_epoch_has_every_image_once(n, whole):
    batches = mixed_batches(n, whole, 50, generator())
    assert len(batches) == n // 50
    assert torch.cat([rows for rows, _ in batches]).sort().values.tolist() == list(range(n))
    for rows, full in batches:
        assert ((rows < whole) == full).all()
    assert [full for _, full in batches].count(True) == whole // 50


def test_accuracy_by_size_is_the_mean_over_sets():
    x, y = normal(6, 3, 8, 8), torch.arange(6) % 2

    def net(maps, chosen):
        """Right where the first channel is there."""
        return nn.functional.one_hot(y if 0 in chosen else 1 - y, 2).double()

    assert by_size(net, Images(x, y)) == pytest.approx({1: 1 / 3, 2: 2 / 3, 3: 1})
    assert by_size(net, Images(x, y), [2]) == pytest.approx({2: 2 / 3})


def test_late_fusion_adds_what_each_channel_says_and_cannot_read_shares():
    train, test = standardised(*(shares(flat(), 300, 0.02, generator(s)) for s in (0, 1)))
    lines = on_pixels(train)
    alone = sum(lines["late fusion"](test.images[:, [c]], [c]) for c in (2, 0))
    torch.testing.assert_close(lines["late fusion"](test.images[:, [2, 0]], [2, 0]), alone, **EXACT)
    found = {name: by_size(line, test) for name, line in lines.items()}
    assert found["late fusion"][3] < 0.45
    assert found["support vectors"][3] > 0.9


# --- tasks ------------------------------------------------------------------------------------------------


def flat(n: int = 300) -> Images:
    """ "Digits" whose pixels are all their class, one tenth of it."""
    labels = torch.arange(n) % 10
    return Images((labels / 10).float()[:, None, None].expand(n, 8, 8), labels)


def classes(images: Images) -> torch.Tensor:
    return (10 * images.images.mean((2, 3))).round().long()


def test_of_shares_one_tells_nothing_and_any_two_tell_all():
    drawn = shares(flat(), 6000, 0.0, generator())
    shown = classes(drawn)
    assert set(shown.unique().tolist()) == {0, 1, 2}
    for one, two in combinations(range(3), 2):
        step = (shown[:, two] - shown[:, one]) % 3
        assert torch.equal(step * pow(two - one, -1, 3) % 3, drawn.labels)
    for channel in range(3):
        for digit in range(3):
            told = drawn.labels[shown[:, channel] == digit].bincount(minlength=3)
            assert (told / told.sum() - 1 / 3).abs().max() < 0.06


def test_disguises_are_what_they_are_called():
    source = digits()[0]
    drawn = disguised(source, 50, 0.0, generator())
    known = {digit: source.images[source.labels == digit] for digit in range(10)}
    for maps, label in zip(drawn.images, drawn.labels.tolist(), strict=True):
        undone = (maps[0], 1 - maps[1], maps[2].mT, maps[3].flip(-1))
        assert all((known[label] - each).abs().amax((1, 2)).min() < 1e-6 for each in undone)


def test_the_odd_one_is_the_label():
    drawn = odd_one_out(flat(), 500, 0.0, generator())
    shown = classes(drawn)
    for row, label in zip(shown.tolist(), drawn.labels.tolist(), strict=True):
        assert row.count(row[label]) == 1
        assert set(row) == {0, 1}
    assert drawn.labels.bincount().min() > 80


def test_colour_crops_of_the_test_are_not_in_the_training_part():
    train, test = (colour_crops(part, 400, 0.0, generator(1)) for part in ("train", "test"))
    assert train.images.shape == (400, 3, 8, 8)
    corners = {tuple(crop.flatten().tolist()) for crop in train.images[..., :2, :2]}
    found = sum(tuple(crop.flatten().tolist()) in corners for crop in test.images[..., :2, :2])
    assert found <= 40  # flat sky looks the same anywhere
    assert set(train.labels.tolist()) == {0, 1, 2, 3}


def test_noise_has_its_size_channels_are_standardised_and_draws_repeat():
    draw = partial(disguised, digits()[0], 400)
    clean, noisy = draw(0.0, generator()), draw(0.3, generator())
    assert abs(float((noisy.images - clean.images).std()) - 0.3) < 0.01
    assert torch.equal(draw(0.3, generator()).images, noisy.images)
    train, other = standardised(noisy, clean)
    assert train.images.mean((0, 2, 3)).abs().max() < 1e-5
    assert (train.images.std((0, 2, 3)) - 1).abs().max() < 1e-5
    assert other.images.mean((0, 2, 3)).abs().max() > 1e-4


# --- training and mutations -------------------------------------------------------------------------------


def told_by_the_second(n: int, seed: int) -> Images:
    """All channels are bright or dark, each on its own; the label is what the second one is."""
    draw = generator(seed)
    bright = torch.randint(2, (n, 3), generator=draw)
    images = 0.3 * torch.randn(n, 3, 8, 8, generator=draw) + (2 * bright - 1)[..., None, None]
    return Images(images, bright[:, 1])


def learned(kind, labels=None, **how):
    given, test = told_by_the_second(200, 0), told_by_the_second(100, 1)
    draw = generator()

    def sample(model, step):
        model.present = [1, *(c for c in hcs_sample(3, draw) if c != 1)]

    return train(
        lambda: Sampled(kind(3, **(SIZES | {"classes": 2, "depth": 1} | how))),
        (0,),
        shuffled(given.images, given.labels if labels is None else labels),
        (test.images[None], test.labels[None]),
        Recipe(epochs=10, batch=20, lr=2e-2),
        together=False,
        each_step=sample,
    )


@pytest.mark.parametrize("kind", [ChannelViT, MaskedViT])
def test_it_learns_which_channel_tells_and_the_same_each_time(kind):
    first, again = learned(kind), learned(kind)
    assert torch.equal(first.loss, again.loss)
    assert float(first.accuracy[0, -1]) > 0.9


@pytest.mark.parametrize("kind", [ChannelViT, MaskedViT])
def test_members_that_train_together_are_those_that_train_alone(kind):
    given = told_by_the_second(60, 0)

    def run(seeds):
        def sample(model, step):
            model.present = hcs_sample(3, generator(step))

        tests = [part[None, :4].expand(len(seeds), *part[:4].shape) for part in given]
        recipe = Recipe(epochs=2, batch=20)
        return train(
            lambda: Sampled(kind(3, **SIZES)), seeds, shuffled(*given), tuple(tests), recipe,
            together=len(seeds) > 1, each_step=sample,
        ).loss  # fmt: skip

    torch.testing.assert_close(run((0, 1)), torch.cat([run((0,)), run((1,))]), rtol=0, atol=1e-4)


def test_it_does_not_where_channels_have_no_names_or_labels_say_nothing():
    assert float(learned(ChannelViT, embedding="none").accuracy[0, -1]) < 0.85
    nothing = learned(ChannelViT, torch.arange(200) // 2 % 2)
    assert abs(float(nothing.accuracy[0, -1]) - 0.5) < 0.25


EMBED = PatchEmbedPerChannel.forward


def one_for_all(self, x, channels):
    """Every channel gets the embedding of the first: nothing tells the channels apart."""
    return EMBED(self, x, [0] * len(channels))


def always_all(total, generator):
    """All channels are kept in every batch."""
    return list(range(total))


def coins(total, generator):
    """A coin for each channel, without the hierarchy."""
    coin_sample(total, generator)  # so that it is no twin of the arm that throws coins
    return coin_sample(total, generator)


START = PatchEmbedPerChannel.__init__


def unlearned(self, channels, dim, patch, embedding="learned"):
    """Channel embeddings stay as they were drawn."""
    START(self, channels, dim, patch, "frozen")


MUTATIONS = [
    ("PatchEmbedPerChannel.forward", one_for_all),
    ("PatchEmbedPerChannel.__init__", unlearned),
    ("hcs_sample", always_all),
    ("hcs_sample", coins),
]


def test_without_embeddings_of_their_own_channels_are_interchangeable(monkeypatch):
    net, x = made(ChannelViT, 4), normal(2, 4, 8, 8)
    before = net(x)
    monkeypatch.setattr("fourfold.hybrids.channelvit.PatchEmbedPerChannel.forward", one_for_all)
    assert (net(x) - before).abs().max() > 1e-3
    torch.testing.assert_close(net(x[:, [1, 0, 3, 2]]), net(x), **EXACT)


def test_mutated_embeddings_are_not_learned_and_mutated_draws_have_other_sizes(monkeypatch):
    monkeypatch.setattr("fourfold.hybrids.channelvit.PatchEmbedPerChannel.__init__", unlearned)
    assert not made(ChannelViT, 3).embed.channel.requires_grad
    draw = generator()
    of = {sample: [len(sample(4, draw)) for _ in range(800)] for sample in (hcs_sample, coins, always_all)}
    assert abs(of[hcs_sample].count(4) / 800 - 1 / 4) < 0.08
    assert abs(of[coins].count(4) / 800 - (5 / 8) ** 4) < 0.08
    assert of[always_all].count(4) == 800


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dim": 30}, "dim = 30: expected a multiple of heads, which is 4"),
        ({"patch": 3}, r"patch = 3: expected int, 1 \| 2 \| 4 \| 8"),
        ({"n_train": 1010}, "n_train = 1010: expected a multiple of 50"),
        ({"extra": ["grey"]}, "extra = "),
        ({"fractions": [1.0]}, r"fractions = \[1.0\]"),
    ],
)
def test_parameters_that_no_network_can_have_are_refused_by_name(given, message):
    record = records.load("channelvit")
    with pytest.raises(parameters.ParameterError, match=message):
        parameters.validate(record, record.values("quick") | given)


X = torch.zeros(2, 3, 8, 8)
REFUSED = [
    (lambda: ChannelViT(0, **SIZES), "channels must be >= 1, got 0"),
    (lambda: ChannelViT(3, **(SIZES | {"patch": 3})), "patch must be >= 1 and divide size = 8, got 3"),
    (lambda: MaskedViT(3, **(SIZES | {"heads": 3})), "heads must be >= 1 and divide dim = 8, got 3"),
    (lambda: ChannelViT(3, embedding="fixed", **SIZES), "embedding must be one of .* got 'fixed'"),
    (lambda: ChannelViT(3, **SIZES)(X[:, :2]), r"channels must be different ones of 0\.\.2, .* 2 maps, got"),
    (lambda: ChannelViT(3, **SIZES)(X[:, :2], [1, 1]), r"got \[1, 1\]"),
    (lambda: MaskedViT(3, **SIZES)(X, [0, 1, 3]), r"got \[0, 1, 3\]"),
    (lambda: MaskedViT(3, **SIZES)(X[:, :0], []), r"got \[\]"),
    (lambda: hcs_sample(0, generator()), "total must be >= 1, got 0"),
    (lambda: coin_sample(0, generator()), "total must be >= 1, got 0"),
    (lambda: hcs_probability(4, 5), r"count must be in 1\.\.4, got 5"),
    (lambda: channel_dropout(X, 1.0, generator()), r"rate must be in 0\.\.1, 1 excluded, got 1"),
    (lambda: mixed_batches(200, 0, 50, generator()), r"whole must be in 1\.\.200, got 0"),
    (lambda: mixed_batches(200, 60, 50, generator()), "batch must be >= 1 and divide whole = 60, got 50"),
    (lambda: subsets(11), r"total must be in 1\.\.10 .*, got 11"),
    (lambda: colour_crops("all", 3, 0.0, generator()), "part must be one of 'train', 'test', got 'all'"),
    (lambda: shares(flat(), 3, -1.0, generator()), "noise must be finite and >= 0, got -1"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
