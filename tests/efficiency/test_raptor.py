"""Raptor: phases against enumeration, states against transformers, a replay by the teacher's own blocks."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from torch import nn
from torch.func import functional_call
from transformers import Dinov2Config, Dinov2Model

from fourfold import cost
from fourfold.efficiency.raptor import (
    Block,
    Raptor,
    RaptorBlock,
    Replay,
    SwiGLU,
    VisionTransformer,
    angular_speed,
    at_step_size,
    class_separation,
    closer_by,
    coherence,
    collect_states,
    contiguous_maxcut,
    convergence,
    dinov2_base,
    drift,
    dynamics,
    equal_ends,
    features,
    fit_raptor,
    forced_share,
    late_minus_middle,
    layer_distance,
    linear_cka,
    linear_replay,
    mean_distance,
    perturbation_angle,
    phase_gap,
    planted,
    probe_accuracy,
    published,
    recursive_maxcut,
    reordered,
    replay,
    ridge_replay,
    search_planted,
    stable_rank,
    step_size,
    stochastic_depth,
    toeplitz_null,
    trajectory_r2,
    within_cost,
    within_ratio,
)
from fourfold.judging import parameters, records
from fourfold.training import Recipe, accuracy, seeded, shuffled, stream, train

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}


def small(depth: int = 4, **how) -> VisionTransformer:
    with seeded(0):
        return VisionTransformer(**{"dim": 8, "depth": depth, "heads": 2, "classes": 2} | how).double().eval()


def tied(ends=(1, 3), dim: int = 8, **how) -> Raptor:
    with seeded(1):
        return Raptor([RaptorBlock(dim, 2, "gelu", 2, init=0.5, **how) for _ in ends], ends).double()


# --- phases -----------------------------------------------------------------------------------------------


def symmetric(depth: int, seed: int) -> torch.Tensor:
    upper = torch.triu(normal(depth, depth, seed=seed).abs(), 1)
    return upper + upper.mT


@settings(max_examples=40)
@given(depth=st.integers(2, 9), k=st.integers(1, 4), least=st.integers(1, 2), seed=st.integers(0, 1000))
def test_the_search_finds_the_least_cost_of_all_partitions(depth, k, least, seed):
    if k * least > depth:
        return
    distance = symmetric(depth, seed)
    cuts = ((*cut, depth) for cut in itertools.combinations(range(1, depth), k - 1))
    allowed = [ends for ends in cuts if min(np.diff([0, *ends])) >= least]
    costs = {
        ends: sum(float(distance[a:b, a:b].sum()) / 2 for a, b in itertools.pairwise([0, *ends]))
        for ends in allowed
    }
    found = contiguous_maxcut(distance, k, least)
    assert costs[found] == pytest.approx(min(costs.values()), abs=1e-12)
    assert within_cost(distance, found) == pytest.approx(costs[found], abs=1e-12)


def test_both_searches_find_planted_phases_and_equal_ones_are_not_they():
    distance = planted(12, (2, 7, 12), 0.05, 0.55, 0.02, stream(0, "plant"))
    assert contiguous_maxcut(distance, 3) == (2, 7, 12)
    assert recursive_maxcut(distance, 0.1) == (2, 7, 12)
    assert recursive_maxcut(distance, 2.0) == (12,)
    assert equal_ends(12, 3) == (4, 8, 12)
    assert within_ratio(distance, (2, 7, 12)) < 0.3 < within_ratio(distance, (4, 8, 12))
    assert np.isnan(within_ratio(distance[:2, :2], (1, 2)))


def test_random_planted_phases_are_mostly_found():
    found = search_planted(10, 9, stream(0, "plant"))
    assert found.excess < 1e-12
    assert found.found >= 8 > found.equal


def test_the_toeplitz_null_keeps_the_mean_of_every_diagonal_and_loses_the_phases():
    distance = planted(9, (3, 6, 9), 0.05, 0.55, 0.01, stream(0, "plant"))
    null = toeplitz_null(distance)
    for offset in range(-8, 9):
        diagonal = null.diagonal(offset)
        torch.testing.assert_close(diagonal, distance.diagonal(offset).mean().expand_as(diagonal), **EXACT)
    assert torch.equal(toeplitz_null(null), null) or (toeplitz_null(null) - null).abs().max() < 1e-12
    expected = within_ratio(null, contiguous_maxcut(null, 3)) - within_ratio(distance, (3, 6, 9))
    assert phase_gap(distance, 3) == pytest.approx(expected, abs=1e-12)
    assert expected > 0.2
    assert phase_gap(distance, 3, (2, 4, 9)) < 0.1
    assert phase_gap(null, 3) == pytest.approx(0, abs=1e-9)


def test_distance_is_the_mean_of_one_minus_numpys_cosines():
    layers = normal(3, 4, 2, 5)
    expected = np.zeros((4, 4))
    for image, i, j, part in itertools.product(range(3), range(4), range(4), range(2)):
        one, other = layers[image, i, part].numpy(), layers[image, j, part].numpy()
        expected[i, j] += (1 - one @ other / np.linalg.norm(one) / np.linalg.norm(other)) / 6
    np.testing.assert_allclose(layer_distance(layers).numpy(), expected, atol=1e-12)


def test_cka_is_its_formula_and_forgives_rotations():
    layers = normal(7, 3, 2, 4)
    one, other = (layers[:, i].flatten(1).numpy() for i in (0, 2))
    one, other = one - one.mean(0), other - other.mean(0)
    expected = (
        np.linalg.norm(one.T @ other) ** 2 / np.linalg.norm(one.T @ one) / np.linalg.norm(other.T @ other)
    )
    assert float(linear_cka(layers)[0, 2]) == pytest.approx(expected, abs=1e-12)
    turn = torch.linalg.qr(normal(8, 8, seed=1))[0]
    turned = torch.stack([layers[:, 0].flatten(1), 3 * layers[:, 0].flatten(1) @ turn + 1], 1).unflatten(
        2, (2, 4)
    )
    assert float(linear_cka(turned)[0, 1]) == pytest.approx(1, abs=1e-12)


def test_a_drift_turns_into_a_new_direction_at_every_step():
    angles, points = [0.9, 0.5, 0.3], [torch.eye(5, dtype=torch.float64)[0]]
    for axis, angle in enumerate(angles, start=1):
        new = torch.eye(5, dtype=torch.float64)[axis]
        points.append(np.cos(angle) * points[-1] + np.sin(angle) * new)
    layers = torch.stack([torch.stack(points)] * 2, 1).expand(3, 4, 2, 5)
    torch.testing.assert_close(drift(layers), layer_distance(layers), **EXACT)
    assert float(drift(normal(4, 9, 2, 6)).diagonal().abs().max()) == 0


# --- states, blocks, replay -------------------------------------------------------------------------------


class Theirs(nn.Module):
    """A Dinov2Model in the words of `collect_states`."""

    def __init__(self, model: Dinov2Model):
        super().__init__()
        self.model, self.embed = model, model.embeddings

    @property
    def blocks(self):
        return [lambda x, layer=layer: _first(layer(x)) for layer in self.model.encoder.layer]


def _first(output):
    return output if isinstance(output, torch.Tensor) else output[0]


def dinov2(jolted) -> Dinov2Model:
    with seeded(0):
        config = Dinov2Config(
            hidden_size=16, num_hidden_layers=3, num_attention_heads=4, image_size=28, patch_size=14
        )
        return jolted(Dinov2Model(config)).eval()


def test_states_are_those_that_transformers_collects(jolted):
    model, x = dinov2(jolted), torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = torch.stack(model(x, output_hidden_states=True).hidden_states, 1)
    torch.testing.assert_close(collect_states(Theirs(model), x), expected, rtol=0, atol=1e-6)


def test_our_block_is_dinov2s(jolted):
    theirs, ours = dinov2(jolted).encoder.layer[1].double(), Block(16, 4, "gelu", 4, init=1.0).double()
    state = theirs.state_dict()
    names = {f"attention.{part[0]}_proj": f"attention.{part}" for part in ("query", "key", "value")}
    names |= {"attention.o_proj": "attention.projection", "mlp.fc1": "mlp.up", "mlp.fc2": "mlp.down"}
    given = {"scales": torch.stack([state.pop(f"layer_scale{i}.lambda1") for i in (1, 2)])}
    for name, value in state.items():
        module, _, field = name.rpartition(".")
        given[f"{names.get(module, module)}.{field}"] = value
    ours.load_state_dict(given)
    x = normal(2, 5, 16)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), _first(theirs(x)), **EXACT)


def copies(net: VisionTransformer, order=None) -> Raptor:
    """A Raptor of as many blocks as the teacher has, with the teacher's weights."""
    blocks = []
    for index in range(len(net.blocks)) if order is None else order:
        block = RaptorBlock(8, 2, "gelu", 4, depth_scale=False, init=None).double()
        block.load_state_dict(net.blocks[index].state_dict())
        blocks.append(block)
    return Raptor(blocks, tuple(range(1, len(blocks) + 1)))


def test_copies_of_the_teachers_blocks_replay_it_and_in_another_order_they_do_not(jolted):
    net, images = jolted(small()), normal(5, 8, 8)
    states = collect_states(net, images)
    torch.testing.assert_close(replay(copies(net), states), states, rtol=0, atol=1e-6)
    torch.testing.assert_close(copies(net).forced(states), states[:, 1:], rtol=0, atol=1e-6)
    assert float(trajectory_r2(replay(copies(net), states), states).min()) > 1 - 1e-9
    wrong = replay(copies(net, (1, 0, 3, 2)), states)
    assert float(trajectory_r2(wrong, states).mean()) < 0.9


def test_the_teacher_returns_what_it_reads_out_of_its_last_state():
    net, images = small(), normal(3, 8, 8)
    states = collect_states(net, images)
    assert states.shape == (3, 5, 9, 8)
    torch.testing.assert_close(net(images), net.classify(states[:, -1]), **EXACT)
    assert features(states).shape == (3, 5, 2, 8)


def test_a_block_is_its_formula(jolted):
    block = jolted(tied().blocks[0])
    x = normal(2, 5, 8)
    gain = 1 + block.depth[2](nn.functional.silu(block.depth[0](torch.tensor([[3.0]]).double()))).view(3, 8)
    after = x + gain[0] * block.scales[0] * block.attention(block.norm1(x))[0]
    after = after + gain[1] * block.scales[1] * block.mlp(block.norm2(after))
    torch.testing.assert_close(block(x, 3), gain[2] * after, **EXACT)
    each = block(x, torch.tensor([3, 4]))
    torch.testing.assert_close(each[0], block(x, 3)[0], **EXACT)
    torch.testing.assert_close(each[1], block(x, 4)[1], **EXACT)
    same = tied(depth_scale=False).blocks[0]
    assert torch.equal(same(x, 1), same(x, 7))


def test_swiglu_is_its_formula():
    with seeded(0):
        mlp = SwiGLU(3, 5).double()
    x = normal(2, 3)
    u, v = (x @ mlp.up.weight.mT + mlp.up.bias).split(5, -1)
    torch.testing.assert_close(mlp(x), (u * u.sigmoid() * v) @ mlp.down.weight.mT + mlp.down.bias, **EXACT)


@pytest.mark.parametrize(("k", "weights"), [(2, 18_981_952), (3, 28_472_928), (4, 37_963_904)])
def test_published_weights_and_operations(k, weights):
    with torch.device("meta"):
        net, gelu, teacher = published(k), published(k, "gelu"), dinov2_base()
    assert cost.parameters(net) == weights == k * (16 * 768**2 + 70 * 768 + 32)
    assert cost.parameters(teacher) == 12 * (12 * 768**2 + 15 * 768) == 85_072_896
    base, tokens = cost.macs(teacher, (1, 261, 768)), 261
    assert base == 12 * (12 * tokens * 768**2 + 2 * tokens**2 * 768)
    assert cost.macs(net, (1, 261, 768)) / base == pytest.approx(1.3155, abs=1e-4)
    assert cost.macs(gelu, (1, 261, 768)) / base == pytest.approx(1, abs=1e-4)


def test_gradients_are_right_in_float64():
    net = tied((1, 2), dim=4)
    weights = {name: value for name, value in net.named_parameters() if "scales" in name or "depth.0" in name}

    def last(x, *values):
        return functional_call(net, dict(zip(weights, values, strict=True)), (x,))[:, -1]

    assert torch.autograd.gradcheck(last, (normal(1, 3, 4).requires_grad_(), *weights.values()))


# --- training ---------------------------------------------------------------------------------------------


def test_the_loss_is_its_formula():
    states, net = normal(3, 4, 5, 8), tied((1, 3))
    wrapped = Replay(net, (1.0, 2.0, 4.0))

    def error(replayed):
        square = (replayed - states[:, 1:]).square().mean(-1)
        both = 0.5 * square[..., 0] + 0.5 * square[..., 1:].mean(-1)
        return both @ torch.tensor([1.0, 1 / 2, 1 / 4]).double() / 3

    free, forced = error(net.rollout(states[:, 0])), error(net.forced(states))
    for share in (0.0, 0.3, 1.0):
        wrapped.share = share
        torch.testing.assert_close(wrapped(states), share * forced + (1 - share) * free)
    ending = Replay(net, (1.0, 2.0, 4.0), last_only=True)
    square = (net.rollout(states[:, 0])[:, -1] - states[:, -1]).square().mean(-1)
    torch.testing.assert_close(ending(states), (square[:, 0] + square[:, 1:].mean(-1)) / 8)


def test_teacher_forcing_gives_way():
    assert [forced_share(step, 40, "anneal") for step in (0, 5, 10, 39)] == [1, 0.5, 0, 0]
    assert forced_share(0, 40, "anneal", 0) == 0
    assert [forced_share(7, 8, schedule) for schedule in ("tf", "ar")] == [1, 0]


def recurrent_states() -> torch.Tensor:
    """Two blocks, the first applied once and the second twice, which two tied blocks can learn exactly."""
    teacher = tied((1, 3), depth_scale=False)
    with torch.no_grad():
        for index, value in enumerate(teacher.parameters()):
            value.add_(0.3 * normal(*value.shape, seed=index))
    teacher = teacher.float()
    x = torch.randn(96, 5, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.cat([x[:, None], teacher.rollout(x)], 1)


RECIPE = Recipe(12, batch=16, lr=2e-2)


def replayed_by(states, ends, **how) -> float:
    def make():
        return Raptor([RaptorBlock(8, 2, "gelu", 2, init=0.1) for _ in ends], ends)

    fitted = fit_raptor(make, states, 0, RECIPE, **how)
    return float(trajectory_r2(replay(fitted, states), states)[-1])


def test_tied_blocks_learn_a_recurrent_teacher_and_twice_the_same():
    states = recurrent_states()
    found = replayed_by(states, (1, 3))
    assert found > 0.8
    assert found == replayed_by(states, (1, 3))
    with seeded(0):
        untrained = Raptor([RaptorBlock(8, 2, "gelu", 2, init=0.1) for _ in range(2)], (1, 3))
    assert float(trajectory_r2(replay(untrained, states), states)[-1]) < 0.3
    assert float(trajectory_r2(linear_replay(states, states, (1, 3)), states)[-1]) < found


def test_linear_maps_replay_a_linear_teacher_exactly():
    matrix = torch.linalg.qr(normal(4, 4))[0]
    states = [normal(20, 3, 4, seed=1)]
    for _ in range(3):
        states.append(states[-1] @ matrix + 0.5)
    states = torch.stack(states, 1)
    for ends in (None, (3,), (1, 3)):
        torch.testing.assert_close(linear_replay(states, states, ends), states, rtol=0, atol=1e-9)


def test_a_ridge_from_the_embedding_is_scikit_learns():
    states = normal(30, 3, 2, 4)
    inputs = states[:, 0].flatten(1).numpy()
    with_one = np.concatenate([inputs, np.ones((30, 1))], 1)
    alpha = 0.1 * np.diag(with_one.T @ with_one).mean()
    model = Ridge(alpha, fit_intercept=False).fit(with_one, states[:, 2].flatten(1).numpy())
    found = ridge_replay(states, states[:5], 0.1)
    assert torch.equal(found[:, 0], states[:5, 0])
    np.testing.assert_allclose(found[:, 2].flatten(1), model.predict(with_one[:5]), atol=1e-9)


def test_r2_is_scikit_learns():
    true, pred = normal(6, 4, 3, 5), normal(6, 4, 3, 5, seed=1)
    expected = [
        r2_score(true[:, i].flatten(0, 1), pred[:, i].flatten(0, 1), multioutput="variance_weighted")
        for i in range(1, 4)
    ]
    np.testing.assert_allclose(trajectory_r2(pred, true).numpy(), expected, atol=1e-12)


def test_stochastic_depth_drops_whole_blocks_in_training_only():
    assert stochastic_depth(5, 0.4) == pytest.approx((0, 0.1, 0.2, 0.3, 0.4))
    assert stochastic_depth(1, 0.4) == (0,)
    net = small(drop=(0.0, 0.5, 0.0, 0.0), generator=stream(0, "drop"))
    x = normal(64, 8, 8)
    net.train()
    seen = []
    net.blocks[2].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    net(x)
    states = collect_states(net, x)
    update = states[:, 2] - states[:, 1]
    times = ((seen[0] - states[:, 1]) / update).mean((1, 2))
    assert set(times.round(decimals=6).tolist()) == {0, 2}
    assert 15 < int((times > 1).sum()) < 49
    torch.testing.assert_close(seen[-1], states[:, 2], **EXACT)


def test_a_small_transformer_learns_and_a_probe_reads_it():
    y = torch.arange(80) % 2
    x = normal(80, 8, 8).float() + torch.where(torch.arange(8) < 4, 1.0, -1.0) * (2 * y - 1.0)[:, None, None]
    make = partial(VisionTransformer, dim=8, depth=2, heads=2, classes=2)
    test = x[None], y[None]
    net = train(make, (0,), shuffled(x, y), test, Recipe(8, batch=16, lr=1e-2), together=False).member(0)
    states = collect_states(net, x)
    assert float(accuracy(net.classify(states[:, -1]), y)) > 0.8
    assert probe_accuracy(net.norm, states[:60, -1], y[:60], states[60:, -1], y[60:]) > 0.7


# --- dynamics ---------------------------------------------------------------------------------------------


def test_measures_are_numpys():
    states = normal(3, 5, 4, 6)
    unit = (states / states.norm(dim=-1, keepdim=True)).numpy()
    cosines = (unit * unit[:, -1:]).sum(-1)
    np.testing.assert_allclose(convergence(states)[:, 0], cosines[..., 0].mean(0), atol=1e-12)
    np.testing.assert_allclose(convergence(states)[:, 1], cosines[..., 1:].mean((0, 2)), atol=1e-12)
    turns = np.arccos((unit[:, 1:] * unit[:, :-1]).sum(-1))
    np.testing.assert_allclose(angular_speed(states)[:, 0], turns[..., 0].mean(0), atol=1e-9)
    gathered = np.linalg.norm(unit[:, :, 1:].mean(2), axis=-1).mean(0)
    np.testing.assert_allclose(coherence(states), gathered, atol=1e-12)
    for layer, found in enumerate(stable_rank(states)):
        values = np.linalg.svd(
            (states[:, layer + 1] - states[:, layer]).flatten(0, 1).numpy(), compute_uv=False
        )
        assert float(found) == pytest.approx((values**2).sum() / values[0] ** 2, rel=1e-9)


def test_updates_in_another_order_end_where_they_did():
    states = normal(2, 5, 3, 4)
    moved = reordered(states, [2, 0, 3, 1])
    torch.testing.assert_close(moved[:, -1], states[:, -1], **EXACT)
    torch.testing.assert_close(moved[:, 1] - moved[:, 0], states[:, 3] - states[:, 2], **EXACT)
    torch.testing.assert_close(reordered(states, range(4)), states, **EXACT)
    both = dynamics(states, [[2, 0, 3, 1], [0, 1, 2, 3]])
    for name, expected in dynamics(moved).items():
        np.testing.assert_allclose(both[name], (expected + dynamics(states)[name]) / 2, atol=1e-12)
    alone = dynamics(states)
    np.testing.assert_allclose(alone["convergence"], convergence(states)[1:].mean(-1), atol=1e-12)
    np.testing.assert_allclose(alone["speed"], angular_speed(states)[:, 0], atol=1e-12)
    np.testing.assert_allclose(alone["coherence"], coherence(states)[1:], atol=1e-12)
    np.testing.assert_allclose(alone["rank"], stable_rank(states), atol=1e-12)


def test_classes_are_told_apart_by_direction():
    vectors = torch.tensor([[1.0, 0], [2, 0], [0, 3], [0, 1]])
    labels = torch.tensor([0, 0, 1, 1])
    assert class_separation(vectors, labels) == pytest.approx(1)
    assert class_separation(vectors, labels.roll(1)) == pytest.approx(-0.5)


def test_sizes_are_made_equal_by_shrinking():
    layers = normal(3, 5, 2, 4)
    shrunk = at_step_size(layers, 0.2)
    assert step_size(shrunk) == pytest.approx(0.2, abs=1e-9)
    direction = (shrunk - shrunk[:, :1]) / (layers - layers[:, :1])
    assert float(direction[:, 1:].std()) < 1e-9
    halved = layers[:, :1] + 0.5 * (layers - layers[:, :1])
    # Shrinking alone brings layers closer, and not at equal size.
    assert mean_distance(layer_distance(layers)) - mean_distance(layer_distance(halved)) > 0.05
    assert closer_by(layers, halved) == pytest.approx(0, abs=1e-9)


class Still(nn.Module):
    """A transformer whose blocks add what does not depend on the state: nothing is ever corrected."""

    def __init__(self, depth: int, corrects: float = 0.0):
        super().__init__()
        self.embed = nn.Identity()
        self.pushes = [normal(1, 1, 6, seed=layer) for layer in range(depth)]
        self.corrects = corrects

    @property
    def blocks(self):
        return [lambda x, push=push: x + push - self.corrects * x for push in self.pushes]


def test_a_disturbance_that_stays_is_diluted_and_no_more():
    x, draw = 0.1 * normal(4, 3, 6, seed=9), partial(stream, 0, "disturb")
    found = perturbation_angle(Still(5), x, 1, 0.3, draw())
    np.testing.assert_allclose(found["measured"], found["by growth alone"], atol=1e-9)
    assert found["measured"][0] == pytest.approx(np.arctan(0.3), abs=0.08)
    assert found["measured"][-1] < found["measured"][0]
    corrected = perturbation_angle(Still(5, 0.5), x, 1, 0.3, draw())
    assert corrected["measured"][-1] < corrected["by growth alone"][-1] - 0.05


def test_late_minus_middle():
    assert late_minus_middle([9, 9, 9, 2, 2, 3, 3, 3]) == 1
    assert late_minus_middle([0, 1, 1, 5]) == 4


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"heads": 5}, "heads = 5: expected a divisor of dim, which is 32"),
        ({"depth": 3}, r"depth = 3: expected int, 4\.\.24"),
        ({"drop_rate": 1.0}, "drop_rate = 1.0"),
        ({"schedule": "free"}, "schedule = 'free': expected str, anneal | tf | ar"),
        ({"n_train": 120}, "n_train = 120: expected a multiple of 50"),
    ],
)
def test_parameters_that_cannot_be_are_refused_by_name(given, message):
    record = records.load("raptor")
    with pytest.raises(parameters.ParameterError, match=message):
        parameters.validate(record, record.values("quick") | given)


STATES = torch.zeros(2, 4, 3, 4)
SQUARE = torch.zeros(4, 4)
REFUSED = [
    (lambda: contiguous_maxcut(SQUARE, 5), r"k must be in 1\.\.4 \(4 layers, at least 1 a phase\), got 5"),
    (lambda: contiguous_maxcut(SQUARE, 3, 2), r"k must be in 1\.\.2 .*, got 3"),
    (lambda: contiguous_maxcut(SQUARE[:3], 1), r"distance must be square, got \(3, 4\)"),
    (lambda: contiguous_maxcut(SQUARE, 1, 0), "min_size must be >= 1, got 0"),
    (lambda: recursive_maxcut(SQUARE, -0.1), "eps must be finite and >= 0, got -0.1"),
    (lambda: within_cost(SQUARE, (2, 3)), r"ends must rise from >= 1 to the depth, 4, got \[2, 3\]"),
    (lambda: within_ratio(SQUARE, (0, 4)), r"ends must rise .* got \[0, 4\]"),
    (lambda: ridge_replay(STATES, STATES, 0.0), "ridge must be finite and > 0, got 0.0"),
    (lambda: published(5), "k must be one of 2, 3, 4, got 5"),
    (lambda: equal_ends(4, 5), r"k must be in 1\.\.4 \(the depth\), got 5"),
    (lambda: planted(4, (4, 2), 0, 1, 0, None), r"ends must rise .* got \[4, 2\]"),
    (lambda: Block(8, 3), "heads must be >= 1 and divide dim, got heads=3, dim=8"),
    (lambda: Block(8, 2, "relu"), "mlp must be one of 'swiglu', 'gelu', got 'relu'"),
    (lambda: Block(8, 2, init=0), "init must be finite and > 0, got 0"),
    (lambda: Raptor([nn.Identity()], (1, 2)), r"ends must be one for each of 1 blocks, got \[1, 2\]"),
    (lambda: Raptor([], ()), r"ends must rise .* got \[\]"),
    (lambda: small(drop=(0.5,)), r"drop must be a rate in \[0, 1\) for each of 4 blocks, got \(0.5,\)"),
    (lambda: small(drop=(0, 0, 0, 1.0)), r"drop must be a rate in \[0, 1\)"),
    (lambda: small(drop=(0, 0, 0, 0.5)), "drop needs a generator, got None"),
    (lambda: small(patch=(3, 2)), "patch height must be >= 1 and divide the image's side = 8, got 3"),
    (lambda: stochastic_depth(4, 1.0), r"rate must be in \[0, 1\), got 1.0"),
    (lambda: forced_share(0, 1, "free"), "schedule must be one of 'anneal', 'tf', 'ar', got 'free'"),
    (lambda: forced_share(0, 1, "anneal", 2), r"anneal must be in \[0, 1\], got 2"),
    (
        lambda: class_separation(STATES[:, 0, 0], torch.zeros(2)),
        "labels must have two of one class and two classes",
    ),
    (lambda: reordered(STATES, [0, 1, 1]), r"order must have each of 0\.\.2 once, got \[0, 1, 1\]"),
    (lambda: at_step_size(normal(2, 3, 2, 4), 99), "size must be > 0 and <= .*, got 99"),
    (
        lambda: perturbation_angle(small(), STATES, 5, 0.3, None),
        r"layer must be in 0\.\.4 \(the depth\), got 5",
    ),
    (lambda: perturbation_angle(small(), STATES, 1, 0.0, None), "size must be finite and > 0, got 0.0"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
