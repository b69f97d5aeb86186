"""The comparison's room: each arm its method, counts with closed forms, and losses that are told apart."""

import math
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from fourfold import cost, training
from fourfold.compared import efficiency as compared
from fourfold.compared.efficiency import AGAIN, ARMS, BOTH, DENSE, DEPTH, DIM, SIDE, TOKENS
from fourfold.data import probes
from fourfold.efficiency import evit, hawqv3, phnn, raptor, sit, sret
from fourfold.judging.rule import mean_interval

from .kept import loaded

EXACT = {"rtol": 0, "atol": 1e-6}
PLACES = compared.networks()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some(n=6, seed=0):
    return compared.mosaic(probes.digits()[1], n, torch.Generator().manual_seed(seed))


def built(arm, strength):
    with training.seeded(0):
        return compared.untrained(arm, strength).eval()


@pytest.fixture(scope="module")
def given():
    """A seed whose dense network is not trained: what the machinery does needs no trained one."""
    digits, _ = compared.drawn(7, held_out=True)
    with training.seeded(0):
        return compared.Given(7, digits, compared.dense().eval())


@pytest.fixture
def briefly(monkeypatch):
    for name, value in {"EPOCHS": 1, "FURTHER": 1, "IMAGES": 100, "STATES": 50, "PROBES": 2}.items():
        monkeypatch.setattr(compared, name, value)


# --- the task ---


def test_one_digit_of_four_stands_in_the_light_and_is_the_label():
    blank = probes.Images(torch.zeros(10, 8, 8), torch.arange(10))
    images, labels = compared.mosaic(blank, 50, torch.Generator().manual_seed(0))
    tiles = images.unflatten(2, (2, 8)).unflatten(4, (2, 8)).mean((1, 3, 5)).flatten(1)
    assert images.shape == (50, 1, SIDE, SIDE)
    lit = tiles > tiles.min()
    assert (lit.sum(1) == 1).all()
    assert lit.float().mean(0).min() > 0.1
    real, _ = compared.mosaic(probes.digits()[0], 200, torch.Generator().manual_seed(0))
    assert abs(float(real.std()) - 1) < 0.1
    assert len(labels.unique()) == 10


def test_every_patch_of_the_digit_shows_that_it_is_the_one():
    blank = probes.Images(torch.zeros(1, 8, 8), torch.zeros(1).long())
    images, _ = compared.mosaic(blank, 20, torch.Generator().manual_seed(0))
    patches = images.unflatten(2, (4, 4)).unflatten(4, (4, 4)).amin((1, 3, 5)).flatten(1)
    assert ((patches > patches.min()).sum(1) == TOKENS // 4).all()


def test_rates_are_chosen_on_digits_that_are_in_no_other_part():
    known, _ = compared.drawn(7, held_out=True)
    same, _ = compared.drawn(7)
    other, _ = compared.drawn(8)
    assert torch.equal(known.images, same.images)
    assert not torch.equal(known.images, other.images)
    assert len(known.labels) == compared.POOL - compared.HELD_OUT
    pool, test = probes.digits()
    assert (len(pool.labels), len(test.labels)) == (compared.POOL, compared.TEST)
    order = torch.randperm(compared.POOL, generator=training.stream(7, "digits"))
    held = probes.Images(pool.images[order[-compared.HELD_OUT :]], pool.labels[order[-compared.HELD_OUT :]])
    wanted = compared.mosaic(held, compared.UNSEEN, training.stream(7, "held out"))
    assert torch.equal(compared.drawn(7, held_out=True)[1].images, wanted.images)


# --- what stands in a layer's place ---


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_rounded_layer_has_the_papers_weights_and_lets_gradients_through(bits):
    layer, x = compared.Rounded(5, 3, bits), normal(4, 5)
    rounded = hawqv3.rounded_weight(layer.weight, bits)
    torch.testing.assert_close(layer(x), x @ rounded.T + layer.bias, **EXACT)
    layer(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(3, 5), **EXACT)
    assert max(len(row.unique()) for row in rounded) <= 2**bits
    assert layer.stored() == math.ceil(15 * bits / 8) + 4 * 3 + 4 * 3


def test_a_pruned_layer_is_the_layer_with_zeros_and_they_stay():
    layer, x = compared.Pruned(6, 4), normal(3, 6)
    layer.kept[0] = 0
    assert torch.equal(layer(x)[:, 0], layer.bias[0].expand(3))
    layer(x).sum().backward()
    assert (layer.weight.grad[0] == 0).all()
    assert layer.stored() == 4 * 18 + 24 / 8 + 4 * 4


def test_what_is_pruned_is_smallest():
    net = compared.dense()
    masks = compared.largest(net, 0.25)
    weights = {f"{name}.kept": layer.weight.abs() for name, layer in compared.layers(net).items()}
    kept = torch.cat([weights[name][mask > 0] for name, mask in masks.items()])
    gone = torch.cat([weights[name][mask == 0] for name, mask in masks.items()])
    assert kept.min() >= gone.max()
    assert len(kept) == pytest.approx(0.25 * (len(kept) + len(gone)), rel=1e-3)
    compared.pruned(compared.dense()).load_state_dict(net.state_dict() | masks)


def test_the_layers_are_attentions_four_and_the_mlps_two_of_each_block():
    found = compared.layers(compared.dense())
    assert len(found) == 6 * DEPTH
    assert sum(layer.weight.numel() for layer in found.values()) == 12 * DIM**2 * DEPTH


def test_bits_are_what_the_paper_program_makes_of_the_papers_sums(given):
    net, traces = given.teacher, 1 + normal(6 * DEPTH).abs().double().numpy()
    bits = compared.allocated(net, traces, 2, 4)
    weights = [layer.weight.detach() for layer in compared.layers(net).values()]
    damage = {
        b: sum(
            t * float((hawqv3.rounded_weight(w, b) - w).square().sum())
            for t, w in zip(traces, weights, strict=True)
        )
        for b in (2, 4)
    }
    assert damage[4] < damage[2]
    spent = sum(b * w.numel() for b, w in zip(bits.values(), weights, strict=True))
    assert 0.95 * 3 * 12 * DIM**2 * DEPTH < spent <= 3 * 12 * DIM**2 * DEPTH
    # A layer that is far more sensitive than all others gets the high bits, whichever it is.
    for place, name in enumerate(bits):
        traces[:], traces[place] = 1e-6, 1e6
        assert compared.allocated(net, traces, 2, 4)[name] == 4


# --- arms ---


@pytest.mark.parametrize(("arm", "strength"), PLACES)
def test_every_arm_makes_logits_and_computes_no_more_than_it_counts(arm, strength):
    net = built(arm, strength)
    assert net(some().images).shape == (6, 10)
    assert compared.multiply_adds(arm, strength) == cost.macs(net, (1, 1, SIDE, SIDE))


def test_arms_hold_their_papers_networks():
    assert isinstance(built("EViT", "3/10"), evit.EViT)
    assert isinstance(built("SiT", "4, 2").slim[0], sit.TokenSlimming)
    assert isinstance(built("SReT", "1 x 4"), sret.SReT)
    assert isinstance(built("Raptor", "2").tied, raptor.Raptor)
    kinds = {type(m) for name, m in compared.hypercomplex(4).named_modules() if "blocks.0.mlp.up" in name}
    assert kinds == {phnn.PHConv}


def test_multiply_adds_are_closed_forms():
    ends = TOKENS * 16 * DIM + DIM * 10
    whole = ends + DEPTH * (12 * 17 * DIM**2 + 2 * 17**2 * DIM)
    assert compared.multiply_adds(DENSE, "") == whole
    assert compared.multiply_adds("shallower", "1") == ends + (whole - ends) // DEPTH
    for keep, rate in compared.KEEPS.items():
        counts = evit.token_counts(SIDE, compared.PATCH, DEPTH, rate, compared.DROPS)
        closed = evit.evit_macs(SIDE, compared.PATCH, DIM, counts, channels=1, classes=10)
        assert compared.multiply_adds("EViT", keep) == compared.multiply_adds("by lot", keep) == closed
    for strength, size in ARMS["SReT"].strengths.items():
        spec = sret.Spec((DIM,), (4,), (size[0],), ((1,) * size[1],), 4.0, patch=4)
        assert compared.multiply_adds("SReT", strength) == sret.sret_counts(spec, SIDE, 1, 10).macs


def test_a_block_that_runs_twice_is_stored_once():
    twice, once = (compared.recursive(*size) for size in ((1, 4), (1, 2)))
    passes = sret.nll_parameters(DIM, 1.0)
    assert compared.stored(twice) - compared.stored(once) == 4 * 2 * passes
    assert compared.multiply_adds("SReT", "1 x 4") > 1.9 * compared.multiply_adds("SReT", "1 x 2")
    one, three = (compared.stored(built("Raptor", k)) for k in ("1", "3 blocks"))
    assert three > 2 * one
    assert compared.multiply_adds("Raptor", "1") == compared.multiply_adds("Raptor", "3 blocks")


def test_what_is_stored_is_four_bytes_a_value_but_for_small_weights():
    net = compared.dense()
    whole = 4 * cost.parameters(net)
    assert compared.stored(net) == whole
    inner = 12 * DIM**2 * DEPTH
    eight = compared.stored(compared.rounded(compared.dense(), 8))
    scales = 9 * DIM * DEPTH
    assert eight == whole - 4 * inner + inner + 4 * scales
    n = 4
    assert compared.stored(compared.hypercomplex(n)) == whole - 4 * (inner - inner // n - n**3 * 6 * DEPTH)


def test_methods_that_start_from_the_dense_network_are_it_where_nothing_is_saved(given):
    images = some().images
    logits = given.teacher(images)
    alike = {"rtol": 1e-5, "atol": 1e-5}
    for net in (
        compared.fewer_tokens(1.0),
        compared.any_tokens(1.0),
        compared.rounded(compared.dense(), 16),
        compared.pruned(compared.dense()),
    ):
        masks = (
            compared.largest(given.teacher, 1.0)
            if net.state_dict().keys() != given.teacher.state_dict().keys()
            else {}
        )
        net.load_state_dict(given.teacher.state_dict() | masks)
        torch.testing.assert_close(net.eval()(images), logits, rtol=1e-3, atol=1e-3)
    blocks = [raptor.RaptorBlock(DIM, 4, mlp="gelu", depth_scale=False, init=None) for _ in range(DEPTH)]
    for block, original in zip(blocks, given.teacher.vit.blocks, strict=True):
        names = {"norm_attention": "norm1", "norm_mlp": "norm2"}
        state = original.state_dict()
        block.load_state_dict(
            {
                ".".join([names.get(n.split(".")[0], n.split(".")[0]), *n.split(".")[1:]]): v
                for n, v in state.items()
            }
        )
    tied = raptor.Raptor(blocks, tuple(range(1, DEPTH + 1)))
    torch.testing.assert_close(compared.Replayed(given.teacher, tied)(images), logits, **alike)
    assert len(given.teacher.vit.blocks) == DEPTH


def test_raptor_sees_the_states_of_the_dense_network(given):
    images = some().images
    states = raptor.collect_states(compared.OneByOne(given.teacher), images)
    assert states.shape == (6, DEPTH + 1, TOKENS + 1, DIM)
    torch.testing.assert_close(given.teacher.vit.classify(states[:, -1]), given.teacher(images), **EXACT)


def test_the_lot_keeps_other_patches_of_each_image_and_evit_those_it_looks_at(given):
    net = compared.any_tokens(0.3)
    net.load_state_dict(given.teacher.state_dict())
    one, two = net.kept(some().images)[0], net.kept(some().images)[0]
    assert not torch.equal(one, two)
    assert len({tuple(row) for row in one.sort().values.tolist()}) > 1
    exact = compared.fewer_tokens(0.3)
    exact.load_state_dict(given.teacher.state_dict())
    assert torch.equal(exact.kept(some().images)[0], exact.kept(some().images)[0])


# --- training ---


@pytest.mark.parametrize(
    ("arm", "strength"),
    [(arm, compared.middle(arm)) for arm in (*ARMS, AGAIN, BOTH)],
)
def test_every_arm_can_be_trained_and_repeats_itself(arm, strength, given, briefly):
    test = some(50)
    given = compared.Given(7, given.digits, given.dense)
    before = {name: value.clone() for name, value in given.teacher.state_dict().items()}
    one, two = (compared.trained(arm, strength, given, 1e-3)(test.images) for _ in range(2))
    if arm != "by lot":
        assert torch.equal(one, two)
    assert one.isfinite().all()
    assert all(torch.equal(value, before[name]) for name, value in given.teacher.state_dict().items())


def test_pruned_weights_are_zero_after_training_and_bits_are_as_chosen(given, briefly):
    given = compared.Given(7, given.digits, given.dense)
    net = compared.trained("pruned", "1/4", given, 1e-3)
    shares = [float(part.kept.mean()) for part in net.modules() if isinstance(part, compared.Pruned)]
    assert sum(shares) / len(shares) < 0.5
    chosen = compared.bits_of(given, "2 or 4")
    net = compared.trained("HAWQ-V3", "2 or 4", given, 1e-3)
    assert [part.bits for part in net.modules() if isinstance(part, compared.Rounded)] == list(
        chosen.values()
    )
    both = compared.trained(BOTH, "1/10, 2 or 4", given, 1e-3)
    assert isinstance(both, evit.EViT)
    assert both.keep_rate == compared.KEEPS["1/10"]
    assert [p.bits for p in both.modules() if isinstance(p, compared.Rounded)] == list(chosen.values())


def test_the_dense_network_learns_to_read_the_digit(given, monkeypatch):
    monkeypatch.setattr(compared, "EPOCHS", 3)
    _, test = compared.drawn(7, held_out=True)
    assert compared.accuracy(compared.first(given, 4e-3), test) > 0.6


# --- what is measured ---


def test_a_front_has_whom_nobody_cheaper_beats():
    costs = {"a": 1, "b": 2, "c": 2, "d": 3, "e": 4}
    scores = {"a": 0.5, "b": 0.7, "c": 0.6, "d": 0.7, "e": 0.9}
    assert compared.front(costs, scores) == ["a", "b", "e"]


def test_losses_that_add_have_no_interaction():
    neither, one, other = [0.9, 0.8], [0.8, 0.75], [0.7, 0.6]
    both = [a + b - c for a, b, c in zip(one, other, neither, strict=True)]
    assert compared.interaction(neither, one, other, both) == pytest.approx([0, 0])
    assert compared.interaction(neither, one, other, [b + 0.1 for b in both]) == pytest.approx([0.1, 0.1])
    with pytest.raises(ValueError, match="shorter"):
        compared.interaction(neither, one, other, [0.5])


def test_log_odds_are_finite_at_the_ends_and_odd_about_a_half():
    assert compared.log_odds(0.5) == 0
    assert (
        compared.log_odds(1.0) == -compared.log_odds(0.0) == pytest.approx(math.log(2 * compared.UNSEEN + 1))
    )


def test_records_hold_every_arm_and_seed():
    names = ("trained", "rates", "together", "compared")
    kept, swept, checked, timed = (loaded(f"efficiency_{name}") for name in names)
    found = {(row["arm"], row["strength"], row["seed"]) for row in kept["rows"]}
    places = [*PLACES, *((line, "") for line in compared.LINES)]
    assert found == {(*place, seed) for place in places for seed in kept["seeds"]}
    assert len(kept["seeds"]) >= 5
    assert checked["seeds"] == kept["seeds"]
    again = {(row["arm"], row["strength"], row["seed"]) for row in checked["rows"]}
    assert again == {(*place, seed) for place in compared.crossed() for seed in kept["seeds"]}
    assert {row["arm"] for row in swept["rows"]} == {arm for arm, _ in PLACES} == set(kept["rates"])
    assert swept["seed"] not in kept["seeds"]
    assert {(row["arm"], row["strength"]) for row in timed["rows"]} == set(compared.racing())
    assert all(math.isfinite(row["seconds"]) for row in timed["rows"])


@cache
def read(name):
    """Arm and strength -> per cent of test images read correctly, a number a seed."""
    found = {}
    for row in loaded(f"efficiency_{name}")["rows"]:
        found.setdefault((row["arm"], row["strength"]), []).append(100 * row["accuracy"])
    return {place: np.array(values) for place, values in found.items()}


def told(values):
    """-1, 0 or 1: the 95 % interval of the mean is below 0, holds it, or is above."""
    _, low, high = mean_interval(values)
    return (low > 0) - (high < 0)


@cache
def counted():
    return {place: compared.multiply_adds(*place) for place in PLACES}


def each(arm):
    return [(arm, strength) for strength in compared.strengths(arm)]


class TestWords:
    """What the page says is what its records hold."""

    @pytest.fixture
    def right(self):
        return read("trained")

    @pytest.fixture
    def sizes(self):
        rows = loaded("efficiency_trained")["rows"]
        return {(row["arm"], row["strength"]): row["bytes"] for row in rows if "bytes" in row}

    @pytest.fixture
    def macs(self):
        return counted()

    @pytest.fixture
    def more(self, right):
        return lambda one, other: told(right[one] - right[other])

    @pytest.fixture
    def lost(self, right):
        def loss(place):
            start = place[0] == DENSE or compared.way_of(place[0]) == "from the start"
            return right[DENSE if start else AGAIN, ""] - right[place]

        return loss

    def test_a_second_cycle_of_the_rate_costs_two_points(self, right):
        difference = right[DENSE, ""] - right[AGAIN, ""]
        assert told(difference) == 1
        assert round(difference.mean()) == 2

    def test_no_tokens_less_are_told_to_beat_blocks_less_of_no_more_macs(self, macs, more, lost):
        for place in each("EViT") + each("SiT"):
            smaller = [s for s in each("shallower") if macs[s] <= macs[place]]
            assert more(place, max(smaller, key=macs.get)) <= 0
        assert lost(("shallower", "2")).mean() == pytest.approx(1.2, abs=0.05)
        assert all(more(place, ("shallower", "2")) == 0 for place in each("EViT"))
        assert more(("SiT", "4, 2"), ("shallower", "2")) == -1

    def test_steps_on_the_fronts_that_are_told(self, right, sizes, macs, more):
        for costs, steps in (
            (macs, [("shallower", "1")]),
            (sizes, [("equal bits", "2"), ("HAWQ-V3", "2 or 3")]),
        ):
            best = compared.front(costs, {p: right[p].mean() for p in PLACES})
            assert [after for before, after in pairwise(best) if more(after, before) == 1] == steps
        best = compared.front(macs, {p: right[p].mean() for p in PLACES})
        assert [p for p in best if p[0] in ("EViT", "SiT")] == [("SiT", "4, 2"), ("EViT", "1/10")]

    def test_nothing_comes_near_bits(self, right, sizes, more):
        bits, whole = ("HAWQ-V3", "2 or 3"), sizes[DENSE, ""]
        assert sizes[bits] / whole == pytest.approx(1 / 6, abs=0.015)
        aside = ("HAWQ-V3", "equal bits", BOTH)
        others = [p for p in PLACES if p[0] not in aside and sizes[p] < whole / 2]
        assert all(right[p].mean() < right[bits].mean() for p in others)
        assert [p for p in others if sizes[p] < sizes[bits]] == [("narrower", "8")]
        untold = {("PHNN", "4"), ("SReT", "1 x 4"), ("SReT", "1 x 2")}
        assert {p for p in others if more(bits, p) == 0} == untold

    def test_the_support_vector_machine_is_behind_but_not_behind_all(self, more):
        line = ("SVM", "")
        assert {p for p in PLACES if more(p, line) == -1} == {("narrower", "8")}
        assert {p for p in PLACES if more(p, line) == 0} == {("PHNN", "8"), ("pruned", "1/8")}

    def test_tokens(self, more, lost):
        assert all(told(lost(place)) == 0 for place in each("EViT"))
        assert [told(lost(place)) for place in each("by lot")] == [1, 0, 0]
        pairs = zip(each("EViT"), each("by lot"), strict=True)
        assert [more(one, other) for one, other in pairs] == [1, 0, 0]
        assert all(1.5 < lost(place).mean() < 3 for place in each("SiT"))

    def test_repeated_blocks(self, more, lost):
        assert all(3.4 < lost(place).mean() < 4.1 for place in each("SReT"))
        assert more(("SReT", "1 x 4"), ("SReT", "1 x 2")) == 0
        assert more(("shallower", "3 blocks"), ("SReT", "2 blocks x 2")) == 1
        assert all(1 < lost(place).mean() < 3 for place in each("Raptor"))
        one = ("Raptor", "1")
        assert more(one, ("shallower", "1")) == more(one, ("narrower", "16")) == 0

    def test_products_and_bits(self, sizes, more, lost):
        assert sizes["PHNN", "4"] == sizes["pruned", "1/4"]
        assert more(("PHNN", "4"), ("pruned", "1/4")) == 1
        assert more(("PHNN", "n = 2"), ("pruned", "keeps 1/2")) == -1
        assert sizes["PHNN", "8"] > sizes["PHNN", "4"]
        assert more(("PHNN", "8"), ("PHNN", "4")) == -1
        assert [told(lost(place)) for place in each("equal bits")] == [0, 0, 1]
        assert all(told(lost(place)) == 0 for place in each("HAWQ-V3"))
        pairs = zip(each("HAWQ-V3"), each("equal bits"), strict=True)
        assert [more(one, other) for one, other in pairs] == [0, 0, 1]
        assert sizes["HAWQ-V3", "2 or 3"] / sizes["equal bits", "2"] == pytest.approx(1.1, abs=0.01)

    def test_losses_add_at_one_rate(self):
        found = {"trained": [], "together": []}
        for name, interactions in found.items():
            right = read(name)
            for pair in compared.PAIRS:
                one, other = compared.parts_of(pair)
                four = right[AGAIN, ""], right[one], right[other], right[BOTH, pair]
                odds = [[compared.log_odds(value / 100) for value in values] for values in four]
                interactions.append([np.array(compared.interaction(*parts)) for parts in (four, odds)])
        own, alike = found.values()
        assert sum(told(points) == -1 for points, _ in own) == 2
        assert sum(told(odds) == -1 for _, odds in own) == 1
        assert all(told(values) == 0 for both in alike for values in both)
        assert all(abs(points.mean()) < 0.3 for points, _ in alike)
        ends = [max(abs(end) for end in mean_interval(points)[1:]) for points, _ in alike]
        assert max(ends) < 1.5
        assert min(ends) < 0.75

    def test_what_each_of_the_two_loses_at_one_rate(self):
        right = read("together")
        for pair in compared.PAIRS:
            tokens, bits = (right[AGAIN, ""] - right[place] for place in compared.parts_of(pair))
            assert (told(tokens), told(bits)) == (1, 0)
            assert 0.9 < tokens.mean() < 1.6
            assert 1 < (tokens + bits).mean() < 2

    def test_times(self, macs):
        rounds = {
            (row["arm"], row["strength"], row["images"]): np.array(row["rounds"])
            for row in loaded("efficiency_compared")["rows"]
        }
        share = {p: float((times / rounds[DENSE, "", p[2]]).mean()) for p, times in rounds.items()}
        assert 0.9 < share["narrower", "8", 1] < 0.95
        assert all(1.2 < share[*place, 1] < 1.33 for place in each("EViT"))
        assert all(1.07 < share[*place, 1] < 1.16 for place in each("SiT"))
        assert all(1.3 < share[*place, 1] < 1.4 for place in each("Raptor"))
        for place in each("EViT") + each("SiT") + each("shallower"):
            assert abs(share[*place, 256] - macs[place] / macs[DENSE, ""]) < 0.06
        assert abs(share["narrower", "8", 256] - share["narrower", "16", 256]) < 0.05
        assert macs["narrower", "8"] < macs["narrower", "16"] / 3
        assert all(0.7 < share["SReT", strength, 256] < 0.76 for strength in ("2 blocks x 2", "1 x 4"))


def test_bad_input_is_refused(given):
    with pytest.raises(ValueError, match=r"arm must be one of 'narrower', .*got 'Swin'"):
        compared.trained("Swin", "", given, 1e-3)
    with pytest.raises(ValueError, match=r"strength must be one of 'keeps 1/2', .*got '9/10'"):
        compared.trained("EViT", "9/10", given, 1e-3)
    with pytest.raises(ValueError, match="dense must be trained before"):
        compared.trained("EViT", "3/10", compared.Given(7, given.digits), 1e-3)
    with pytest.raises(ValueError, match=r"bits must be in 2\.\.16, got 1"):
        compared.Rounded(4, 4, 1)
    with pytest.raises(ValueError, match="n must be >= 1 and divide channels"):
        compared.hypercomplex(3)


def test_untrained_networks_are_whole_modules():
    assert all(isinstance(built(*place), nn.Module) for place in compared.racing())
