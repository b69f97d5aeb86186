"""ConvShareViT: its layers are conv2d, its valid arm is ViT, and small kernels are limited as counted."""

import os
import subprocess
import sys
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.nn.functional import conv2d, cross_entropy, linear, scaled_dot_product_attention

from fourfold import cost
from fourfold.attention import Attention
from fourfold.bench4f import light, throughput
from fourfold.data.probes import key_recall
from fourfold.judging import records
from fourfold.judging.card import judge
from fourfold.judging.parameters import ParameterError, validate
from fourfold.judging.records import ROOT
from fourfold.optics.convsharevit import (
    ARMS,
    DepthwiseMLP,
    SharedConv,
    bench_passes,
    check_arms,
    conv_mix,
    conv_scores,
    convsharevit,
    light_error,
    matrix_macs,
    permutation_equivariance,
    projection_span_rank,
    span_residual,
    transposition,
    twin_difference,
)
from fourfold.recorded import evidence
from fourfold.training import Recipe, seeded, shuffled, train

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}
TOLERANCE = {torch.float64: EXACT, torch.float32: {"rtol": 0, "atol": 1e-5}}  # the record's C1


def small_kernels(arm, **sizes):
    """The arm called valid gets same-padded 3 x 3 kernels."""
    return convsharevit("same3" if arm == "valid" else arm, **sizes)


def no_padding(arm, **sizes):
    """Same-padded arms get valid kernels as large as the token."""
    return convsharevit("valid" if arm.startswith("same") else arm, **sizes)


MUTATIONS = [("convsharevit", small_kernels), ("convsharevit", no_padding)]

SHARED = [name for name, arm in ARMS.items() if arm.shared and arm.mlp != "depthwise"]
UNSHARED = [name for name in ARMS if name not in SHARED]


def drawn(make, *args, seed: int = 0, **kwargs):
    with seeded(seed):
        return make(*args, **kwargs)


def layer(maps: int, kernels: int, p: int, k: int, padding: str, tokens=None, seed: int = 0) -> SharedConv:
    """A float64 layer from the number of its maps and kernels."""
    outputs = p * p if padding == "same" else (p - k + 1) ** 2
    return drawn(SharedConv, maps * p * p, kernels * outputs, p, k, padding, tokens, seed=seed).double()


def model(arm: str, seed: int = 0, p: int = 8, tokens: int = 3, **kwargs):
    return drawn(convsharevit, arm, p=p, tokens=tokens, classes=4, seed=seed, **kwargs)


def by_conv2d(conv: SharedConv, x: torch.Tensor, p: int, padding: str) -> torch.Tensor:
    """What ``conv`` should compute from x (batch, tokens, d_in), by torch's own convolution."""
    tokens, k, unshared = x.shape[1], conv.weight.shape[-1], conv.tokens is not None
    images = x.reshape(len(x), -1, p, p) if unshared else x.reshape(len(x) * tokens, -1, p, p)
    same = k // 2 if padding == "same" else 0
    out = conv2d(images, conv.weight, conv.bias, padding=same, groups=tokens if unshared else 1)
    return out.reshape(len(x), tokens, -1)


# --- the layer --------------------------------------------------------------------------------------------


@given(
    p=st.integers(1, 9), k=st.integers(1, 9), padding=st.sampled_from(["valid", "same"]),
    maps=st.integers(1, 3), kernels=st.integers(1, 4), tokens=st.integers(1, 4), shared=st.booleans(),
)  # fmt: skip
@example(p=16, k=16, padding="valid", maps=2, kernels=5, tokens=3, shared=True)
@example(p=16, k=7, padding="same", maps=2, kernels=2, tokens=3, shared=False)
@example(p=8, k=5, padding="valid", maps=1, kernels=4, tokens=3, shared=True)  # 100 weights
@example(p=8, k=8, padding="valid", maps=2, kernels=4, tokens=3, shared=False)
@example(
    p=3, k=5, padding="same", maps=1, kernels=1, tokens=2, shared=False
)  # a kernel larger than the token
def test_a_layer_is_conv2d_and_its_dense_matrix(p, k, padding, maps, kernels, tokens, shared):
    k = min(k, p) if padding == "valid" else min(k - (k + 1) % 2, 2 * p - 1)
    conv, x = layer(maps, kernels, p, k, padding, None if shared else tokens), normal(2, tokens, maps * p * p)
    y = conv(x)
    torch.testing.assert_close(y, by_conv2d(conv, x, p, padding), **EXACT)
    assert conv.weight.shape == ((1 if shared else tokens) * kernels, maps, k, k)
    assert y.shape[-1] == kernels * (p * p if padding == "same" else (p - k + 1) ** 2)
    matrix, offset = conv.dense_matrix(), conv(torch.zeros_like(x))
    assert matrix.shape == (() if shared else (tokens,)) + (y.shape[-1], maps * p * p)
    torch.testing.assert_close((matrix @ x[..., None])[..., 0] + offset, y, **EXACT)
    torch.testing.assert_close(conv(x[:, None])[:, 0], y, **EXACT)  # any number of leading axes
    torch.testing.assert_close(conv(x[0]), y[0], **EXACT)
    torch.testing.assert_close(conv(x[:, :1]), y[:, :1], **EXACT)  # CLS alone, with its own kernels
    torch.testing.assert_close(conv.convolve(x[:, None, :1])[:, 0], y[:, :1], **EXACT)


@pytest.mark.parametrize(
    ("maps", "kernels", "p", "k", "padding", "tokens"),
    [
        (1, 2, 3, 3, "valid", None), (2, 2, 5, 2, "valid", None), (2, 1, 5, 3, "same", None),
        (1, 2, 7, 5, "valid", None), (1, 1, 7, 7, "same", None), (1, 1, 3, 5, "same", 2),
        (2, 2, 3, 3, "valid", 3), (1, 1, 5, 3, "same", 3), (1, 1, 16, 3, "same", None),
        (1, 2, 16, 16, "valid", None),
    ],
)  # fmt: skip
def test_gradients_of_a_layer(maps, kernels, p, k, padding, tokens):
    conv, x = layer(maps, kernels, p, k, padding, tokens), normal(1, tokens or 2, maps * p * p)

    def run(x, weight, bias):
        return functional_call(conv, {"weight": weight, "bias": bias}, (x,))

    inputs = (x.requires_grad_(), conv.weight, conv.bias)
    assert torch.autograd.gradcheck(run, inputs, fast_mode=p == 16)
    ours, theirs = (
        torch.autograd.grad(out.square().sum(), inputs) for out in (conv(x), by_conv2d(conv, x, p, padding))
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("p", "maps", "d_out"), [(3, 1, 9), (5, 2, 25), (7, 1, 98), (8, 1, 64), (16, 2, 256)]
)
def test_valid_with_k_equal_to_p_is_linear_from_the_same_seed(p, maps, d_out, dtype):
    dense = drawn(nn.Linear, maps * p * p, d_out).to(dtype)
    conv = drawn(SharedConv, maps * p * p, d_out, p, p).to(dtype)
    assert torch.equal(conv.weight.flatten(1), dense.weight)
    assert torch.equal(conv.bias, dense.bias)
    assert torch.equal(conv.dense_matrix(), dense.weight)
    x = normal(2, 3, maps * p * p).to(dtype).requires_grad_()
    torch.testing.assert_close(conv(x), dense(x), **TOLERANCE[dtype])
    torch.testing.assert_close(conv(x), linear(x, dense.weight, dense.bias), **TOLERANCE[dtype])
    got, expected = (
        torch.autograd.grad(one(x).sin().mean(), (x, one.weight, one.bias)) for one in (conv, dense)
    )
    torch.testing.assert_close(got[1].flatten(1), expected[1], **TOLERANCE[dtype])
    torch.testing.assert_close(got[::2], expected[::2], **TOLERANCE[dtype])


def test_weights_are_drawn_as_by_conv2d():
    for maps, kernels, p, k, tokens in ((1, 4, 8, 5, None), (2, 1, 8, 3, None), (1, 2, 5, 5, 3)):
        outputs = (p - k + 1) ** 2
        ours = drawn(SharedConv, maps * p * p, kernels * outputs, p, k, "valid", tokens)
        groups = tokens or 1
        theirs = drawn(nn.Conv2d, maps * groups, kernels * groups, k, groups=groups)
        assert torch.equal(ours.weight, theirs.weight)
        assert torch.equal(ours.bias, theirs.bias)
    assert not torch.equal(ours.weight, drawn(SharedConv, 25, 2, 5, 5, "valid", 3, seed=1).weight)


def test_depthwise_mlp_is_fcsas_stack_of_torch_modules():
    mlp, x, steps = drawn(DepthwiseMLP, 5, 3).double(), normal(4, 3, 25), []
    convolutions = [module for module in mlp.modules() if isinstance(module, SharedConv)]
    norms = [module for module in mlp.modules() if isinstance(module, nn.BatchNorm1d)]
    for conv, norm in zip(convolutions, norms, strict=True):
        nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(0))
        nn.init.normal_(norm.bias, generator=torch.Generator().manual_seed(1))
        steps += [nn.Conv2d(3, 3, 7, padding=3, groups=3).double(), nn.GELU()]
        steps += [nn.BatchNorm2d(3, track_running_stats=False).double()]
        steps[-3].load_state_dict(conv.state_dict())
        steps[-1].load_state_dict(norm.state_dict())
    assert len(steps) == 6
    expected = nn.Sequential(*steps)(x.unflatten(-1, (5, 5))).flatten(-2)
    torch.testing.assert_close(mlp(x), expected, **EXACT)
    torch.testing.assert_close(mlp.eval()(x), expected, **EXACT)  # no running averages
    torch.testing.assert_close(mlp(x[:, :2]), expected[:, :2], **EXACT)


# --- attention as convolutions ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "tokens", "height", "width"),
    [(1, 5, 3, 3), (2, 3, 7, 7), (4, 6, 2, 8), (3, 1, 5, 5), (2, 5, 16, 16)],
)
def test_scores_and_mix_are_scaled_dot_product_attention(batch, tokens, height, width):
    q, k, v = (normal(batch, tokens, height, width, seed=seed).requires_grad_() for seed in range(3))
    flat = [part.flatten(2) for part in (q, k, v)]
    scores = conv_scores(q, k)
    torch.testing.assert_close(scores, flat[0] @ flat[1].mT / (height * width) ** 0.5, **EXACT)
    mixed = conv_mix(scores.softmax(-1), v)
    expected = scaled_dot_product_attention(*flat)
    torch.testing.assert_close(mixed.flatten(2), expected, **EXACT)
    assert mixed.shape == v.shape
    grads = [
        torch.autograd.grad(out.square().sum(), (q, k, v), retain_graph=True) for out in (mixed, expected)
    ]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-12)


def test_a_score_of_two_maps_is_their_product_over_the_side():
    q, k = normal(1, 1, 7, 7), normal(1, 1, 7, 7, seed=1)
    assert conv_scores(q, k).item() == pytest.approx((q * k).sum().item() / 7, rel=1e-13)


@pytest.mark.parametrize(("p", "heads"), [(8, 4), (8, 1), (6, 3), (5, 5)])
def test_a_head_of_attention_is_a_stripe_of_rows_on_the_bench(p, heads):
    attention, x = drawn(Attention, p * p, heads).double(), normal(2, 5, p * p)
    stripes = [
        part(x).reshape(2, 5, heads, p // heads, p).transpose(1, 2).flatten(0, 1)
        for part in (attention.query, attention.key, attention.value)
    ]
    weights = conv_scores(*stripes[:2]).softmax(-1)
    mixed = conv_mix(weights, stripes[2]).unflatten(0, (2, heads)).transpose(1, 2).flatten(2)
    expected, maps = attention(x)
    torch.testing.assert_close(attention.projection(mixed), expected, **EXACT)
    torch.testing.assert_close(weights.unflatten(0, (2, heads)), maps, **EXACT)


# --- what small kernels cannot do -------------------------------------------------------------------------


def products(p: int, k: int, padding: str) -> torch.Tensor:
    """vec(T_q^T T_k) of more random pairs of kernels than there are dimensions."""
    pairs = min(p**4, k**4) + 7
    query, key = (
        layer(1, pairs, p, k, padding, seed=seed).dense_matrix().reshape(pairs, -1, p * p).detach()
        for seed in (1, 2)
    )
    return (query.mT @ key).flatten(1)


@pytest.mark.parametrize("k", [1, 3, 5, 7])
def test_rank_of_what_same_kernels_can_compare_is_the_closed_form(k):
    rank = (2 * ((k + 1) // 2) ** 2 - 1) ** 2
    assert projection_span_rank(8, k, "same") == rank == {1: 1, 3: 49, 5: 289, 7: 961}[k]


def test_rank_of_what_valid_kernels_can_compare_is_everything_at_k_equal_to_p():
    assert [projection_span_rank(p, p, "valid") for p in (1, 3, 8)] == [1, 81, 4096]
    ranks = [projection_span_rank(8, k, "valid") for k in range(1, 9)]
    assert all(low < high for low, high in pairwise(ranks))
    assert projection_span_rank(16, 7, "same") == 961  # a larger token leaves the same kernels where they are


@pytest.mark.parametrize(
    ("p", "k", "padding"),
    [
        *((p, k, "same") for p in (2, 3, 4) for k in range(1, 2 * p, 2)),
        *((p, k, "valid") for p in (3, 4) for k in range(1, p + 1)),
    ],
)
def test_rank_and_residual_are_those_of_random_kernels(p, k, padding):
    spanned = products(p, k, padding)
    rank = int(torch.linalg.matrix_rank(spanned, rtol=1e-10))
    assert projection_span_rank(p, k, padding) == rank
    for target in (transposition(p), normal(p * p, p * p)):
        basis = torch.linalg.svd(spanned, full_matrices=False)[2][:rank]
        outside = target.flatten() - basis.T @ (basis @ target.flatten())
        expected = float(outside.norm() / target.norm())
        assert span_residual(target, p, k, padding) == pytest.approx(expected, abs=1e-9)


def test_the_transposition_is_out_of_reach_of_small_kernels():
    assert span_residual(transposition(8), 8, 3, "same") == pytest.approx(0.94, abs=0.005)
    assert span_residual(transposition(8), 8, 7, "same") == pytest.approx(0.72, abs=0.005)
    assert span_residual(transposition(8), 8, 8, "valid") < 1e-12
    within = products(4, 3, "same")[0].reshape(16, 16)
    assert span_residual(within, 4, 3, "same") < 1e-12
    x = normal(5, 7, 7)
    assert torch.equal(x.flatten(1) @ transposition(7).T, x.mT.flatten(1))
    valid = layer(1, 49, 7, 7, "valid")
    with torch.no_grad():
        valid.weight.copy_(transposition(7).reshape(49, 1, 7, 7))
    torch.testing.assert_close(valid(x.flatten(1)) - valid.bias, x.mT.flatten(1), **EXACT)


@pytest.mark.parametrize(("p", "k"), [(3, 1), (5, 3), (7, 5), (8, 7), (16, 7), (3, 5)])
def test_same_moves_a_pixel_as_far_as_half_the_kernel_and_no_further(p, k):
    conv = layer(1, 1, p, k, "same")
    sides = torch.arange(p * p) // p, torch.arange(p * p) % p
    distance = torch.stack([(side[:, None] - side).abs() for side in sides]).amax(0)
    assert torch.equal(conv.dense_matrix() != 0, distance <= k // 2)
    assert layer(1, p * p, p, p, "valid").dense_matrix().ne(0).all()


# --- the models -------------------------------------------------------------------------------------------


def test_the_arms_are_the_grid():
    assert sorted(arm.cell for arm in ARMS.values() if arm.cell) == list(range(1, 13))
    weights = {  # of one projection, one MLP (r = 2), at p = 8 with 3 cells and CLS
        "linear": (64 * 64, 2 * 128 * 64), "valid": (64 * 64, 2 * 128 * 64), "valid5": (100, 200 + 200),
        "unshared_valid": (4 * 64 * 64, 4 * 2 * 128 * 64), "same3": (9, 18 + 18), "same7": (49, 98 + 98),
        "unshared_same3": (4 * 9, 4 * 36), "unshared_same7": (4 * 49, 4 * 196),
        "valid_unscaled": (64 * 64, 2 * 128 * 64), "valid_linear_mlp": (64 * 64, 2 * 128 * 64),
        "valid_depthwise_mlp": (64 * 64, 2 * (4 * 49 + 4)), "uniform": (64 * 64, 2 * 128 * 64),
        "same5": (25, 50 + 50), "same7_linear_mlp": (49, 2 * 128 * 64),
    }  # fmt: skip
    for arm in ARMS:
        block = model(arm).blocks[0]
        projections = [
            getattr(block.attention, name).weight for name in ("query", "key", "value", "projection")
        ]
        assert {weight.numel() for weight in projections} == {weights[arm][0]}
        mlp = sum(p.numel() for name, p in block.mlp.named_parameters() if name.endswith("weight"))
        assert mlp == weights[arm][1], arm
        plain = any(isinstance(module, nn.Linear) for module in block.mlp.modules())
        assert plain == (arm in ("linear", "uniform") or arm.endswith("_linear_mlp"))


@pytest.mark.parametrize(
    ("arm", "p"),
    [*((arm, 8) for arm in ARMS), ("same3", 3), ("valid", 5), ("unshared_same7", 7), ("valid5", 5),
     ("valid_depthwise_mlp", 7), ("same7", 16), ("unshared_valid", 16)],
)  # fmt: skip
def test_every_arm_runs_and_trains_what_it_uses(arm, p):
    net, x = model(arm, p=p, heads=p if p < 8 else 4), normal(2, 3, p * p).float()
    logits, attention = net(x)
    assert logits.shape == (2, 4)
    assert attention.shape[:3] == (2, 2, p if p < 8 else 4)
    torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]))
    cross_entropy(logits, torch.tensor([0, 3])).backward()
    idle = {name for name, parameter in net.named_parameters() if parameter.grad is None}
    unused = {
        f"blocks.{i}.attention.{q}.{w}" for i in (0, 1) for q in ("query", "key") for w in ("weight", "bias")
    }
    assert idle == (unused if arm == "uniform" else set())
    for name, parameter in net.named_parameters():
        if name not in idle:
            assert parameter.grad.isfinite().all()
            # Some biases do nothing: softmax ignores a key's, LayerNorm a constant added to a whole map.
            assert name.endswith("bias") or parameter.grad.ne(0).any(), name


def dense_twin(arm: str, net: nn.Module) -> nn.Module:
    """The linear arm with the matrices of ``net``'s convolutions as its weights."""
    twin = model("linear").double()
    state = net.state_dict()
    for name, module in net.named_modules():
        if isinstance(module, SharedConv):
            state[f"{name}.weight"] = module.dense_matrix()
            state[f"{name}.bias"] = module.bias.repeat_interleave(module.outputs)
    twin.load_state_dict(state)
    return twin


@pytest.mark.parametrize("arm", [name for name in SHARED if name not in ("valid_unscaled", "uniform")])
def test_every_shared_arm_is_a_vit_with_the_matrices_of_its_convolutions(arm):
    net, x = model(arm).double(), normal(2, 3, 64)
    torch.testing.assert_close(net(x), dense_twin(arm, net)(x), **EXACT)


def test_twins_are_one_function_and_same_kernels_make_another():
    probe = key_recall(6, cells=3, generator=torch.Generator().manual_seed(0))
    vit, twin = model("linear").double(), model("valid", seed=1, by_conv2d=True).double()
    assert twin_difference(vit, twin, probe) < 1e-12
    assert twin_difference(vit, model("valid_unscaled", seed=1).double(), probe) > 1e-6
    with pytest.raises(RuntimeError, match="invalid for input"):
        twin_difference(vit, model("same3").double(), probe)


def test_a_layer_of_light_is_conv2d_and_leaks_where_tiles_are_too_near():
    x, kernels = normal(6, 5, 5), normal(3, 3, 3, seed=1)
    assert max(light_error(x, kernels, padding, 60) for padding in ("valid", "same")) < 1e-12
    assert light_error(x, kernels, "same", 60, pitch=5) > 1e-3
    assert light_error(x, kernels, "valid", 60, shown=kernels + 1) > 1e-3


def test_arms_have_names_of_their_own():
    words = [arm.words for arm in ARMS.values()]
    assert len(set(words)) == len(words)
    assert {"ViT", "valid, k = p", "same, k = 3, unshared", "valid, k = p, linear MLP"} <= set(words)
    assert {"valid, k = p, no 1/p", "uniform attention"} <= set(words)


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_may_compute_cls_alone_in_its_last_block(arm):
    net, x = model(arm).double(), normal(3, 3, 64)
    tokens = torch.cat([net.cls.expand(3, 1, 64), x], 1) + net.positions
    for block in net.blocks:
        tokens, attention = block(tokens)
    logits, from_cls = net(x)
    torch.testing.assert_close(logits, net.head(net.norm(tokens[:, 0])), **EXACT)
    torch.testing.assert_close(from_cls[:, -1], attention[:, :, 0], **EXACT)


def test_valid_arms_start_as_the_linear_one_and_are_the_same_function():
    arms = ("linear", "valid", "valid_linear_mlp", "valid_unscaled", "uniform")
    nets = {arm: model(arm, seed=3).double() for arm in arms}
    dense, x = nets["linear"], normal(4, 3, 64)
    results = {}
    for arm, net in nets.items():
        for ours, theirs in zip(net.parameters(), dense.parameters(), strict=True):
            assert torch.equal(ours.flatten(), theirs.flatten())
        logits, attention = net(x)
        gradients = torch.autograd.grad(logits.square().sum(), net.parameters(), allow_unused=True)
        flat = [None if gradient is None else gradient.flatten() for gradient in gradients]
        results[arm] = (logits, attention, flat)
    for arm in arms[1:3]:
        torch.testing.assert_close(results[arm], results["linear"], rtol=0, atol=1e-11)
    for arm in arms[3:]:
        assert (results[arm][1] - results["linear"][1]).abs().max() > 1e-3
    torch.testing.assert_close(
        results["uniform"][1], torch.full_like(results["uniform"][1], 1 / 4), rtol=0, atol=0
    )
    scales = {arm: net.blocks[0].attention.scale for arm, net in nets.items()}
    assert scales == {**dict.fromkeys(arms, 0.25), "valid_unscaled": 1.0}


@pytest.mark.parametrize("arm", ARMS)
def test_sharing_the_kernels_is_what_makes_the_order_of_tokens_not_matter(arm):
    blocks, x = model(arm, tokens=6).blocks, normal(4, 7, 64).float()
    error = permutation_equivariance(blocks, x, torch.Generator().manual_seed(0))
    assert error <= 1e-6 if arm in SHARED else error > 0.05
    assert error == permutation_equivariance(blocks, x, torch.Generator().manual_seed(0))
    assert all(parameter.grad is None for parameter in blocks.parameters())


def test_equivariance_error_is_the_largest_over_the_largest():
    mark, generator = torch.zeros(9, 4), torch.Generator().manual_seed(0)
    mark[0, 0] = 3.0
    assert permutation_equivariance([lambda x: (x + mark, None)], torch.zeros(2, 9, 4), generator) == 1
    x = normal(2, 9, 4)
    assert permutation_equivariance([lambda x: (x.mean(1, True) - x,)] * 3, x, generator) < 1e-15
    assert permutation_equivariance([], x, generator) == 0


def trained(arm: str, n: int, seeds: list[int], recipe: Recipe):
    """An arm trained and tested on the same n mosaics, and these."""
    tokens, labels, _ = key_recall(n, cells=3, generator=torch.Generator().manual_seed(n))
    test = tokens.expand(len(seeds), *tokens.shape), labels.expand(len(seeds), n)
    make = partial(convsharevit, arm, p=8, tokens=3, classes=4)
    return train(make, seeds, shuffled(tokens, labels), test, recipe), tokens, labels


@pytest.mark.parametrize("arm", [*UNSHARED, "same5", "valid5", "same7_linear_mlp", "uniform"])
def test_every_kind_of_layer_trains_in_an_ensemble(arm):
    result, tokens, labels = trained(arm, 24, [0, 1], Recipe(epochs=12, batch=12))
    assert result.loss.isfinite().all()
    assert (result.loss[:, -2:].mean(1) < result.loss[:, :2].mean(1) - 0.1).all()  # it learns its data
    logits = result.member(1)(tokens)[0]
    assert (logits.argmax(-1) == labels).double().mean().item() == pytest.approx(
        result.accuracy[1, -1].item()
    )


def test_valid_and_linear_train_along_the_same_curve():
    arms = ("linear", "valid", "valid_linear_mlp", "same3")
    curves = [trained(arm, 128, [5], Recipe(epochs=10, batch=32))[0] for arm in arms]
    for same in curves[1:3]:
        torch.testing.assert_close(same.loss, curves[0].loss, rtol=0, atol=1e-3)  # the record's C1
        torch.testing.assert_close(same.accuracy, curves[0].accuracy, rtol=0, atol=1e-9)
    assert (curves[3].loss - curves[0].loss).abs().max() > 0.01  # which other kernels do not


# --- on the bench -----------------------------------------------------------------------------------------


@given(
    p=st.integers(2, 16),
    heads=st.sampled_from([1, 2, 4]),
    ratio=st.integers(1, 4),
    plane=st.sampled_from([104, 512, 1080, 2160]),
    batch=st.none() | st.integers(1, 600),
)
def test_valid_kernels_as_large_as_the_token_take_the_passes_that_light_counts(p, heads, ratio, plane, batch):
    heads = heads if p * p % heads == 0 else 1
    shape, bench = throughput.ViTShape(145, p * p, 8, heads, ratio), throughput.Bench4f(plane, 1e6)
    for arm, shared in {
        "valid": True,
        "linear": True,
        "valid_linear_mlp": True,
        "unshared_valid": False,
    }.items():
        filled, counted = bench_passes(arm, shape, bench, batch)
        assert filled == (batch or max(1, light.capacity(plane, p) // 145))
        assert counted == throughput.passes(shape, bench, filled, shared=shared)


@pytest.mark.parametrize("arm", [arm for arm in SHARED if arm != "uniform"])
def test_static_passes_are_the_kernels_and_maps_of_the_network_itself(arm):
    """A full plane takes one pass for each pair of kernel and input map that the layers hold as weights."""
    shape = throughput.ViTShape(tokens=4, dim=64, depth=2, heads=4, mlp_ratio=2)
    net = model(arm, tokens=3, depth=2)
    pairs = sum(
        layer.weight.shape[:2].numel() for layer in net.blocks.modules() if isinstance(layer, SharedConv)
    )
    pairs += sum(
        layer.weight.shape[0] * layer.weight.shape[1] // 64
        for layer in net.blocks.modules()
        if isinstance(layer, nn.Linear)
    )
    _, counted = bench_passes(arm, shape, throughput.Bench4f(2160, 1e6))
    assert counted["static"] == pairs


def test_same_padding_costs_fewer_passes_and_a_wider_tile():
    shape, bench = throughput.ViTShape(145, 64, 8, 4, 2), throughput.Bench4f(2160, 1e6)
    counts = {
        arm: bench_passes(arm, shape, bench) for arm in ("valid", "same3", "same7", "valid_depthwise_mlp")
    }
    sides = {"valid": 270, "same3": 240, "same7": 196, "valid_depthwise_mlp": 196}
    assert {arm: batch for arm, (batch, _) in counts.items()} == {a: n**2 // 145 for a, n in sides.items()}
    assert [counts[arm][1]["static"] for arm in ("valid", "same3", "same7")] == [64 * 64, 64, 64]
    # Kernels of their own: a pass for each of 145 tokens in both layers of the MLP.
    assert counts["valid_depthwise_mlp"][1]["static"] == 8 * (4 * 64 + 2 * 145)
    assert bench_passes("same3", shape, bench, 398)[1]["static"] == 2 * 64, (
        "one image more than the plane holds"
    )


@pytest.mark.parametrize(("p", "heads"), [(4, 2), (8, 4)])
def test_multiply_accumulates_are_those_of_a_vit(p, heads):
    shape = throughput.ViTShape(tokens=7, dim=p * p, depth=3, heads=heads, mlp_ratio=2)
    one, more = (
        cost.macs(model("linear", p=p, tokens=6, heads=heads, depth=depth).blocks[0], (1, 7, p * p))
        for depth in (1, 3)
    )
    assert one == more
    assert matrix_macs(shape) == 3 * one


# --- bad input --------------------------------------------------------------------------------------------


def conv(d_in: int = 64, d_out: int = 64, p: int = 8, k: int = 8, *args, **kwargs) -> SharedConv:
    return SharedConv(d_in, d_out, p, k, *args, **kwargs)


MAPS = torch.zeros(2, 3, 4, 4)
BENCH = throughput.Bench4f(104, 1e6)
NO_ARM = "arm must be one of linear, valid, .*, got 'dense'"
REFUSED = [
    (lambda: conv(p=0), r"p, the side of a token, must be in 1\.\.32, got 0"),
    (lambda: conv(p=33), r"p, the side of a token, must be in 1\.\.32, got 33"),
    (lambda: conv(k=9), r"k must be in 1\.\.8 for valid convolution of 8 x 8 tokens, got 9"),
    (lambda: conv(k=0), r"k must be in 1\.\.8 for valid .*, got 0"),
    (lambda: conv(64, 64, 8, 4, "same"), r"k must be odd and in 1\.\.15 for same .*, got 4"),
    (lambda: conv(64, 64, 8, 17, "same"), r"k must be odd and in 1\.\.15 for same .*, got 17"),
    (lambda: conv(64, 64, 8, -1, "same"), r"k must be odd and in 1\.\.15 for same .*, got -1"),
    (lambda: conv(padding="full"), "padding must be 'valid' or 'same', got 'full'"),
    (lambda: conv(d_in=63), r"d_in must be a multiple of p\^2 = 64, got 63"),
    (lambda: conv(d_in=0), r"d_in must be a multiple of p\^2 = 64, got 0"),
    (lambda: conv(k=5, d_out=63), "d_out must be a multiple of 16, what .*, got 63"),
    (lambda: conv(d_out=0), "d_out must be a multiple of 1, what .*, got 0"),
    (lambda: conv(tokens=0), "tokens must be >= 1, or None to share the kernels, got 0"),
    (lambda: model("dense"), NO_ARM),
    (lambda: model("same3", p=1), r"p, the side of a token, must be in 2\.\.32, got 1"),
    (lambda: model("linear", p=33), r"p, the side of a token, must be in 2\.\.32, got 33"),
    (lambda: model("same7", p=3, heads=1), r"k must be odd and in 1\.\.5 for same .*, got 7"),
    (lambda: model("valid5", p=7, heads=1), "d_out must be a multiple of 9, what .*, got 49"),
    (lambda: model("valid", heads=5), "heads must be >= 1 and divide dim, got heads=5, dim=64"),
    (lambda: model("valid", tokens=0), "tokens must be >= 1, got 0"),
    (lambda: model("unshared_valid", tokens=-1), "tokens must be >= 1, got -1"),
    (
        lambda: model("valid")(torch.zeros(1, 4, 64)),
        r"expected x of shape \(batch, 3, 64\), got \(1, 4, 64\)",
    ),
    (lambda: projection_span_rank(8, 4, "same"), r"k must be odd and in 1\.\.15 for same .*, got 4"),
    (lambda: projection_span_rank(0, 1, "same"), r"p, the side of a token, must be in 1\.\.32, got 0"),
    (lambda: span_residual(transposition(8), 8, 9, "valid"), r"k must be in 1\.\.8 for valid .*, got 9"),
    (lambda: span_residual(torch.eye(16), 3, 3, "same"), r"target must be .*9.*got \(16, 16\)"),
    (lambda: span_residual(torch.zeros(9, 9), 3, 3, "same"), "target must .*zero"),
    (lambda: transposition(0), r"p, the side of a token, must be in 1\.\.32, got 0"),
    (lambda: conv_scores(MAPS, MAPS[..., :3]), r"\(2, 3, 4, 4\).*\(2, 3, 4, 3\)"),
    (lambda: conv_scores(MAPS[:1], MAPS), r"\(1, 3, 4, 4\).*\(2, 3, 4, 4\)"),
    (lambda: conv_mix(torch.zeros(2, 3, 4), MAPS), r"\(2, 3, 4\).*\(2, 3, 4, 4\)"),
    (lambda: conv(tokens=1)(torch.zeros(2, 5, 64)), r"x .*at most 1 tokens?.*, got \(2, 5, 64\)"),
    (lambda: conv(tokens=4)(torch.zeros(2, 5, 64)), r"x .*at most 4 tokens.*, got \(2, 5, 64\)"),
    (lambda: DepthwiseMLP(3, 4), r"k must be odd and in 1\.\.5 for same .*, got 7"),
    (lambda: DepthwiseMLP(8, 0), "tokens must be >= 1, .*got 0"),
    (lambda: bench_passes("dense", throughput.ViTShape(4, 64, 1, 1, 1), BENCH), NO_ARM),
    (
        lambda: bench_passes("valid", throughput.ViTShape(4, 60, 1, 1, 1), BENCH),
        "dim = 60: expected a square",
    ),
    (
        lambda: bench_passes("valid5", throughput.ViTShape(4, 49, 1, 1, 1), BENCH),
        "dim = 49: .* multiple of the 9 ",
    ),
    (lambda: bench_passes("same7", throughput.ViTShape(4, 9, 1, 1, 1), BENCH), r"odd and in 1\.\.5 for same"),
    (
        lambda: bench_passes("valid", throughput.ViTShape(4, 64, 1, 1, 1), BENCH, 0),
        "batch must be >= 1, got 0",
    ),
    (
        lambda: permutation_equivariance([], torch.zeros(2, 1, 9), torch.Generator()),
        r"x must .*2 tokens.*got \(2, 1, 9\)",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()


RECORD = records.load("convsharevit")


def test_arms_that_cannot_be_built_are_refused_with_their_parameter():
    check_arms("arms_b", ARMS, 8)
    with pytest.raises(ValueError, match=r"^arms_b: 'valid5' cannot be built with p = 16: d_out must be .*$"):
        check_arms("arms_b", ARMS, 16)


@pytest.mark.parametrize(
    ("given", "name"), [({"depth": 5}, "depth"), ({"plane": list(range(104, 126))}, "plane")]
)
def test_what_would_not_fit_a_machine_is_refused(given, name):
    with pytest.raises(ParameterError, match=f"^{name} = .*: expected"):
        validate(RECORD, RECORD.values("quick") | given)


def test_a_network_that_learnt_nothing_does_not_attend():
    verdict = judge(RECORD, "C4a", {"solves": [0.5] * 6, "attends": [0.0] * 6}, {"uniform": [0.5, 0.4] * 3})
    assert verdict.word == "not reproduced"


def test_time_per_image_on_planes_that_are_filled():
    """What the page draws, microseconds: 145 tokens of 8 x 8, eight blocks, a million passes a second."""
    shape = throughput.ViTShape(tokens=145, dim=64, depth=8, heads=4, mlp_ratio=2)
    for side, batch, expected in (
        (256, 7, 1938), (512, 28, 549), (1080, 125, 193), (2160, 502, 144.3), (4320, 2011, 132),
    ):  # fmt: skip
        assert light.capacity(side, 8) // 145 == batch
        found = 1e6 * throughput.seconds_per_image(shape, throughput.Bench4f(side, 1e6), batch)
        assert found == pytest.approx(expected, rel=0.01)
    static = [
        throughput.passes(shape, throughput.Bench4f(2160, 1e6), 64, shared=shared)["static"]
        for shared in (True, False)
    ]
    assert static[1] == 145 * static[0]  # with kernels of its own every token needs a pass


@pytest.mark.skipif(
    evidence.face(RECORD, evidence.read("convsharevit", "recorded"), "C4a") is None,
    reason="there is no recorded run to disagree with",
)
def test_without_valid_padding_the_build_disagrees_with_the_record_and_nbval_fails(tmp_path):
    """The chapter with its heart removed: the arm called valid gets same-padded 3 x 3 kernels."""
    (tmp_path / "sitecustomize.py").write_text(
        "from fourfold.optics import convsharevit\nconvsharevit.ARMS['valid'] = convsharevit.ARMS['same3']\n"
    )
    chapter = ROOT / "notebooks" / "optics" / "convsharevit.ipynb"
    committed = chapter.read_text()
    assert "C4a reproduced" in committed
    assert "this run disagrees" not in committed
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--color=no",
            "--nbval",
            "--nbval-current-env",
            "-p",
            "no:cacheprovider",
            chapter,
        ],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1, run.stdout[-2000:]
    assert "this run disagrees: its mean is" in run.stdout


@pytest.mark.parametrize("arm", [name for name, spec in ARMS.items() if spec.padding])
def test_every_arm_by_conv2d_is_the_same_function(arm):
    build = partial(convsharevit, arm, p=8, tokens=3, classes=4)
    with seeded(5):
        fast = build().double()
    slow = build(by_conv2d=True).double()
    slow.load_state_dict(fast.state_dict())
    x = torch.randn(6, 3, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for got, wanted in zip(slow(x), fast(x), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    assert sum(getattr(module, "by_conv2d", False) for module in slow.modules()) > 0


def test_with_shuffled_labels_there_is_nothing_to_learn():
    """Accuracy comes from the samples: labels dealt out at random leave chance, 1 of 4 codes."""

    def dealt(generator):
        probe = key_recall(1408, generator=generator)
        return probe.tokens, probe.labels[torch.randperm(1408, generator=generator)]

    test = key_recall(400, generator=torch.Generator().manual_seed(1))
    model = partial(convsharevit, "valid", p=8, tokens=6, classes=4)
    trained = train(model, [7], dealt, (test.tokens[None], test.labels[None]), Recipe(epochs=6))
    assert abs(float(trained.accuracy[0, -1]) - 0.25) < 0.08
