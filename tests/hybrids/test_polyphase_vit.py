"""The anchor commutes with shifts, its networks are those of others, and without it the verdicts turn."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, pixel_unshuffle, scaled_dot_product_attention
from transformers import ViTConfig, ViTForImageClassification

from fourfold import cost
from fourfold.data.images import photographs
from fourfold.hybrids.polyphase_vit import (
    TWINS,
    VIT,
    Centred,
    CircularPEG,
    GlobalSubAttention,
    LocalAttention,
    PolyPatchEmbed,
    Twins,
    TwinsBlock,
    TwinsSpec,
    ViT,
    ViTSpec,
    affine,
    anchor,
    centred,
    consistency,
    cropped,
    energy_gap,
    over_shifts,
    polyphase_energy,
    roll,
    shift_error,
    spread,
    strongest_phase,
    worst_shift_drop,
)
from fourfold.judging import parameters, records
from fourfold.training import Recipe, seeded, shuffled, train

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}
SMALL = ViTSpec(8, 2, 2, 4, 16, 2, 1, 3)
SMALL_TWINS = TwinsSpec((8, 8), (2, 2), (2, 4), (2, 2), (4, 2), 4, 2, 1, 3)


def built(make, seed: int = 0) -> nn.Module:
    with seeded(seed):
        return make().double().eval().requires_grad_(False)


# --- the anchor -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("size", [(12, 12), (6, 15), (3, 9)])
def test_energies_are_those_of_pixel_unshuffle(size, order):
    x = normal(2, 3, *size)
    phases = pixel_unshuffle(x, 3).reshape(2, 3, 9, -1)
    expected = phases.transpose(1, 2).flatten(2).norm(order, dim=-1).reshape(2, 3, 3)
    torch.testing.assert_close(polyphase_energy(x, 3, order), expected, rtol=1e-12, atol=0)
    assert polyphase_energy(x.float(), 3, order).dtype == torch.float64
    assert polyphase_energy(x, 3, order, torch.float32).dtype == torch.float32


def test_a_roll_is_that_of_torch_for_each_image():
    x, shifts = normal(3, 2, 5, 7), torch.tensor([[0, 0], [2, -3], [-9, 12]])
    expected = torch.stack(
        [torch.roll(i, tuple(s.tolist()), (-2, -1)) for i, s in zip(x, shifts, strict=True)]
    )
    assert torch.equal(roll(x, shifts), expected)


@pytest.mark.parametrize("stride", [2, 4, 7, 8])
def test_of_all_shifts_of_photographs_the_anchor_leaves_multiples_of_its_stride(stride):
    x = photographs(["camera", "chelsea"], 56, grey=False).double()
    first, phase = anchor(x, stride), strongest_phase(x, stride)
    for down in range(stride):
        for right in range(stride):
            moved = torch.roll(x, (down, right), (-2, -1))
            now = strongest_phase(moved, stride)
            assert torch.equal(now, (phase + torch.tensor([down, right])) % stride)
            left = phase + torch.tensor([down, right]) - now
            assert torch.equal(left % stride, torch.zeros_like(left))
            assert torch.equal(anchor(moved, stride), roll(first, left))


def test_the_strongest_component_starts_the_anchored_image():
    x = normal(4, 2, 8, 12)
    energy = polyphase_energy(anchor(x, 4), 4).flatten(1)
    assert torch.equal(energy.argmax(1), torch.zeros(4, dtype=torch.int64))


def test_a_tie_is_told_and_breaks_the_guarantee():
    x = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    x[0, 0, 0, 0], x[0, 0, 1, 0], x[0, 0, 1, 2] = 5, 3, 4
    assert float(energy_gap(x, 2)) == 0
    sampled = [anchor(torch.roll(x, (down, 0), (-2, -1)), 2)[..., ::2, ::2] for down in (0, 1)]
    assert [sorted(each.unique().tolist()) for each in sampled] == [[0, 5], [0, 3, 4]]
    assert float(energy_gap(normal(1, 1, 4, 4), 2)) > 0


def test_single_precision_ties_where_double_does_not():
    x = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    x[0, 0, 0, 0], x[0, 0, 1, 1] = 1, 1 + 1e-12
    phases = [strongest_phase(x, 2, 2, precision).tolist() for precision in (torch.float64, torch.float32)]
    assert phases == [[[1, 1]], [[0, 0]]]


def test_a_network_takes_the_precision_that_its_modules_are_given(monkeypatch):
    asked = set()

    def listening(x, stride, order=2, precision=torch.float64):
        asked.add(precision)
        return torch.zeros(len(x), 2, dtype=torch.int64)

    monkeypatch.setattr("fourfold.hybrids.polyphase_vit.strongest_phase", listening)
    net, x = built(lambda: Twins(SMALL_TWINS, 2)), normal(1, 1, 16, 16)
    net(x)
    for module in net.modules():
        module.precision = torch.float32
    net(x)
    assert asked == {torch.float64, torch.float32}


def test_layer_norm_takes_the_second_order_and_leaves_the_fourth():
    maps = nn.functional.layer_norm(normal(20, 8, 8, 16), (16,)).permute(0, 3, 1, 2)
    assert float(energy_gap(maps, 4, 2).max()) < 1e-5
    assert float(energy_gap(maps, 4, 4).median()) > 1e-3


@pytest.mark.parametrize("order", [1, 2, 4])
def test_gradients_pass_through_the_roll(order):
    x = normal(2, 2, 4, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: anchor(x, 2, order), (x,))


# --- layers -----------------------------------------------------------------------------------------------


def worst_error(layer, x, stride):
    outputs = layer(
        torch.stack([torch.roll(x, (i, j), (-2, -1)) for i in range(stride) for j in range(stride)])
    )
    return shift_error(outputs[0], outputs[1:])


@pytest.mark.parametrize("stride", [2, 4, 7])
def test_layers_commute_with_shifts_where_they_are_anchored_and_nowhere_else(stride):
    x = normal(6, 28, 56)
    layers = {
        "patches": built(lambda: PolyPatchEmbed(stride, 6, 6)),
        "windows": built(lambda: LocalAttention(6, 2, stride)),
        "subsampled": built(lambda: GlobalSubAttention(6, 2, stride)),
    }
    for name, layer in layers.items():
        anchored = layer if name == "patches" else lambda x, layer=layer: layer(anchor(x, stride))
        assert worst_error(anchored, x, stride) < 1e-10, name
        fixed = built(lambda: PolyPatchEmbed(stride, 6, 6, None)) if name == "patches" else layer
        assert worst_error(fixed, x, stride) > 1e-3, name


def test_patches_are_a_strided_convolution_and_a_norm():
    layer, x = built(lambda: PolyPatchEmbed(4, 3, 5, None)), normal(2, 3, 8, 12)
    convolved = layer.projection(x)
    expected = nn.functional.layer_norm(convolved.permute(0, 2, 3, 1), (5,)).permute(0, 3, 1, 2)
    torch.testing.assert_close(layer(x), expected, **EXACT)
    bare = built(lambda: PolyPatchEmbed(4, 3, 5, None, norm=False))
    torch.testing.assert_close(bare(x), bare.projection(x), **EXACT)


def test_the_convolution_for_positions_wraps_around():
    layer, x = built(lambda: CircularPEG(3)), normal(1, 3, 4, 5)
    moved = torch.roll(x, (1, 2), (-2, -1))
    torch.testing.assert_close(layer(moved), torch.roll(layer(x), (1, 2), (-2, -1)), **EXACT)
    zeros = built(lambda: CircularPEG(3, "zeros"))
    assert (zeros(moved) - torch.roll(zeros(x), (1, 2), (-2, -1))).abs().max() > 1e-3


def explicit(q, k, v):
    return ((q @ k.mT) / math.sqrt(q.shape[-1])).softmax(-1) @ v


def test_fused_attention_is_the_explicit_one():
    q, k, v = normal(2, 3, 7, 4), normal(2, 3, 5, 4, seed=1), normal(2, 3, 5, 4, seed=2)
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v), explicit(q, k, v), rtol=0, atol=1e-6)


def heads(x, count):
    return x.unflatten(-1, (count, -1)).movedim(-2, -3)


def test_a_window_is_attention_of_its_tokens():
    layer, x = built(lambda: LocalAttention(6, 2, 2)), normal(1, 6, 4, 6)
    tokens = x[0, :, 2:4, 4:6].flatten(1).mT
    q, k, v = (heads(part, 2) for part in layer.qkv(tokens).chunk(3, -1))
    expected = layer.projection(explicit(q, k, v).movedim(-3, -2).flatten(-2))
    torch.testing.assert_close(layer(x)[0, :, 2:4, 4:6].flatten(1).mT, expected, **EXACT)


@pytest.mark.parametrize("sr", [1, 2])
def test_global_attention_asks_a_subsampled_map(sr):
    layer, x = built(lambda: GlobalSubAttention(6, 2, sr)), normal(2, 6, 4, 6)
    small = x if sr == 1 else nn.functional.layer_norm(
        layer.reduction.projection(x).permute(0, 2, 3, 1), (6,)).permute(0, 3, 1, 2)  # fmt: skip
    tokens, asked = x.flatten(2).mT, small.flatten(2).mT
    k, v = layer.kv(asked).chunk(2, -1)
    mixed = explicit(heads(layer.q(tokens), 2), heads(k, 2), heads(v, 2)).movedim(-3, -2).flatten(-2)
    torch.testing.assert_close(layer(x).flatten(2).mT, layer.projection(mixed), **EXACT)


# --- networks ---------------------------------------------------------------------------------------------


def to_hugging_face(state, depth, dim):
    """Our weights by the names of transformers."""
    names = {
        "embed.projection": "vit.embeddings.patch_embeddings.projection",
        "norm": "vit.layernorm",
        "head": "classifier",
    }
    for i in range(depth):
        ours, theirs = f"blocks.{i}", f"vit.encoder.layer.{i}"
        for part in ("query", "key", "value"):
            names[f"{ours}.attention.{part}"] = f"{theirs}.attention.attention.{part}"
        names[f"{ours}.attention.projection"] = f"{theirs}.attention.output.dense"
        names[f"{ours}.norm_attention"] = f"{theirs}.layernorm_before"
        names[f"{ours}.norm_mlp"] = f"{theirs}.layernorm_after"
        names[f"{ours}.mlp.up"] = f"{theirs}.intermediate.dense"
        names[f"{ours}.mlp.down"] = f"{theirs}.output.dense"
    renamed = {}
    for name, value in state.items():
        module, _, field = name.rpartition(".")
        if name == "cls":
            renamed["vit.embeddings.cls_token"] = value.view(1, 1, dim)
        elif name == "positions":
            renamed["vit.embeddings.position_embeddings"] = value[None]
        else:
            renamed[f"{names[module]}.{field}"] = value
    return renamed


def test_the_plain_vit_is_that_of_transformers():
    spec = ViTSpec(24, 3, 2, 8, 32, 2, 3, 5)
    ours = built(lambda: ViT(spec)).float()
    config = ViTConfig(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48, image_size=32,
        patch_size=8, num_labels=5, layer_norm_eps=1e-6, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    theirs = ViTForImageClassification(config).eval()
    known = theirs.state_dict()
    given = to_hugging_face(ours.state_dict(), 3, 24)
    if not known.keys() <= given.keys():  # newer versions have shorter names
        given = {short(name): value for name, value in given.items()}
    theirs.load_state_dict(given)
    x = normal(2, 3, 32, 32).float()
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x).logits, rtol=0, atol=1e-5)


def short(name):
    """The names of transformers from version 5 on."""
    for old, new in (
        ("encoder.layer", "layers"), ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"), ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"), ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    ):  # fmt: skip
        name = name.replace(old, new)
    return name


PUBLISHED = {"Twins-SVT-S": 24_060_776, "Twins-SVT-B": 56_070_952, "Twins-SVT-L": 99_271_400}


def test_published_sizes():
    """Those of timm 1.0.31, with and without anchors; ViT loses its table of positions."""
    with torch.device("meta"):
        for name, size in PUBLISHED.items():
            for order in (None, 2):
                assert cost.parameters(Twins(TWINS[name], order)) == size
        for name, plain, poly in (
            ("ViT-S/16", 22_050_664, 21_979_624), ("ViT-B/16", 86_567_656, 86_425_576),
        ):  # fmt: skip
            assert cost.parameters(ViT(VIT[name])) == plain
            assert cost.parameters(ViT(VIT[name], 2, True, True)) == poly


def test_published_twins_runs_at_its_size():
    with torch.device("meta"):
        net = Twins(TWINS["Twins-SVT-S"])
        assert net(torch.empty(1, 3, 224, 224)).shape == (1, 1000)


ALL = [(down, right) for down in range(8) for right in range(8)]


@pytest.mark.parametrize(
    ("make", "invariant"),
    [
        (lambda: ViT(SMALL, 2, True, True), True),
        (lambda: ViT(SMALL, 4, True), True),
        (lambda: ViT(SMALL, None, True, True), False),
        (lambda: ViT(SMALL, 2), False),
        (lambda: ViT(SMALL), False),
        (lambda: Twins(SMALL_TWINS, 4), True),
        (lambda: Twins(SMALL_TWINS), False),
        (lambda: Centred(ViT(SMALL)), True),
    ],
)
def test_scores_do_not_depend_on_the_shift_where_grid_and_positions_follow_it(make, invariant):
    moves = spread(over_shifts(built(make), normal(6, 1, 16, 16), ALL))
    assert (float(moves.max()) < 1e-9) == invariant
    if not invariant:
        assert float(moves.max()) > 1e-4


def test_stages_of_twins_end_with_subsampling():
    net = built(lambda: Twins(SMALL_TWINS, 4))
    for stage in net.stages:
        assert isinstance(stage[-1].attention, GlobalSubAttention)
    blocks = [layer for stage in net.stages for layer in stage if isinstance(layer, TwinsBlock)]
    assert [block.cell for block in blocks] == [4, 4, 4, 2]


# --- the rival and the measures ---------------------------------------------------------------------------


def test_a_centred_image_has_its_centroid_in_the_middle_wherever_it_was():
    x = torch.zeros(1, 1, 9, 12, dtype=torch.float64)
    x[0, 0, 7, 1] = x[0, 0, 8, 1] = x[0, 0, 0, 1] = 1  # around the border
    expected = torch.zeros_like(x)
    expected[0, 0, 3:6, 6] = 1
    y = normal(5, 2, 9, 12)
    for shift in ((0, 0), (4, 5), (8, 11)):
        assert torch.equal(centred(torch.roll(x, shift, (-2, -1))), expected)
        assert torch.equal(centred(torch.roll(y, shift, (-2, -1))), centred(y))


def test_consistency_counts_pairs():
    logits = nn.functional.one_hot(torch.tensor([[0, 1], [0, 1], [0, 2], [1, 1]]), 3).double()
    assert consistency(logits) == pytest.approx((3 / 6 + 3 / 6) / 2)
    assert consistency(logits[:2]) == 1
    assert spread(logits).tolist() == [1, 1]
    assert spread(logits[:2]).tolist() == [0, 0]


def test_the_first_half_chooses_the_worst_shift_and_the_second_is_judged_at_it():
    right = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]])
    logits = nn.functional.one_hot(right, 2).double()
    assert worst_shift_drop(logits, torch.ones(4, dtype=torch.int64)) == 0.5
    assert worst_shift_drop(logits[:1], torch.ones(4, dtype=torch.int64)) == 0


def test_shift_error_is_zero_for_shifts_alone():
    x = normal(2, 5, 6)
    moved = torch.stack([torch.roll(x, (down, right), (-2, -1)) for down in range(5) for right in range(6)])
    assert shift_error(x, moved) == 0
    assert shift_error(x, torch.cat([moved, normal(1, 2, 5, 6, seed=1)])) > 0.1


def still(count):
    zero = torch.zeros(count)
    return {"angle": zero, "move": torch.zeros(count, 2), "scale": torch.ones(count), "shear": zero}


def test_affine_maps_are_the_moves_that_need_no_interpolation():
    x = normal(2, 1, 8, 8).float()
    close = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(affine(x, **still(2)), x, **close)
    turned = affine(x, **(still(2) | {"angle": torch.full((2,), 90.0)}))
    torch.testing.assert_close(turned, x.rot90(1, (2, 3)), **close)
    moved = affine(x, **(still(2) | {"move": torch.tensor([[0.25, 0.0], [0.0, -0.125]])}))
    torch.testing.assert_close(moved, cropped(x, torch.tensor([[0, 2], [-1, 0]])), **close)
    larger = affine(x, **(still(2) | {"scale": torch.full((2,), 2.0)}))
    centre = nn.functional.interpolate(x[..., 2:6, 2:6], scale_factor=2, mode="bilinear")
    torch.testing.assert_close(larger[..., 1:-1, 1:-1], centre[..., 1:-1, 1:-1], **close)
    # A shear moves every column down by its distance to the right of the middle, here by whole pixels.
    odd = normal(2, 1, 7, 7).float()
    sheared = affine(odd, **(still(2) | {"shear": torch.full((2,), 45.0)}))
    for column in range(7):
        by = torch.tensor([[column - 3, 0]]).expand(2, -1)
        torch.testing.assert_close(sheared[..., column], cropped(odd, by)[..., column], **close)


def test_a_crop_is_cut_from_a_border_of_zeros():
    x, offsets = normal(3, 2, 5, 6), torch.tensor([[0, 0], [2, -1], [-4, 3]])
    padded = nn.functional.pad(x, (5, 5, 5, 5))
    expected = torch.stack([
        image[:, 5 - down : 10 - down, 5 - right : 11 - right]
        for image, (down, right) in zip(padded, offsets.tolist(), strict=True)
    ])  # fmt: skip
    assert torch.equal(cropped(x, offsets), expected)


def spots(n, seed):
    """Noise with two bright pixels: side by side (1) or not (0), anywhere."""
    generator = torch.Generator().manual_seed(seed)
    x, y = 0.1 * torch.randn(n, 1, 16, 16, generator=generator), torch.arange(n) % 2
    x[:, 0, 4, 4] += 3
    x[y == 1, 0, 4, 5] += 3
    x[y == 0, 0, 6, 6] += 3
    return roll(x, torch.randint(16, (n, 2), generator=generator)), y


@pytest.mark.parametrize("together", [True, False])
def test_it_learns_the_same_again_alone_or_in_company(together):
    x, y = spots(64, 0)
    test = tuple(part.expand(2, *part.shape) for part in spots(50, 1))
    recipe = Recipe(epochs=20, batch=16, lr=2e-2)

    def run():
        make = lambda: ViT(SMALL, 4, True, True)  # noqa: E731
        return train(make, (0, 1), shuffled(x, y), test, recipe, together=together)

    first, again = run(), run()
    assert torch.equal(first.loss, again.loss)
    assert float(first.accuracy[:, -1].min()) > 0.8


# --- mutations --------------------------------------------------------------------------------------------


def phase_ignored(x, stride, order=2, precision=torch.float64):
    """The anchor leaves every image where it is: its phase is always the first."""
    return torch.zeros(len(x), 2, dtype=torch.int64)


MUTATIONS = [
    ("strongest_phase", phase_ignored),
]


@pytest.mark.parametrize(("target", "mutation"), MUTATIONS)
def test_what_is_mutated_still_trains(monkeypatch, target, mutation):
    monkeypatch.setattr(f"fourfold.hybrids.polyphase_vit.{target}", mutation)
    x, y = spots(8, 0)
    for make in (lambda: ViT(SMALL, 4, True, True), lambda: Twins(SMALL_TWINS, 4)):
        net = make()
        cross_entropy(net(x), y).backward()
        assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in net.parameters())


def test_any_choice_that_moves_with_the_image_serves(monkeypatch):
    def weakest(x, stride, order=2, precision=torch.float64):
        worst = polyphase_energy(x, stride, order).flatten(1).argmin(1)
        return torch.stack([worst // stride, worst % stride], 1)

    monkeypatch.setattr("fourfold.hybrids.polyphase_vit.strongest_phase", weakest)
    net = built(lambda: ViT(SMALL, 2, True, True))
    assert float(spread(over_shifts(net, normal(4, 1, 16, 16), ALL)).max()) < 1e-9


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dims": [16]}, r"dims = \[16\]: expected"),
        ({"dims": [18, 32]}, r"dims = \[18, 32\]: expected a multiple of 4"),
        ({"image": 20}, "image = 20: expected"),
        ({"n_shift": 1000, "n_test": 500}, "n_shift = 1000: expected at most n_test"),
        ({"shifts": 20}, "shifts = 20: expected at most image"),
        ({"order": 3}, "order = 3: expected"),
    ],
)
def test_parameters_that_no_network_can_have_are_refused_by_name(given, message):
    record = records.load("polyphase_vit")
    with pytest.raises(parameters.ParameterError, match=message):
        parameters.validate(record, record.values("quick") | given)


@pytest.mark.parametrize("image", [16, 32])
@pytest.mark.parametrize("patch", [2, 4])
def test_every_allowed_size_fits(image, patch):
    x = torch.zeros(1, 1, image, image)
    assert ViT(ViTSpec(8, 1, 2, patch, image, 2, 1, 3), 2, True)(x).shape == (1, 3)
    twins = TwinsSpec((8, 8), (2, 2), (2, 4), (patch, 2), (2, 1), 2, 2, 1, 3)
    assert Twins(twins, 2)(x).shape == (1, 3)


X = torch.zeros(1, 8, 8, 12)
REFUSED = [
    (lambda: polyphase_energy(X, 3), "stride must be >= 1 and divide height = 8, got 3"),
    (lambda: anchor(X, 8), "stride must be >= 1 and divide width = 12, got 8"),
    (lambda: anchor(X, 0), "stride must be >= 1 and divide height = 8, got 0"),
    (lambda: anchor(X, 2, 3), "order must be one of '1', '2', '4', got '3'"),
    (lambda: PolyPatchEmbed(3, 8, 8)(X), "stride must be >= 1 and divide height = 8, got 3"),
    (lambda: LocalAttention(8, 3, 2), "heads must be >= 1 and divide dim = 8, got 3"),
    (lambda: LocalAttention(8, 2, 0), "window must be >= 1, got 0"),
    (lambda: LocalAttention(8, 2, 8)(X), "window must be >= 1 and divide width = 12, got 8"),
    (lambda: GlobalSubAttention(8, 2, 0), "sr must be >= 1, got 0"),
    (lambda: GlobalSubAttention(8, 2, 3)(X), "stride must be >= 1 and divide height = 8, got 3"),
    (lambda: TwinsSpec((8,), (3,), (2,), (2,), (2,)), r"depths must be even and >= 2, got \[3\]"),
    (lambda: TwinsSpec((8, 8), (2,), (2, 2)), r"depths must be one for each of dims = \[8, 8\], got \[2\]"),
    (lambda: ViT(ViTSpec(8, 1, 2, 5, 16)), "patch must be >= 1 and divide image = 16, got 5"),
    (lambda: consistency(torch.zeros(1, 2, 3)), "shifts must be >= 2, got 1"),
    (lambda: cropped(X, torch.tensor([[8, 0]])), "offsets must be below 8, got 8"),
    (lambda: affine(X, **still(1)), r"images must be square, got \(1, 8, 8, 12\)"),
    (lambda: affine(X[..., :8], **(still(1) | {"scale": torch.zeros(1)})), "scale must be > 0"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
