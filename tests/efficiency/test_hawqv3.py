"""HAWQV3: rescaling is exact, the network holds integers only, and the program finds the optimum."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv2d, cross_entropy, linear
from transformers import ResNetConfig, ResNetForImageClassification

from fourfold import cost
from fourfold.efficiency import hawqv3 as paper
from fourfold.efficiency.hawqv3 import (
    INNER,
    TIES,
    IntConv2d,
    IntegerNet,
    Operations,
    SmallResNet,
    act_quant,
    agreement,
    all_bits,
    allocate_bits,
    bops,
    brute_force,
    budget,
    by_depth,
    by_floats,
    by_program,
    code_range,
    costs,
    decisions,
    dyadic,
    early_layers,
    exact_logits,
    fold,
    hutchinson_trace,
    image_codes,
    perturbation,
    published,
    published_costs,
    published_ties,
    ranges,
    recovered,
    requantize,
    rescale,
    resnet_layers,
    rounded_weight,
    squared_errors,
    sweep,
    sweep_losses,
    weight_quant,
)
from fourfold.judging import parameters, records
from fourfold.training import Recipe, seeded, shuffled, train

from ..draws import normal


def photos(n: int = 6, side: int = 8) -> torch.Tensor:
    return torch.rand(n, 1, side, side, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def net(jolted) -> SmallResNet:
    with seeded(0):
        return fold(jolted(SmallResNet(4), by=0.05))


# --- quantisers and dyadic numbers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "low", "high"), [(2, 0, 3), (4, 0, 15), (8, -128, 127), (16, -32768, 32767)]
)
def test_codes_have_a_sign_from_eight_bits_on(bits, low, high):
    assert code_range(bits) == (low, high)
    x = torch.linspace(-2, 2, 401)
    codes = act_quant(x, bits, 0.01)
    assert codes.dtype == torch.int32
    expected = [min(max(math.floor(v / 0.01 + 0.5), low), high) for v in x.double().tolist()]
    assert codes.tolist() == expected


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_largest_weight_of_each_channel_has_the_highest_code(bits):
    w = normal(5, 3, 3, 3)
    codes, scale = weight_quant(w, bits)
    top = 2 ** (bits - 1) - 1
    assert codes.dtype == torch.int64
    assert codes.abs().flatten(1).amax(1).tolist() == [top] * 5
    torch.testing.assert_close(scale * top, w.abs().flatten(1).amax(1), rtol=1e-15, atol=0)
    error = (rounded_weight(w, bits) - w).abs().flatten(1).amax(1)
    assert bool((error <= scale / 2 * (1 + 1e-12)).all())
    one, shared = weight_quant(w, bits, per_channel=False)
    assert len(shared) == 5
    assert len(set(shared.tolist())) == 1
    assert int(one.abs().max()) == top


def test_a_channel_of_zeros_has_a_scale():
    codes, scale = weight_quant(torch.zeros(2, 3, 1, 1), 4)
    assert not codes.any()
    assert bool((scale > 0).all())


@settings(max_examples=200)
@given(
    ratio=st.floats(1e-7, 1e2),
    acc=st.integers(-(2**31), 2**31 - 1),
    bits=st.integers(8, 31),
)
@example(ratio=0.5, acc=1, bits=31)
@example(ratio=0.5, acc=-1, bits=31)
@example(ratio=1 - 2**-40, acc=2**31 - 1, bits=31)
def test_requantising_is_pythons_integers_and_within_one_rounding_of_fractions(ratio, acc, bits):
    m, c = dyadic(torch.tensor(ratio, dtype=torch.float64), bits)
    found = int(requantize(torch.tensor(acc), m, c))
    exact = Fraction(int(m), 2 ** int(c))
    assert found == math.floor(acc * exact + Fraction(1, 2))
    assert abs(exact / Fraction(ratio) - 1) <= Fraction(1, 2**bits)
    assert found == (acc * int(m) + (1 << (int(c) - 1))) >> int(c)
    assert abs(found - acc * Fraction(ratio)) <= Fraction(1, 2) + abs(acc * Fraction(ratio)) / 2**bits


def test_a_ratio_of_one_bit_is_a_power_of_two():
    ratios = torch.tensor([0.7, 0.8, 3.1, 1.4, 2**-20]).double()
    m, c = dyadic(ratios, 1)
    assert c.min() >= 1
    mutated = shift_alone(ratios)
    assert (mutated[0].double() / 2.0 ** mutated[1]).tolist() == (m.double() / 2.0**c).tolist()
    assert mutated[1].min() >= 1
    assert (m.double() / 2.0**c).tolist() == [0.5, 1, 4, 1, 2**-20]


@pytest.mark.parametrize("bits", [1, 8, 16, 31])
def test_the_worst_of_many_ratios_is_near_its_bound(bits):
    worst = paper.log2_of_worst_ratio(bits, 10_000, torch.Generator().manual_seed(0))
    assert -bits - 0.8 < worst <= -bits


def test_a_shift_alone_is_no_exact_rescale():
    m, c = dyadic(torch.tensor(0.7).double(), 1)
    assert int(requantize(torch.tensor(100), m, c)) == 50


# --- the network ------------------------------------------------------------------------------------------


def test_folding_changes_nothing(jolted):
    with seeded(0):
        net = jolted(SmallResNet(4), by=0.05).eval()
    x = photos()
    before = net(x)
    torch.testing.assert_close(fold(net)(x), before, rtol=0, atol=1e-5)
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules()) == 8
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in fold(net).modules())


@pytest.mark.parametrize(("stride", "bits"), [(1, 8), (2, 4)])
def test_an_integer_convolution_is_torchs_in_float64(net, stride, bits):
    conv = net.blocks[1].conv1 if stride == 2 else net.blocks[0].conv1
    ours = IntConv2d(conv, bits, 0.01)
    x = torch.randint(0, 16, (2, 4, 7, 5), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    y = ours(x)
    assert y.dtype == torch.int32
    theirs = conv2d(x.double(), ours.weight.double(), ours.bias.double(), ours.stride, ours.padding)
    assert torch.equal(y.double(), theirs)
    # What the integers stand for is the float convolution of the rounded weights, up to the bias's rounding.
    real = conv2d(
        x.double() * 0.01, rounded_weight(conv.weight, bits).double(), conv.bias.double(), stride, 1
    )
    error = (y.double() * ours.scale[:, None, None] - real).abs().amax((0, 2, 3))
    assert bool((error <= 0.5001 * ours.scale + 1e-6).all())


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("how", [{}, {"per_channel": False}, {"mantissa_bits": 31}])
def test_logits_are_those_of_fractions(net, bits, how):
    x = photos()
    integer = IntegerNet(net, x, bits, **how)
    codes = image_codes(x)
    logits = integer.logits(codes)
    assert logits.dtype == torch.int32
    assert (logits.numpy() == exact_logits(integer, codes.numpy())).all()


@pytest.mark.parametrize("side", [4, 7])
def test_mixed_bits_and_odd_sizes(net, side):
    x = photos(3, side)
    bits = dict(zip(INNER, (2, 8, 4, 3, 4, 8, 2), strict=True))
    integer = IntegerNet(net, x, bits)
    codes = image_codes(x)
    assert (integer.logits(codes).numpy() == exact_logits(integer, codes.numpy())).all()


def test_shifts_alone_give_other_logits(net):
    x = photos()
    shifted = IntegerNet(net, x, 4, mantissa_bits=1)
    codes = image_codes(x)
    assert (shifted.logits(codes).numpy() == exact_logits(shifted, codes.numpy())).mean() < 0.9


def test_eight_bits_are_near_the_float_network(net):
    x = photos()
    integer = IntegerNet(net, x, 8)
    logits = integer.logits(image_codes(x)).double() * integer.head.scale
    wanted = net(x).detach().double()
    assert float((logits - wanted).abs().max() / wanted.abs().max()) < 0.05


def test_one_residual_block_is_two_terms_rounded_separately(net):
    """Read off a single value by hand, with Python's integers."""
    x = photos(1)
    integer = IntegerNet(net, x, 4)
    block = integer.blocks[0]
    h = torch.full((1, 4, 1, 1), 1000, dtype=torch.int32)
    low = requantize(h, block.enter.m, block.enter.c).clamp(0, 15).int()
    y = requantize(block.conv1(low), block.middle.m, block.middle.c).clamp(0, 15).int()
    acc = block.conv2(y)[0, 2, 0, 0]
    terms = [
        math.floor(Fraction(int(value) * int(to.m[i, 0, 0]), 2 ** int(to.c[i, 0, 0])) + Fraction(1, 2))
        for value, to, i in ((acc, block.branch, 2), (1000, block.shortcut, 0))
    ]
    assert int(block(h)[0, 2, 0, 0]) == min(max(sum(terms), 0), 2**15 - 1)


def test_the_input_of_a_transition_is_requantised_once(net):
    block = IntegerNet(net, photos(), 4).blocks[1]
    seen = []

    def noted(acc, to):
        seen.append(to)
        return paper.by_integers(acc, to)

    block(torch.ones(1, 4, 4, 4, dtype=torch.int32), noted)
    assert [to is block.enter for to in seen].count(True) == 1
    assert len(seen) == 4


def test_ranges_are_the_largest_values(net):
    x = photos()
    found = ranges(net, x)
    stem = net.enter(net.stem(x)).detach()
    first = net.blocks[0]
    assert found["enter"] == float(stem.max())
    assert found["blocks.0.middle"] == float(first.middle(first.conv1(stem)).detach().max())
    assert found["blocks.0.end"] == float(first(stem).detach().max())
    assert len(found) == 8


# --- only integers ----------------------------------------------------------------------------------------


def traced(net, apply=paper.by_integers, bits=4) -> Operations:
    integer, codes = IntegerNet(net, photos(), bits), image_codes(photos())
    with Operations() as operations:
        integer.classes(codes, apply)
    return operations


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_between_codes_and_class_there_are_integers_only(net, bits):
    found = traced(net, bits=bits)
    assert found.with_floats() == found.divisions() == 0
    assert found.names()["convolution"] == 9
    assert found.names()["sum"] == 1
    dtypes = frozenset().union(*(dtypes for _, dtypes in found.seen))
    assert dtypes == {torch.int32, torch.int64}


def test_simulated_quantisation_has_floats_and_divisions(net):
    found = traced(net, by_floats)
    assert found.with_floats() > 0
    assert found.divisions() > 0


def test_a_float_in_the_middle_is_seen():
    with Operations() as found:
        (torch.ones(2, dtype=torch.int64) * 0.5).sum()
    assert found.with_floats() == 2
    with Operations() as found:
        torch.ones(2).mean()
    assert found.divisions() == 1


# --- sensitivity ------------------------------------------------------------------------------------------


def test_hutchinsons_trace_is_the_hessians():
    x, y = normal(40, 6), torch.randint(3, (40,), generator=torch.Generator().manual_seed(0))
    weights = [normal(4, 6, seed=1).requires_grad_(), normal(3, 4, seed=2).requires_grad_()]

    def loss(a=weights[0], b=weights[1]):
        return cross_entropy(linear(linear(x, a).tanh(), b), y)

    mean, sem = hutchinson_trace(loss, weights, 400, torch.Generator().manual_seed(0))
    hessians = [
        torch.autograd.functional.hessian(loss, tuple(w.detach() for w in weights))[i][i] for i in range(2)
    ]
    for i, hessian in enumerate(hessians):
        n = weights[i].numel()
        exact = float(hessian.reshape(n, n).trace()) / n
        assert abs(mean[i] - exact) < 3 * sem[i]
        assert sem[i] < 0.2 * abs(exact)


def test_perturbation_is_trace_times_error_and_noise_below_zero_counts_as_zero():
    assert perturbation([0.5, -0.1], [4, 100]).tolist() == [2, 0]


def test_squared_errors_are_of_the_rounded_weights(net):
    conv = net.blocks[1].skip
    weight = conv.weight.detach()
    expected = float((rounded_weight(weight, 3) - weight).double().square().sum())
    assert squared_errors(net, 3)[INNER.index("blocks.1.skip")] == pytest.approx(expected)
    assert (squared_errors(net, 2) > squared_errors(net, 8)).all()


@pytest.mark.parametrize("choice", [0, 5, 77, 127])
def test_a_choice_of_the_sweep_is_the_network_with_these_weights(net, choice):
    x = photos()
    logits = sweep(net, 2, 8, x)
    assert logits.shape == (128, 6, 10)
    changed = fold(net)
    with torch.no_grad():
        for name, bits in [*zip(INNER, all_bits(2, 8)[choice], strict=True), ("stem", 8), ("head", 8)]:
            layer = changed.get_submodule(name)
            layer.weight.copy_(rounded_weight(layer.weight, int(bits)))
        torch.testing.assert_close(logits[choice], changed(x), rtol=0, atol=1e-5)
    assert sweep_losses(logits, torch.zeros(6, dtype=torch.int64)).shape == (128,)


def test_all_choices_know_their_costs_predictions_and_places(net):
    x, y = photos(), torch.arange(6)
    mixed = paper.MixedBits(net, 2, 8, x, y)
    macs = [net.get_submodule(n).weight.numel() * (64 if "s.0" in n else 16) for n in INNER]
    assert paper.inner_macs(net, 8).tolist() == macs
    assert mixed.summed(*mixed.costs)[0] == 16 * sum(macs)
    assert mixed.summed(*mixed.costs)[-1] == 64 * sum(macs)
    assert mixed.ranked(mixed.loss) == pytest.approx(1)
    assert mixed.depths()[[0, 1, 127]].tolist() == [28, 27, 0]
    chosen = all_bits(2, 8)[mixed.program(np.ones(7), 0.5)] == 8
    assert np.where(chosen, mixed.costs[1], mixed.costs[0]).sum() <= budget(*mixed.costs, 0.5)
    assert (all_bits(2, 8)[mixed.early(0.5)] == 8).tolist()[:2] == [True, True]
    allowed = [p for p in range(128) if mixed.high[p, 2] == mixed.high[p, 4]]
    scores = mixed.scores(np.ones(7), 0.5, np.random.default_rng(0))
    assert scores["ranked"] == scores["error_ranked"]
    assert scores["chosen"] == scores["error_chosen"] <= 1
    assert paper.MixedBits(net, 2, 8, x, y).scores(np.ones(7), 0.5, np.random.default_rng(0)) == scores
    found = mixed.places(np.ones(7))
    assert found["8 bits from the front"] == [mixed.early(share) for share in paper.SHARES]
    traces = paper.inner_traces(net, x, y, 2, torch.Generator().manual_seed(0))
    assert traces.shape == (7,)
    affordable = [p for p in allowed if mixed.summed(*mixed.costs)[p] <= budget(*mixed.costs, 0.5)]
    shares = [mixed.avoided(p, 0.5) for p in affordable]
    assert max(shares) == 1
    assert mixed.avoided(0, 0.5) == 0


# --- the program ------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), phi=st.floats(0, 1), tied=st.booleans())
def test_the_program_finds_what_trying_everything_finds(seed, phi, tied):
    draws = np.random.default_rng(seed)
    high, low = (draws.random(7) for _ in range(2))
    cheap = draws.integers(1, 50, 7).astype(float)
    dear = cheap * draws.integers(1, 4, 7)
    ties = TIES if tied else ()
    limit = budget(cheap, dear, phi)
    chosen = allocate_bits(low, high * low, cheap, dear, limit, ties)
    spent = np.where(chosen, dear, cheap).sum()
    assert spent <= limit * (1 + 1e-9)
    assert all(chosen[a] == chosen[b] for a, b in ties)
    least = brute_force(low, high * low, cheap, dear, limit, ties)
    assert np.where(chosen, high * low, low).sum() == pytest.approx(least, abs=1e-9)


def test_other_objectives_do_worse():
    table = published("resnet18")
    low, high = published_costs(table, "bops")
    limit = budget(low, high, 0.5)
    damage = [perturbation(table["trace"], table[name]) for name in ("dw4", "dw8")]
    good = recovered(by_program()(table, low, high, limit), *damage)
    turned = by_program(lambda t: 1 / t["trace"])(table, low, high, limit)
    assert recovered(turned, *damage) < recovered(by_depth(table, low, high, limit), *damage) < good


def test_a_limit_below_all_low_bits_is_infeasible():
    with pytest.raises(RuntimeError, match="infeasible: a limit of 1, all low bits cost 3"):
        allocate_bits([1, 1, 1], [0, 0, 0], [1, 1, 1], [2, 2, 2], 1.0)


def test_the_lazy_choice_goes_from_the_front_and_keeps_ties():
    assert early_layers([1, 1, 1, 1], [2, 4, 2, 2], 6).tolist() == [True, False, True, False]
    assert early_layers([1, 1, 1, 1], [2, 2, 2, 2], 6, [(0, 3)]).tolist() == [True, False, False, True]
    assert early_layers([1, 1, 1], [2, 2, 2], 4, [(0, 2)]).tolist() == [False, True, False]


def test_recovered_is_one_for_all_and_zero_for_none():
    assert recovered([True, True], [3, 5], [1, 1]) == 1
    assert recovered([False, False], [3, 5], [1, 1]) == 0
    assert recovered([True, False], [3, 5], [1, 1]) == pytest.approx(1 / 3)


# --- counts, and what the authors published ---------------------------------------------------------------


@pytest.mark.parametrize(("depth", "inner", "size", "operations"), [
    (18, 8, 11.14, 116.10), (18, 4, 5.82, 34.71), (50, 8, 24.32, 246.91), (50, 4, 13.14, 67.49),
])  # fmt: skip
def test_sizes_and_bit_operations(depth, inner, size, operations):
    assert [round(n, 2) for n in costs(depth, inner)] == [size, operations]


def test_layers_at_low_bits_throughout_cost_less():
    assert [round(n, 2) for n in costs(18, 4, 4)] == [5.57, 29.03]


@pytest.mark.parametrize("depth", [18, 50])
def test_resnets_are_counted_on_someone_elses(depth):
    config = ResNetConfig(
        depths=[3, 4, 6, 3] if depth == 50 else [2, 2, 2, 2],
        hidden_sizes=[256, 512, 1024, 2048] if depth == 50 else [64, 128, 256, 512],
        layer_type="bottleneck" if depth == 50 else "basic",
        downsample_in_bottleneck=depth == 50,
        num_labels=1000,
    )
    with torch.device("meta"):
        theirs = ResNetForImageClassification(config)
    layers = resnet_layers(depth)
    norms = sum(cost.parameters(m) for m in theirs.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert sum(layer.parameters for layer in layers) == cost.parameters(theirs) - norms
    if depth == 50:
        counts = [
            cost.parameters(theirs) - norms,
            cost.parameters(theirs) - norms // 2,
            cost.parameters(theirs),
        ]
        assert [round(4 * n / 2**20, 2) for n in counts] == [97.29, 97.39, 97.49]
    assert sum(layer.macs for layer in layers) == cost.macs(theirs, (1, 3, 224, 224))


@pytest.mark.parametrize("depth", [18, 50])
def test_our_layers_are_those_that_the_authors_list(depth):
    table, inner = published(f"resnet{depth}"), resnet_layers(depth)[1:-1]
    for column, ours in zip(("layer", "parameters", "macs"), zip(*inner, strict=True), strict=True):
        assert table[column].tolist() == list(ours)
    assert len(published_ties(table)) == (3 if depth == 18 else 4)


def test_the_authors_bits_obey_their_own_budgets_and_ties():
    for network in ("resnet18", "resnet50"):
        for constraint in paper.CONSTRAINTS:
            problem = paper.Problem(network, constraint)
            for share in paper.SHARES:
                chosen = problem.theirs(share)
                assert problem.spent(chosen) <= problem.limit(share) * (1 + 1e-9)
                assert all(chosen[a] == chosen[b] for a, b in published_ties(problem.table))


def test_a_map_of_bits_marks_what_the_authors_chose_otherwise():
    found = decisions(by_program())
    maps = [paper.bit_map(network, found) for network in ("resnet18", "resnet50")]
    assert [table.shape for table in maps] == [(9, 19), (9, 52)]
    assert [int((table == 6).sum().sum()) for table in maps] == [0, 1]
    assert maps[0].loc["size 0.25"].tolist() == [8] * 14 + [4] * 5
    problem = paper.Problem("resnet18", "size")
    assert problem.gap(found["resnet18", "size", 0.25], problem.limit(0.25)) < 1e-9
    assert problem.avoided(np.ones(19, bool)) == 1


def test_the_program_chooses_what_the_authors_published():
    assert agreement(decisions(by_program())) == 638
    assert agreement(decisions(by_program(lambda t: np.ones(len(t))))) < 630
    assert agreement(decisions(by_depth)) < 630


def test_another_file_is_refused(tmp_path, monkeypatch):
    other = tmp_path / "ilp.csv"
    other.write_bytes(paper.PUBLISHED.read_bytes().replace(b"0.06857826", b"0.16857826"))
    monkeypatch.setattr(paper, "PUBLISHED", other)
    with pytest.raises(ValueError, match=r"ilp\.csv is not the file that was committed"):
        published("resnet18")


def test_it_learns_and_twice_the_same():
    """Which of three rows is bright."""
    y = torch.arange(60) % 3
    x = 0.5 * photos(60)
    x[torch.arange(60), 0, 3 * y] += 0.5

    def learned():
        recipe = Recipe(epochs=6, batch=10, lr=1e-2)
        test = (x[None], y[None])
        return train(lambda: SmallResNet(4, 3), (0,), shuffled(x, y), test, recipe, together=False)

    first, again = learned(), learned()
    assert torch.equal(first.loss, again.loss)
    assert float(first.accuracy[0, -1]) > 0.8
    found = traced(fold(first.member(0)), bits=8)
    assert found.with_floats() == found.divisions() == 0


# --- mutations --------------------------------------------------------------------------------------------


def float_ratio(acc, m, c):
    """A rescale multiplies by a real number and rounds it."""
    return (acc.double() * (m.double() / 2.0**c) + 0.5).floor()


def shift_alone(ratio, bits=31):
    """The multiplier is rounded to a power of two, so that only a shift is left."""
    fraction, exponent = torch.frexp(ratio.double())
    power = exponent.long() - (fraction < 0.75).long()
    return 1 << power.clamp(min=-1) + 1, power.clamp(min=-1) + 1 - power


def trace_ignored(traces, errors):
    """The Hessian trace is 1 for every layer."""
    return np.asarray(errors, float)


MUTATIONS = [("requantize", float_ratio), ("dyadic", shift_alone), ("perturbation", trace_ignored)]


def test_what_is_mutated_changes_what_is_judged(net, monkeypatch):
    x = photos()
    codes = image_codes(x)
    with monkeypatch.context() as patch:
        patch.setattr(paper, "requantize", float_ratio)
        assert traced(net).with_floats() > 0
    with monkeypatch.context() as patch:
        patch.setattr(paper, "dyadic", shift_alone)
        integer = IntegerNet(net, x, 4)
        assert (integer.logits(codes).numpy() == exact_logits(integer, codes.numpy())).mean() < 0.9
    with monkeypatch.context() as patch:
        patch.setattr(paper, "perturbation", trace_ignored)
        assert agreement(decisions(by_program())) < 630


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"low_grid": [8]}, r"low_grid = \[8\]: expected list\[int\].*2\.\.7"),
        ({"phi": 0.0}, r"phi = 0\.0: expected float, 0\.2\.\.0\.8"),
        ({"calib_n": 1200}, "calib_n = 1200: expected at most n_train"),
        ({"n_probe": 1}, r"n_probe = 1: expected int, 2\.\.1000"),
    ],
)
def test_parameters_that_no_run_can_have_are_refused_by_name(given, message):
    record = records.load("hawqv3")
    with pytest.raises(parameters.ParameterError, match=message):
        parameters.validate(record, record.values("quick") | given)


REFUSED = [
    (lambda: code_range(1), "bits must be in 2..16, got 1"),
    (lambda: weight_quant(torch.ones(1, 1), 17), "bits must be in 2..16, got 17"),
    (lambda: act_quant(torch.ones(1), 8, 0.0), "scale must be finite and > 0, got 0.0"),
    (lambda: dyadic(torch.tensor(0.5), 32), r"bits must be in 1..31 \(products must fit.*got 32"),
    (lambda: dyadic(torch.tensor([0.5, -1.0])), "ratio must be finite and > 0, got -1.0 to 0.5"),
    (lambda: rescale(torch.tensor([1e-12]).double(), 1.0), r"ratio must be in 2\^-31\.\.2\^30, got 1e-12"),
    (
        lambda: rescale(torch.tensor([2.0**40]).double(), 1.0),
        r"ratio must be in 2\^-31\.\.2\^30, got 1\.09951e",
    ),
    (lambda: SmallResNet(0), "width must be >= 1, got 0"),
    (lambda: paper.folded_conv(SmallResNet(2).stem), "fold BatchNorm first, got Sequential"),
    (lambda: IntegerNet(fold(SmallResNet(2)), photos(0), 8), "needs at least one image, got none"),
    (
        lambda: IntegerNet(fold(SmallResNet(2)), photos(2), 9),
        r"bits of blocks.0.conv1 must be in 2\.\.8, got 9",
    ),
    (
        lambda: IntegerNet(fold(SmallResNet(2)), photos(2), {"stem": 8}),
        "bits must be for the layers .*got stem",
    ),
    (
        lambda: IntegerNet(fold(SmallResNet(2)), photos(2), dict.fromkeys(INNER, 8) | {INNER[4]: 4}),
        r"blocks\.1\.skip must have the bits of blocks\.1\.conv1",
    ),
    (
        lambda: hutchinson_trace(lambda: torch.ones(()), [], 1, torch.Generator()),
        "n_probe must be >= 2, got 1",
    ),
    (lambda: budget([1], [2], 1.5), "phi must be in 0..1, got 1.5"),
    (lambda: brute_force([1] * 21, [0] * 21, [1] * 21, [2] * 21, 30), r"layers must be in 1\.\.20"),
    (lambda: resnet_layers(34), "depth must be 18 or 50, got 34"),
    (lambda: published("resnet34"), "network must be one of 'resnet18', 'resnet50', got 'resnet34'"),
    (
        lambda: published_costs(published("resnet18"), "energy"),
        "constraint must be one of 'size', 'bops', 'latency', got 'energy'",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_accumulator_that_could_overflow_is_refused():
    conv = torch.nn.Conv2d(1, 1, 1)
    torch.nn.init.constant_(conv.bias, 1e9)
    with pytest.raises(ValueError, match=r"an accumulator must be in 0\.\.2147483647 \(int32\)"):
        IntConv2d(conv, 8, 1e-6)


def test_bit_operations_multiply_both_widths():
    assert bops([10, 10], [4, 8], [8, 8]).tolist() == [320, 640]
