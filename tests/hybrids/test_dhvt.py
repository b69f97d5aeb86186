"""DHVT is the network of its authors, and what the chapter measures fails where its parts are gone."""

import math
from functools import partial

import pytest
import torch
from einops import rearrange
from torch import nn
from torch.func import functional_call
from torch.nn.functional import batch_norm, conv2d, cross_entropy, gelu, layer_norm, linear
from transformers import ViTConfig, ViTForImageClassification

from fourfold import cost
from fourfold.attention import Attention
from fourfold.hybrids.dhvt import (
    DAFF,
    DHVT,
    PUBLISHED,
    SOPE,
    HeadInteractionAttention,
    SmallCNN,
    as_map,
    attention_distance,
    plain_feed,
    published,
    vit,
    with_mean_weights,
)
from fourfold.judging import parameters, records
from fourfold.training import Recipe, seeded, shuffled, train

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}
SMALL = {"patch": 4, "dim": 8, "depth": 2, "heads": 2, "channels": 1, "classes": 2, "ratio": 1}


# --- oracles ----------------------------------------------------------------------------------------------


def test_attention_with_head_tokens_is_the_papers_written_down_with_torchs_attention(jolted):
    dim, heads, d = 12, 3, 4
    ours = jolted(HeadInteractionAttention, dim, heads)
    x = normal(2, 10, dim)

    project, norm = ours.head_projection, ours.head_norm
    tokens = []
    for head in range(heads):
        mean = x[:, :, head * d : (head + 1) * d].mean(1)
        wide = linear(mean, project.weight, project.bias).view(2, heads, d)
        normed = layer_norm(wide, (d,), norm.weight, norm.bias)
        tokens.append(gelu(normed).view(2, dim) + ours.head_embedding[head])
    torch.testing.assert_close(ours.head_tokens(x), torch.stack(tokens, 1), **EXACT)

    theirs = nn.MultiheadAttention(dim, heads, batch_first=True).double()
    three = (ours.query, ours.key, ours.value)
    theirs.load_state_dict(
        {
            f"in_proj_{field}": torch.cat([getattr(one, field) for one in three])
            for field in ("weight", "bias")
        }
        | {f"out_proj.{field}": value for field, value in ours.projection.state_dict().items()}
    )
    everything = torch.cat([x, *(token[:, None] for token in tokens)], 1)
    mixed, weights = theirs(everything, everything, everything, average_attn_weights=False)
    expected = mixed[:, :10].clone()
    expected[:, 0] += mixed[:, 10:].sum(1) / heads
    out, attention = ours(x)
    torch.testing.assert_close(out, expected, **EXACT)
    torch.testing.assert_close(attention, weights, **EXACT)


def normed_by_hand(convolution, norm, x, **how):
    x = conv2d(x, convolution.weight, convolution.bias, **how)
    return batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)


@pytest.mark.parametrize("side", [1, 3, 4])
def test_daff_is_the_papers_written_down(jolted, side):
    ours = jolted(DAFF, 8, 2)
    x = normal(3, 1 + side * side, 8)
    z = x[:, 1:].mT.reshape(3, 8, side, side)
    u = gelu(normed_by_hand(*ours.up, z))
    u = u + gelu(normed_by_hand(*ours.depthwise, u, padding=1, groups=16))
    z = normed_by_hand(*ours.down, u)
    read = linear(z.flatten(2).mean(-1), ours.squeeze.weight, ours.squeeze.bias)
    weights = linear(gelu(read), ours.excite.weight, ours.excite.bias)
    out = ours(x)
    torch.testing.assert_close(out[:, 0], x[:, 0] * weights, **EXACT)
    torch.testing.assert_close(out[:, 1:], z.flatten(2).mT, **EXACT)


@pytest.mark.parametrize("patch", [2, 4, 16])
def test_sope_is_the_papers_written_down(jolted, patch):
    ours = jolted(SOPE, 3, 16, patch)
    images = normal(2, 3, 32, 48)
    first, *middle, last = ours.steps
    x = images * first.alpha + first.beta
    convolutions = [m for m in middle if isinstance(m, nn.Conv2d)]
    norms = [m for m in middle if isinstance(m, nn.BatchNorm2d)]
    assert [c.out_channels for c in convolutions] == {2: [16], 4: [8, 16], 16: [2, 4, 8, 16]}[patch]
    for index, (convolution, norm) in enumerate(zip(convolutions, norms, strict=True)):
        x = normed_by_hand(convolution, norm, x, stride=2, padding=1)
        if patch == 2 or index < len(convolutions) - 1:
            x = gelu(x)
    x = x * last.alpha + last.beta
    torch.testing.assert_close(ours(images), x.flatten(2).mT, **EXACT)
    assert ours(images).shape == (2, (32 // patch) * (48 // patch), 16)


def test_without_its_parts_it_is_the_vision_transformer_of_transformers(jolted):
    dim, heads, depth = 8, 2, 2
    ours = jolted(vit, tokens=16, **SMALL)
    config = ViTConfig(
        hidden_size=dim, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=dim,
        image_size=16, patch_size=4, num_channels=1, num_labels=2, qkv_bias=True, layer_norm_eps=1e-6,
    )  # fmt: skip
    theirs = ViTForImageClassification(config).double().eval()
    names = {
        "embed.": "vit.embeddings.patch_embeddings.projection.",
        "norm.": "vit.layernorm.",
        "head.": "classifier.",
    }
    for i in range(depth):
        into = f"vit.layers.{i}."
        names |= {
            f"blocks.{i}.norm_attention.": f"{into}layernorm_before.",
            f"blocks.{i}.norm_mlp.": f"{into}layernorm_after.",
            f"blocks.{i}.attention.query.": f"{into}attention.q_proj.",
            f"blocks.{i}.attention.key.": f"{into}attention.k_proj.",
            f"blocks.{i}.attention.value.": f"{into}attention.v_proj.",
            f"blocks.{i}.attention.projection.": f"{into}attention.o_proj.",
            f"blocks.{i}.mlp.up.": f"{into}mlp.fc1.",
            f"blocks.{i}.mlp.down.": f"{into}mlp.fc2.",
        }
    state = {"vit.embeddings.cls_token": ours.cls, "vit.embeddings.position_embeddings": ours.positions[None]}
    for name, value in ours.state_dict().items():
        for old, new in names.items():
            if name.startswith(old):
                state[name.replace(old, new)] = value
    assert set(state) == set(theirs.state_dict())
    theirs.load_state_dict(state)
    images = normal(3, 1, 16, 16)
    torch.testing.assert_close(ours(images), theirs(images).logits, rtol=0, atol=1e-10)


def test_published_parameters_and_cost():
    counted = {}
    for name in PUBLISHED:
        with torch.device("meta"):
            net = published(name)
        counted[name] = cost.parameters(net)
    # The official class has these parameters.
    assert counted == {
        "S/16, ImageNet": 24_040_606,
        "T/16, ImageNet": 6_267_334,
        "S/2, CIFAR-100": 22_766_698,
        "S/4, CIFAR-100": 23_425_450,
        "T/2, CIFAR-100": 5_845_162,
        "T/4, CIFAR-100": 6_008_650,
    }
    with torch.device("meta"):
        assert cost.parameters(published("S/16, ImageNet", plain=True)) == 22_050_664
        net = published("T/16, ImageNet")
    # The README prints 1.4 GFLOPs.
    assert round(cost.macs(net, (1, 3, 224, 224)) / 1e9, 3) == 1.355


# --- the parts --------------------------------------------------------------------------------------------


def derivatives(layer: HeadInteractionAttention, order=slice(None)) -> torch.Tensor:
    """Largest derivative of head token i by the channels of head j, (heads, heads)."""
    x = normal(1, 10, 12)
    jacobian = torch.autograd.functional.jacobian(lambda x: layer.head_tokens(x[..., order])[0], x)
    return rearrange(jacobian.abs().amax((1, 2, 3)), "h (g d) -> h g d", g=3).amax(-1)


def test_a_head_token_is_made_of_its_channels_alone_and_not_where_these_are_permuted(jolted):
    layer = jolted(HeadInteractionAttention, 12, 3)
    blocks = derivatives(layer)
    assert torch.equal(blocks, torch.diag(blocks.diag()))
    assert blocks.diag().min() > 1e-4
    dealt = derivatives(layer, torch.arange(12).view(3, 4).T.flatten())
    assert (dealt > 0).sum() > 3


def test_registers_are_made_of_nothing_and_are_as_many(jolted):
    registers, seeing = (
        jolted(HeadInteractionAttention, 12, 3, source=source) for source in ("registers", "means")
    )
    assert derivatives(registers).max() == 0
    assert cost.parameters(registers) == cost.parameters(seeing)
    x = normal(2, 10, 12)
    assert registers.head_tokens(x).shape == seeing.head_tokens(x).shape == (2, 3, 12)
    assert not torch.allclose(registers(x)[0], seeing(x)[0])


@pytest.mark.parametrize("gate", ["dynamic", "static", "none"])
def test_cls_is_multiplied_by_what_the_map_alone_says(jolted, gate):
    layer = jolted(DAFF, 8, 2, gate=gate)
    x, other = normal(2, 17, 8), normal(2, 17, 8, seed=1)
    scaled = torch.cat([3 * x[:, :1], x[:, 1:]], 1)
    torch.testing.assert_close(layer(scaled)[:, 0], 3 * layer(x)[:, 0], **EXACT)
    torch.testing.assert_close(layer(scaled)[:, 1:], layer(x)[:, 1:], **EXACT)
    looks = not torch.equal(layer.channel_weights(as_map(x)), layer.channel_weights(as_map(other)))
    assert looks == (gate == "dynamic")


def test_weights_alone_stand_in_the_place_of_cls(jolted):
    layer, published_one = jolted(DAFF, 8, 2, gate="alone"), jolted(DAFF, 8, 2)
    x = normal(2, 17, 8)
    torch.testing.assert_close(x[:, 0] * layer(x)[:, 0], published_one(x)[:, 0], **EXACT)
    assert torch.equal(layer(x)[:, 1:], published_one(x)[:, 1:])


def test_learned_weights_start_where_weights_that_are_read_do():
    with seeded(0):
        static, dynamic = (
            DHVT(**SMALL | {"dim": 32}, feed=partial(DAFF, gate=gate)).eval().blocks[0].mlp
            for gate in ("static", "dynamic")
        )
    x = torch.randn(50, 17, 32)
    assert static(x)[:, 0].abs().max() == 0
    assert dynamic(x)[:, 0].abs().max() < 0.1


def test_weights_fixed_at_their_mean_are_the_mean_and_nothing_else_changes(jolted):
    net, images = jolted(DHVT, **SMALL), normal(5, 1, 16, 16)
    one = with_mean_weights(net, images[:1])
    torch.testing.assert_close(one(images[:1]), net(images[:1]), **EXACT)
    assert (one(images[1:]) - net(images[1:])).abs().max() > 1e-4
    read = []
    hook = net.blocks[0].mlp.excite.register_forward_hook(lambda *call: read.append(call[-1]))
    net(images)
    hook.remove()
    torch.testing.assert_close(with_mean_weights(net, images).blocks[0].mlp.weight, read[0].mean(0), **EXACT)
    assert net.blocks[0].mlp.gate == "dynamic"
    assert not net.blocks[0].mlp.excite._forward_hooks


@pytest.mark.parametrize(("kernel", "sees"), [(0, False), (1, False), (3, True)])
def test_only_its_3_x_3_convolution_sees_neighbours(jolted, kernel, sees):
    layer = jolted(DAFF, 8, 2, kernel=kernel)
    x = normal(1, 17, 8)
    changed = x.clone()
    changed[:, 1] += 1
    moved = (layer(changed) - layer(x))[0, 1:].abs().amax(-1) > 1e-12
    assert moved.nonzero().flatten().tolist() == ([0, 1, 4, 5] if sees else [0])


@pytest.mark.parametrize("norm", [True, False])
def test_tokens_of_sope_share_pixels_and_those_of_a_plain_embedding_do_not(jolted, norm):
    images = normal(1, 1, 16, 16)
    changed = images.clone()
    changed[..., 3, 3] += 1

    def moved(net):
        return ((net(changed) - net(images))[0].abs().amax(-1) > 1e-12).nonzero().flatten().tolist()

    assert moved(jolted(SOPE, 1, 8, 4, norm=norm)) == [0, 1, 4, 5]
    assert moved(jolted(vit, tokens=16, **SMALL).embed) == [0]


def test_gradients_are_right_in_float64(jolted):
    layer = jolted(HeadInteractionAttention, 4, 2)
    feed = jolted(DAFF, 4, 1)
    weights = dict(layer.named_parameters()) | {
        f"feed.{name}": value for name, value in feed.named_parameters()
    }

    def apply(x, *values):
        named = dict(zip(weights, values, strict=True))
        own = {name: value for name, value in named.items() if not name.startswith("feed.")}
        x = functional_call(layer, own, (x,))[0]
        return functional_call(feed, {n[5:]: v for n, v in named.items() if n.startswith("feed.")}, (x,))

    x = normal(1, 5, 4).requires_grad_()
    assert torch.autograd.gradcheck(apply, (x, *weights.values()), eps=1e-6, atol=1e-5)


def test_a_network_starts_as_the_official_one():
    with seeded(0):
        net = DHVT(patch=4, dim=64, depth=1, heads=4)
    block = net.blocks[0]
    for layer in (block.attention.query, block.attention.head_projection, block.mlp.squeeze):
        assert abs(layer.weight.std().item() - 0.02) < 3e-3
        assert not layer.bias.any()
    assert block.mlp.up[0].weight.abs().max() <= 64**-0.5
    assert block.mlp.up[0].weight.abs().max() > 0.9 * 64**-0.5
    assert net.positions is None


@pytest.mark.parametrize(("image", "patch"), [(16, 4), (8, 2), (32, 16), (4, 4)])
def test_any_square_image_can_be_read(image, patch):
    net = DHVT(**SMALL | {"patch": patch}).eval()
    logits, maps = net.run(torch.randn(3, 1, image, image))
    tokens = 1 + (image // patch) ** 2 + 2
    assert logits.shape == (3, 2)
    assert [tuple(weights.shape) for weights in maps] == [(3, 2, tokens, tokens)] * 2


@pytest.mark.parametrize("early", [False, True])
def test_the_convolutional_network_sees_every_pixel_unless_told_to_skip(early):
    net = SmallCNN(1, 3, (4, 6, 8), early=early)
    first = net.steps[0]
    assert (first.kernel_size, first.stride) == (((7, 7), (2, 2)) if early else ((3, 3), (1, 1)))
    assert net(torch.randn(2, 1, 16, 16)).shape == (2, 3)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in SmallCNN(1, 3, norm=False).modules()) == 0


def test_attention_distance_is_its_closed_form():
    alone = torch.eye(12)[None, None]
    assert attention_distance(alone, 3) == 0
    pairs = [(a, b) for a in range(9) for b in range(9)]
    mean = sum(math.hypot(a // 3 - b // 3, a % 3 - b % 3) for a, b in pairs) / 81
    assert attention_distance(torch.ones(2, 3, 12, 12), 3) == pytest.approx(mean, abs=1e-12)
    # Attention to CLS and to head tokens does not count.
    heavy = torch.ones(1, 1, 12, 12)
    heavy[..., 0] = heavy[..., 10:] = 100
    assert attention_distance(heavy, 3) == pytest.approx(mean, abs=1e-12)


def order_change(net) -> float:
    x = normal(20, 1, 16, 16)
    places = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    bag = rearrange(x, "n c (y a) (x b) -> n c (y x) a b", a=4, b=4)[:, :, places]
    permuted = rearrange(bag, "n c (y x) a b -> n c (y a) (x b)", y=4)
    with torch.inference_mode():
        return float(((net(x) - net(permuted)).abs() / net(x).std(0)).max())


def test_only_convolutions_or_positions_tell_the_order_of_patches(jolted):
    bag = jolted(DHVT, embed=vit(tokens=16, **SMALL).embed.__class__, mix=Attention, feed=plain_feed, **SMALL)
    assert order_change(bag) < 1e-10
    assert order_change(jolted(vit, tokens=16, **SMALL)) > 1e-2
    assert order_change(jolted(DHVT, **SMALL)) > 1e-2


def learned(bars, labels=None, epochs=6):
    (x, y), test = bars(80, 0), bars(40, 1)
    return train(
        partial(DHVT, **SMALL),
        (0,),
        shuffled(x, y if labels is None else labels),
        tuple(part[None] for part in test),
        Recipe(epochs, batch=10, lr=1e-2),
        together=False,
    )


def test_it_learns_and_does_not_where_the_labels_say_nothing(bars):
    assert float(learned(bars).accuracy[0, -1]) > 0.9
    nothing = learned(bars, torch.arange(80) // 2 % 2)
    assert float(nothing.accuracy[0, -1]) < 0.8


def test_the_same_seed_learns_the_same(bars):
    first, again = learned(bars, epochs=1), learned(bars, epochs=1)
    assert torch.equal(first.loss, again.loss)


# --- mutations --------------------------------------------------------------------------------------------


def no_depthwise(self, x):
    """DAFF's convolution is gone: every token goes through its BatchNorm as it is."""
    cls, z = x[:, :1], as_map(x)
    z = gelu(self.up(z))
    if self.depthwise is not None:
        z = z + gelu(self.depthwise[-1](z))
    z = self.down(z)
    weights = self.channel_weights(z)[:, None]
    cls = weights if self.gate == "alone" else cls * weights
    return torch.cat([cls, rearrange(z, "b c h w -> b (h w) c")], 1)


def weights_that_do_not_look(self, z):
    """DAFF's weights for CLS are read from an empty map, and so are the same for all images."""
    if self.gate == "none":
        return torch.ones_like(z[:, :, 0, 0])
    if self.gate == "static":
        return self.weight.expand(len(z), -1)
    return self.excite(gelu(self.squeeze(torch.zeros_like(z[:, :, 0, 0]))))


def patches_apart(self, x):
    """SOPE's convolutions run over each patch alone, so that tokens share no pixels."""
    side = x.shape[-1] // self.patch
    apart = rearrange(x, "b c (y p) (x q) -> (b y x) c p q", p=self.patch, q=self.patch)
    return rearrange(self.steps(apart), "(b n) c 1 1 -> b n c", b=len(x), n=side * x.shape[-2] // self.patch)


def single_pixels(self, images):
    """The convolutional network's kernels see single pixels: their centres alone count."""
    for step in self.steps:
        if isinstance(step, nn.Conv2d):
            centre = step.weight.shape[-1] // 2
            images = conv2d(images, step.weight[..., centre, centre, None, None], step.bias, step.stride)
        else:
            images = step(images)
    return self.head(images)


MUTATIONS = [
    ("SmallCNN.forward", single_pixels),
    ("DAFF.forward", no_depthwise),
    ("DAFF.channel_weights", weights_that_do_not_look),
    ("SOPE.forward", patches_apart),
]


@pytest.mark.parametrize(("target", "mutation"), MUTATIONS)
def test_what_is_mutated_still_trains(monkeypatch, bars, target, mutation):
    monkeypatch.setattr(f"fourfold.hybrids.dhvt.{target}", mutation)
    x, y = bars(10, 0)
    for net in (DHVT(**SMALL), SmallCNN(1, 2), SmallCNN(1, 2, early=True)):
        cross_entropy(net(x), y).backward()
        for name, weight in net.named_parameters():
            # What a mutation takes out is asked for no more.
            assert weight.grad is None or weight.grad.isfinite().all(), name


def test_mutations_take_out_what_they_say(jolted, monkeypatch):
    for target, mutation in MUTATIONS:
        monkeypatch.setattr(f"fourfold.hybrids.dhvt.{target}", mutation)
    x, other = normal(2, 17, 8), normal(2, 17, 8, seed=1)
    feed = jolted(DAFF, 8, 2)
    assert torch.equal(feed.channel_weights(as_map(x)), feed.channel_weights(as_map(other)))
    changed = x.clone()
    changed[:, 1] += 1
    assert ((feed(changed) - feed(x))[0, 1:].abs().amax(-1) > 0).sum() == 1
    images = normal(1, 1, 16, 16)
    poked = images.clone()
    poked[..., 3, 3] += 1
    sope = jolted(SOPE, 1, 8, 4)
    assert ((sope(poked) - sope(images))[0].abs().amax(-1) > 1e-12).sum() == 1
    cnn = jolted(SmallCNN, 1, 3)
    turned = torch.rot90(images, dims=(2, 3))
    assert ((cnn.steps[0](turned) - cnn.steps[0](images)).abs()).max() > 1e-3
    torch.testing.assert_close(cnn(turned), cnn(images), **EXACT)


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dim": 33}, "dim = 33: expected a multiple of heads, which is 4"),
        ({"heads": 3}, r"heads = 3: expected int, 2 \| 4 \| 8"),
        ({"patch": 16}, r"patch = 16: expected int, 2 \| 4"),
        ({"n_train": 3000}, "n_train = 3000: expected at most n_many, which is 1000"),
        ({"depth": 0}, r"depth = 0: expected int, 1\.\.12"),
    ],
)
def test_parameters_that_no_network_can_have_are_refused_by_name(given, message):
    record = records.load("dhvt")
    with pytest.raises(parameters.ParameterError, match=message):
        parameters.validate(record, record.values("quick") | given)


REFUSED = [
    (lambda: SOPE(1, 8, 8), "patch must be one of 2, 4, 16, got 8"),
    (lambda: SOPE(1, 4, 16), r"2 \*\* 3 must be >= 1 and divide dim = 4, got 8"),
    (lambda: SOPE(0, 8, 4), "channels must be >= 1, got 0"),
    (lambda: SOPE(1, 8, 4)(torch.zeros(1, 1, 16, 18)), "patch must divide .*, got 4 and 16 x 18"),
    (lambda: HeadInteractionAttention(8, 3), "heads must be >= 1 and divide dim, got heads=3, dim=8"),
    (lambda: HeadInteractionAttention(8, 2, source="learned"), "source must be one of .*, got 'learned'"),
    (lambda: DAFF(8, 0), "ratio must be >= 1, got 0"),
    (lambda: DAFF(3), "dim must be >= 4, got 3"),
    (lambda: DAFF(8, kernel=2), "kernel must be odd, or 0 for none, got 2"),
    (lambda: DAFF(8, gate="softmax"), "gate must be one of .*, got 'softmax'"),
    (lambda: DAFF(8)(torch.zeros(1, 13, 8)), r"expected CLS and side\^2 tokens, got \(1, 13, 8\)"),
    (lambda: DAFF(8)(torch.zeros(1, 1, 8)), r"expected CLS and side\^2 tokens, got \(1, 1, 8\)"),
    (lambda: DHVT(**SMALL)(torch.zeros(1, 1, 16, 20)), r"expected CLS and side\^2 tokens, got \(1, 21, 8\)"),
    (lambda: DHVT(**SMALL | {"depth": 0}), "depth must be >= 1, got 0"),
    (lambda: DHVT(**SMALL | {"heads": 3}), "heads must be >= 1 and divide dim = 8, got 3"),
    (lambda: vit(tokens=0, **SMALL), "positions must be >= 1, got 0"),
    (
        lambda: with_mean_weights(vit(tokens=16, **SMALL), torch.zeros(1, 1, 16, 16)),
        "net must have dynamic weights for CLS, got MLP",
    ),
    (lambda: published("B/16"), "name must be one of .*, got 'B/16'"),
    (lambda: SmallCNN(1, 10, ()), "stages must be >= 1, got 0"),
    (lambda: SmallCNN(1, 10, (4, 0)), "narrowest must be >= 1, got 0"),
    (
        lambda: attention_distance(torch.zeros(1, 1, 9, 9), 3),
        r"expected CLS and 3 x 3 patches, got \(1, 1, 9, 9\)",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
