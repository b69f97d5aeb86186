"""The transformer without its convolutions: it is ViT, and what it says about its attention is true."""

from math import nan

import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import scaled_dot_product_attention

from fourfold.attention import (
    MLP,
    Attention,
    Block,
    PatchEmbedding,
    ViT,
    attention_maps,
    attention_score,
    best_head,
    best_look,
    target_mass,
    with_uniform_attention,
)
from fourfold.training import seeded

from .draws import normal
from .hugging_face import THEIR_NAMES

HUGGING_FACE = THEIR_NAMES | {
    "cls": "vit.embeddings.cls_token",
    "positions": "vit.embeddings.position_embeddings",
    "blocks": "vit.layers",
    "head": "classifier",
}
# tokens, side of a token, depth, heads, mlp_ratio; odd sizes first
SIZES = [(9, 3, 1, 3, 3), (4, 5, 3, 5, 1), (9, 7, 2, 7, 2), (16, 8, 2, 4, 2), (4, 16, 2, 4, 2)]


def awake(model: torch.nn.Module) -> torch.nn.Module:
    """``model`` in float64 with every parameter drawn anew, so that its attention is far from uniform."""
    generator = torch.Generator().manual_seed(0)
    model = model.double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.3 if parameter.ndim == 1 else 1.5 * parameter[0].numel() ** -0.5
            centre = float("norm" in name and name.endswith("weight"))
            parameter.normal_(centre, spread, generator=generator)
    return model


def vit(tokens: int = 5, dim: int = 9, depth: int = 2, heads: int = 3, **kwargs) -> ViT:
    sizes = {"tokens": tokens, "dim": dim, "depth": depth, "heads": heads, "mlp_ratio": 2, "classes": 3}
    return awake(ViT(**sizes | kwargs))


def hugging_face(ours: ViT, p: int, heads: int):
    """ViT of transformers with our weights, over mosaics of p x p tokens that its patch embedding copies.

    Its softmax is float32 whatever the input, hence no tolerance below 1e-6.
    """
    from transformers import ViTConfig, ViTForImageClassification

    hidden, dim = ours.blocks[0].mlp.up.weight.shape
    config = ViTConfig(
        hidden_size=dim,
        num_hidden_layers=len(ours.blocks),
        num_attention_heads=heads,
        intermediate_size=hidden,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
        image_size=p * round((len(ours.positions) - 1) ** 0.5),
        patch_size=p,
        num_channels=1,
        num_labels=len(ours.head.bias),
        attn_implementation="eager",
    )
    with seeded(0):
        theirs = ViTForImageClassification(config).double().eval()
    state = {
        "vit.embeddings.patch_embeddings.projection.weight": torch.eye(dim).reshape(dim, 1, p, p),
        "vit.embeddings.patch_embeddings.projection.bias": torch.zeros(dim),
    }
    for name, value in ours.state_dict().items():
        for our, their in HUGGING_FACE.items():
            name = name.replace(our, their) if name.startswith(our) or f".{our}." in name else name
        name = name.replace("norm.", "vit.layernorm.") if name.startswith("norm.") else name
        state[name] = value[None, None] if name.endswith("cls_token") else value
        state[name] = value[None] if name.endswith("position_embeddings") else state[name]
    theirs.load_state_dict(state)
    return theirs


# --- oracles ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-6), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("tokens", "p", "depth", "heads", "ratio"), SIZES)
def test_vit_is_hugging_face_vit(tokens, p, depth, heads, ratio, dtype, atol):
    ours = vit(tokens, p * p, depth, heads, mlp_ratio=ratio)
    theirs, ours = hugging_face(ours, p, heads).to(dtype), ours.to(dtype)
    x = normal(2, tokens, p * p).to(dtype)
    side = round(tokens**0.5)
    mosaic = x.reshape(2, side, side, p, p).transpose(2, 3).reshape(2, 1, side * p, side * p)
    with torch.no_grad():
        logits, attention = ours(x)
        expected = theirs(mosaic, output_attentions=True)
    torch.testing.assert_close(logits, expected.logits, rtol=0, atol=atol)
    from_cls = torch.stack([layer[:, :, 0] for layer in expected.attentions], dim=1)
    torch.testing.assert_close(attention, from_cls, rtol=0, atol=atol)
    assert attention.std() > 0.5 / tokens  # far from uniform, or it would prove little


@pytest.mark.parametrize("scale", [1, 1e-3])  # at 1e-3 the variance is LayerNorm's epsilon, 1e-6
def test_blocks_are_hugging_face_layers_for_every_token(scale):
    ours = vit(tokens=9, dim=25, heads=5)
    theirs, x = hugging_face(ours, 5, 5), scale * normal(2, 10, 25)
    for block, layer in zip(ours.blocks, theirs.vit.layers, strict=True):
        torch.testing.assert_close(block(x)[0], layer(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "heads", "scale", "queries"),
    [
        ((3, 5, 9), 3, None, None), ((2, 3, 7, 25), 5, None, 2), ((1, 49), 7, 0.3, None),
        ((6, 64), 4, 1.0, 1), ((2, 5, 256), 4, None, 5), ((4, 3), 1, -1.0, 3),
    ],
)  # fmt: skip
def test_attention_is_scaled_dot_product_attention(shape, heads, scale, queries):
    attention, x = awake(Attention(shape[-1], heads, scale=scale)), normal(*shape)
    projected = [layer(x) for layer in (attention.query, attention.key, attention.value)]
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(-3, -2) for part in projected)
    q = q[..., :queries, :]
    mixed, weights = attention(x, queries)
    expected = scaled_dot_product_attention(q, k, v, scale=scale).transpose(-3, -2).flatten(-2)
    torch.testing.assert_close(mixed, attention.projection(expected), rtol=0, atol=1e-12)
    eye = torch.eye(shape[-2], dtype=torch.float64).expand(*k.shape[:-1], -1)
    torch.testing.assert_close(
        weights, scaled_dot_product_attention(q, k, eye, scale=scale), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("depth", [1, 3])
def test_the_last_block_computes_cls_alone_and_loses_nothing(depth):
    model, x = vit(depth=depth), normal(4, 5, 9)
    logits, attention = model(x)
    every_token, maps = torch.cat([model.cls.expand(4, 1, 9), x], 1) + model.positions, []
    for block in model.blocks:
        every_token, weights = block(every_token)
        maps.append(weights)
    expected = model.head(model.norm(every_token))[:, 0]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(attention, torch.stack(maps, 1)[..., 0, :], rtol=0, atol=1e-12)
    torch.testing.assert_close(model(x[0])[0], expected[0], rtol=0, atol=1e-12)  # one image, no batch
    got, wanted = (torch.autograd.grad(out.square().sum(), model.cls)[0] for out in (logits, expected))
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("queries", [None, 1])
@pytest.mark.parametrize("mixing", ["softmax", "uniform"])
def test_gradients_of_a_block(mixing, queries):
    block = awake(Block(6, Attention(6, 3, mixing=mixing), MLP(6, 5)))
    names, weights = zip(*block.named_parameters(), strict=True)

    def run(x, *weights):
        return functional_call(block, dict(zip(names, weights, strict=True)), (x, queries))[0]

    assert torch.autograd.gradcheck(run, (normal(2, 3, 6).requires_grad_(), *weights), fast_mode=True)
    if mixing == "softmax":
        x = normal(3, 6).requires_grad_()
        assert torch.autograd.gradcheck(lambda x: block.attention(x, queries), (x,))


# --- uniform attention ------------------------------------------------------------------------------------


def test_uniform_mixing_gives_exactly_one_over_tokens_and_cannot_select():
    model, x = vit(mixing="uniform"), normal(4, 5, 9)
    with torch.no_grad():
        logits, attention = model(x)
        model.positions.zero_()
        straight, permuted = model(x)[0], model(x[:, [3, 0, 4, 1, 2]])[0]
        for block in model.blocks:
            block.attention.query.weight.fill_(nan)  # the query does nothing
        torch.testing.assert_close(model(x)[0], straight, rtol=0, atol=0)
    assert attention.unique().tolist() == [1 / 6]
    assert attention_score(best_head(target_mass(attention, torch.arange(4))), tokens=5) == pytest.approx(0)
    torch.testing.assert_close(straight, permuted, rtol=0, atol=1e-12)
    assert logits.isfinite().all()


@pytest.mark.parametrize("tokens", [1, 3, 6])
def test_scores_of_zero_are_uniform_attention(tokens):
    softmax, x = awake(Attention(4, 2, scale=0.0)), normal(2, tokens, 4)
    uniform = Attention(4, 2, mixing="uniform").double()
    uniform.load_state_dict(softmax.state_dict())
    for queries in (None, 1):
        torch.testing.assert_close(softmax(x, queries), uniform(x, queries), rtol=0, atol=1e-15)
    torch.testing.assert_close(uniform(x)[0], uniform.projection(uniform.value(x).mean(1, True)).expand_as(x))


def test_freezing_attention_leaves_the_model_alone():
    model, x = vit(), normal(4, 5, 9)
    before = model(x)
    frozen = with_uniform_attention(model)
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)
    assert frozen(x)[1].unique().tolist() == [1 / 6]
    assert (frozen(x)[0] - before[0]).abs().max() > 0.01
    ours, theirs = model.state_dict(), frozen.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not {v.data_ptr() for v in ours.values()} & {v.data_ptr() for v in theirs.values()}


# --- scores -----------------------------------------------------------------------------------------------


def test_target_mass_reads_the_target_and_skips_cls():
    attention, target = normal(7, 2, 3, 6).softmax(-1), torch.tensor([0, 4, 2, 2, 1, 3, 0])
    picked = torch.stack([image[..., 1 + cell] for image, cell in zip(attention, target, strict=True)])
    torch.testing.assert_close(target_mass(attention, target), picked.mean(0))
    on_target = torch.nn.functional.one_hot(target + 1, 6).double()[:, None, None].expand(-1, 2, 3, -1)
    assert target_mass(on_target, target).eq(1).all()
    assert target_mass(on_target, (target + 1) % 5).eq(0).all()


def test_best_head_and_attention_score():
    mass = torch.tensor([[0.1, 0.9, 0.2], [0.3, 0.5, 0.4]])
    assert (best_head(mass), best_head(mass, "any")) == pytest.approx((0.5, 0.9))
    for tokens in (1, 6, 144):
        chance = 1 / (tokens + 1)
        assert attention_score(chance, tokens) == pytest.approx(0)
        assert attention_score(1, tokens) == 1
        assert attention_score(0, tokens) == pytest.approx(-1 / tokens)
        assert attention_score((1 + chance) / 2, tokens) == pytest.approx(0.5)
    assert attention_score(1 + 5e-7, 6) == pytest.approx(1)  # a float32 softmax may sum to a little more


def test_the_best_look_is_that_of_the_best_head():
    attention = normal(4, 2, 3, 6).softmax(-1)
    target = torch.tensor([0, 4, 2, 1])
    mass = target_mass(attention, target)
    for layers, rows in (("last", mass[1:]), ("any", mass)):
        score, seen = best_look(attention, target, layers)
        assert score == attention_score(float(rows.max()), 5)
        layer, head = (mass == rows.max()).nonzero()[0]
        assert torch.equal(seen, attention[:, layer, head, 1:])
    attention[:, 0] = torch.nn.functional.one_hot(target + 1, 6).double()[:, None]
    assert best_look(attention, target, "any")[0] == 1
    assert best_look(attention, target)[0] < 1
    with pytest.raises(ValueError, match="layers must be 'last' or 'any', got 'first'"):
        best_look(attention, target, "first")


# --- determinism and bad input ----------------------------------------------------------------------------


def test_the_seed_decides_the_weights():
    def drawn(seed: int) -> torch.Tensor:
        with seeded(seed):
            model = ViT(tokens=2, dim=4, depth=1, heads=2, mlp_ratio=1, classes=2)
        return torch.nn.utils.parameters_to_vector(model.parameters())

    assert torch.equal(drawn(3), drawn(3))
    assert (drawn(3) != drawn(4)).sum() > 100
    with seeded(0):
        spread = ViT(tokens=99, dim=100, depth=1, heads=1, mlp_ratio=1, classes=2)
    assert spread.positions.std().item() == pytest.approx(0.02, rel=0.05)
    assert spread.cls.std().item() == pytest.approx(0.02, rel=0.3)


def test_tokens_dropped_between_attention_and_mlp_are_tokens_dropped_after_the_block():
    block = Block(6, Attention(6, 2), MLP(6, 12)).double()
    x = normal(2, 5, 6)
    full, attention = block(x)
    seen = []

    def keep_three(tokens, paid):
        seen.append(paid)
        return tokens[:, :3]

    short, _ = block(x, reduce=keep_three)
    torch.testing.assert_close(short, full[:, :3], rtol=0, atol=1e-12)
    torch.testing.assert_close(seen[0], attention, rtol=0, atol=0)


def test_the_maps_of_all_tokens_agree_with_what_the_model_says_of_cls():
    model = vit().double()
    x = normal(3, 5, 9)
    maps = attention_maps(model, x)
    assert maps.shape == (3, len(model.blocks), 3, 6, 6)
    torch.testing.assert_close(maps[..., 0, :], model(x)[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1], dtype=maps.dtype))


def test_patches_are_embedded_row_by_row():
    embed = PatchEmbedding(2, 3, 4).double()
    x = normal(2, 2, 8, 12)
    tokens = embed(x)
    assert tokens.shape == (2, 6, 3)
    square = x[:, :, 4:8, 0:4].flatten(1)
    expected = square @ embed.weight.flatten(1).T + embed.bias
    torch.testing.assert_close(tokens[:, 3], expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="patch must divide the image's sides, got 4 and 8 x 10"):
        embed(normal(1, 2, 8, 10))


MASS = torch.full((4, 2, 3, 6), 1 / 6)
REFUSED = [
    (lambda: Attention(9, 2), "heads must be >= 1 and divide dim, got heads=2, dim=9"),
    (lambda: Attention(9, 0), "heads must be >= 1 and divide dim, got heads=0, dim=9"),
    (lambda: Attention(9, 3, mixing="mean"), "mixing must be 'softmax' or 'uniform', got 'mean'"),
    (lambda: vit(mixing="none"), "mixing must be 'softmax' or 'uniform', got 'none'"),
    (lambda: vit(heads=4), "heads must be >= 1 and divide dim, got heads=4, dim=9"),
    *(
        (lambda name=name: vit(**{name: 0}), f"{name} must be >= 1, got 0")
        for name in ("tokens", "dim", "depth", "mlp_ratio", "classes")
    ),
    (lambda: vit()(normal(2, 6, 9)), r"expected x of shape \(batch, 5, 9\), got \(2, 6, 9\)"),
    (lambda: vit()(normal(2, 5, 8)), r"expected x of shape \(batch, 5, 9\), got \(2, 5, 8\)"),
    (lambda: target_mass(MASS, torch.tensor([0, 1, 2, 5])), r"target must be a cell, 0\.\.4, got 0\.\.5"),
    (lambda: target_mass(MASS, torch.tensor([0, -1, 2, 3])), r"target must be a cell, 0\.\.4, got -1\.\.3"),
    (lambda: target_mass(MASS, torch.tensor([0, 1])), r"target must be .*\b4\b.*got .*2"),
    (lambda: best_head(MASS[0, ..., 0], "first"), "layers must be 'last' or 'any', got 'first'"),
    (lambda: attention_score(0.5, 0), "tokens must be >= 1, got 0"),
    (lambda: attention_score(1.1, 4), r"mass must be in 0\.\.1, a share of attention, got 1\.1"),
    (lambda: attention_score(-0.1, 4), r"mass must be in 0\.\.1, a share of attention, got -0\.1"),
    (lambda: attention_score(nan, 4), r"mass must be in 0\.\.1, a share of attention, got nan"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
