"""The comparison's room: what is seen, that each arm is its method, and that words say what records hold."""

from functools import cache

import numpy as np
import pytest
import torch

from fourfold import cost, invention, super_resolution, training
from fourfold.compared import restoration as compared
from fourfold.compared import restoration_sampled as sampled
from fourfold.compared import restoration_task as given
from fourfold.compared.restoration import ARMS, BICUBIC, EDGES
from fourfold.data import image_pairs
from fourfold.judging.rule import mean_interval
from fourfold.restoration import hir_diff

from .kept import loaded

EXACT = {"rtol": 0, "atol": 1e-6}
NETWORKS = (compared.plain, compared.LuminanceESPCN, compared.of_craft, compared.of_dlgsanet)


def small(side=12, seed=0):
    image = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(seed))
    return image.expand(1, 3, -1, -1)


# --- what is seen ---


def test_a_photograph_is_its_luminance_halved_and_noise_is_on_the_small_image_alone():
    clean, noisy = (given.seen(task, ("chelsea", "flower"), 3, 60) for task in ("clean", "noisy"))
    whole = super_resolution.pairs(("chelsea", "flower"), 2, 60)
    for index in range(2):
        luminance = image_pairs.luminance(whole.clean[index]).expand(3, -1, -1)
        torch.testing.assert_close(clean.clean[index], luminance, **EXACT)
        torch.testing.assert_close(noisy.clean[index], luminance, **EXACT)
        torch.testing.assert_close(clean.degraded[index], image_pairs.shrink(luminance, 2), rtol=0, atol=2e-6)
        noise = noisy.degraded[index] - clean.degraded[index]
        torch.testing.assert_close(noise[0], noise[2], **EXACT)
        assert float(noise[0].std()) == pytest.approx(given.TASKS["noisy"], rel=0.1)
    again = given.seen("noisy", ("chelsea", "flower"), 3, 60)
    other = given.seen("noisy", ("chelsea", "flower"), 4, 60)
    assert torch.equal(again.degraded[1], noisy.degraded[1])
    assert not torch.equal(other.degraded[1], noisy.degraded[1])


def test_photographs_that_judge_are_in_no_other_lot():
    lots = super_resolution.LEARN, super_resolution.CHOOSE, super_resolution.JUDGE
    assert len({name for lot in lots for name in lot}) == sum(map(len, lots))
    assert compared.LOOKED_AT in super_resolution.JUDGE


# --- arms ---


def test_networks_have_as_many_parameters_and_begin_as_bicubic():
    x = small(16)
    for make in NETWORKS:
        with training.seeded(0), torch.no_grad():
            torch.testing.assert_close(make()(x), given.bicubic(x), **EXACT)
    assert set(compared.sizes().values()) >= {cost.parameters(make()) for make in NETWORKS}
    assert all(size == pytest.approx(21284, rel=0.03) for size in compared.sizes().values())


def test_espcn_is_the_papers_on_luminance():
    with training.seeded(0):
        net = compared.LuminanceESPCN()
    torch.nn.init.normal_(net.last.weight, generator=torch.Generator().manual_seed(0))
    x = small(10)
    theirs = torch.nn.functional.pixel_shuffle(net.last(net.features(x[:, :1] - 0.5)), 2)
    torch.testing.assert_close(net(x), given.bicubic(x) + theirs, **EXACT)


@pytest.fixture
def briefly(monkeypatch):
    for room, names in (
        (compared, {"STEPS": 2, "BATCH": 1, "CROP": 16}),
        (sampled, {"STEPS": 2, "BATCH": 1, "TEACHER": 2, "STUDENT": 2, "FEATURES": 2, "WAVES": 20}),
    ):
        for name, value in names.items():
            monkeypatch.setattr(room, name, value)
    sampled.diffusion.cache_clear()
    yield
    sampled.diffusion.cache_clear()


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm != BICUBIC])
def test_every_arm_restores_and_repeats_itself(arm, briefly):
    setting = ARMS[arm].settings
    setting = 0.001 if isinstance(setting, str) else setting[0]
    made = [ARMS[arm].make(given.Given("clean", 7), setting)(small(20)) for _ in range(2)]
    assert made[0].shape == (1, 3, 40, 40)
    assert torch.equal(*made)
    assert made[0].isfinite().all()
    assert not made[0].requires_grad
    torch.testing.assert_close(made[0][:, 0], made[0][:, 1], rtol=0, atol=0.5)


def test_the_linear_interpolator_is_best_on_what_it_learnt_from_among_filters():
    of = given.Given("clean", 7)
    restore = compared.linear(of, 5)
    errors = []
    for image, clean in zip(*of.learn, strict=True):
        errors.append(
            [(made - clean).square().mean() for made in (restore(image[None])[0], given.bicubic(image))]
        )
    ours, bicubic = torch.tensor(errors).T
    assert (ours < bicubic).all()


def test_hir_diffs_degradation_is_the_pages():
    seen = sampled.Halved("sr", small(8)[0])
    cube = small(16)[0]
    torch.testing.assert_close(seen.degrade(cube), image_pairs.shrink(cube, 2), **EXACT)
    loss = hir_diff.guidance_loss(cube, seen, 1.0, 0.0)
    misfit = (seen.image - image_pairs.shrink(cube, 2)).square().sum() / cube.numel()
    torch.testing.assert_close(loss, misfit, **EXACT)


def test_variation_fits_what_was_seen_and_wavers_less_with_more_weight():
    pairs = given.seen("noisy", ("chelsea",), 7, 48)
    x = pairs.degraded[0][None]
    light, heavy = (sampled.variation(given.Given("noisy", 7), weight)(x)[0] for weight in (1e-4, 0.1))

    def misfit(image):
        return float((image_pairs.shrink(image, 2) - x[0]).square().mean())

    def wavers(image):
        return float(image.diff(dim=1).abs().mean() + image.diff(dim=2).abs().mean())

    assert misfit(light) < misfit(heavy)
    assert wavers(heavy) < wavers(light)


# --- what is measured ---


def test_what_is_measured_is_clipped_and_knows_nothing_of_the_border():
    clean, made = small(32, 1)[0, :1], small(32, 2)[0, :1]
    base = small(32, 3)[0, :1]
    found = compared.measured(made, clean, base)
    other = made.clone()
    other[:, : compared.BORDER] = 7
    assert compared.measured(other, clean, base) == found
    assert compared.measured(3 * made, clean, base) == compared.measured((3 * made).clamp(0, 1), clean, base)
    assert len(found["added"]) == len(found["wrong"]) == len(EDGES) - 1
    itself = compared.measured(base, clean, base)
    assert sum(itself["added"]) == 0
    assert sum(itself["wrong"]) > 0


def test_the_gain_is_that_over_bicubic():
    pairs = given.seen("clean", ("chelsea",), 7, 64)
    assert compared.gain(compared.restored(given.bicubic, pairs.degraded), pairs) == pytest.approx(
        0, abs=1e-6
    )
    assert compared.gain([pairs.clean[0][:1] * 0.999], pairs) > 20


# --- records ---


def test_records_hold_every_arm_photograph_and_seed():
    swept, kept = loaded("restoration_rates"), loaded("restoration_trained")
    own = {
        (task, arm)
        for task in given.TASKS
        for arm in compared.of_task(task)
        if not isinstance(ARMS[arm].settings, str)
    }
    assert {(row["task"], row["arm"]) for row in swept["rows"]} == own
    assert swept["seed"] not in kept["seeds"]
    assert len(kept["seeds"]) >= 5
    found = {(row["task"], row["arm"], row["photograph"], row["seed"]) for row in kept["rows"]}
    assert found == {
        (task, arm, name, seed)
        for task in given.TASKS
        for arm in compared.of_task(task)
        for name in super_resolution.JUDGE
        for seed in kept["seeds"]
    }


CAT, FLOWER, MOTORCYCLE = range(3)
NETS = ("ESPCN", "CRAFT", "DLGSANet")
FITTED = ("Wiener", "linear", compared.PLAIN, compared.LONGER, *NETS)
BELOW, BEYOND = EDGES.index(3 / 16), EDGES.index(4 / 16)
"""The bands on either side of the small image's limit."""


@cache
def found():
    return compared.stacked(loaded("restoration_trained")["rows"])


@cache
def parts():
    return {place: compared.split(found(), *place) for place in found()}


def over(task, arm, other=BICUBIC, measure="psnr"):
    """Differences, (photographs, seeds)."""
    return found()[task, arm][measure] - found()[task, other][measure]


def told(values):
    """-1, 0 or 1: the 95 % interval over seeds leaves zero out, and all photographs agree in sign."""
    _, low, high = mean_interval(values.mean(0))
    each = np.sign(values.mean(1))
    return int(each[0]) if low * high > 0 and (each == each[0]).all() else 0


def banded(task, arm, other=BICUBIC):
    """Differences in dB, mean over photographs and seeds, band by band."""
    return invention.decibels(parts()[task, other].wrong, parts()[task, arm].wrong).mean((0, 1)).numpy()


def left(task, arm):
    """Per cent still missing and invented."""
    return [100 * float(part.mean()) for part in parts()[task, arm].left()]


class TestWords:
    """What the page says is what its records hold."""

    def test_longer_training_is_ahead_of_every_architecture(self):
        for task in given.TASKS:
            lead = [over(task, compared.LONGER, arm).mean() for arm in (compared.PLAIN, *NETS)]
            apart = [over(task, arm, compared.PLAIN).mean() for arm in NETS]
            assert min(lead) > max(apart) - min(apart)
        assert over("clean", compared.LONGER, compared.PLAIN).mean() == pytest.approx(0.24, abs=0.005)
        assert over("noisy", compared.LONGER, compared.PLAIN).mean() == pytest.approx(0.66, abs=0.005)
        for task in given.TASKS:
            each = over(task, compared.LONGER, compared.PLAIN).mean(1)
            assert abs(each[CAT]) < 0.02
            assert each.argmax() == FLOWER

    def test_halved(self):
        assert told(over("clean", compared.PLAIN, "linear")) == 1
        assert over("clean", compared.PLAIN, "linear").mean() == pytest.approx(0.04, abs=0.005)
        losses = [over("clean", arm, compared.PLAIN) for arm in NETS]
        assert [told(loss) for loss in losses] == [-1, -1, -1]
        assert all(0.015 < -loss.mean() < 0.095 for loss in losses)
        assert all(told(over("clean", arm, "Wiener")) == -1 for arm in NETS)
        for arm in FITTED:
            missing, invented = left("clean", arm)
            assert 69 < missing < 77
            assert 5.5 < invented < 10
        assert max(left("clean", arm)[1] for arm in ("HF-Diff", compared.TEACHER)) < min(
            left("clean", arm)[1] for arm in (*FITTED, "TV", "HIR-Diff", "HiWave")
        )
        assert all(round(left("clean", arm)[1]) == 12 for arm in ("TV", "HIR-Diff"))
        gains = over("clean", "HIR-Diff").mean(1)
        assert gains[CAT] < 0 < min(gains[FLOWER], gains[MOTORCYCLE])
        assert 140 < left("clean", "HiWave")[1] < 170

    def test_with_noise(self):
        arms = [arm for arm in compared.of_task("noisy") if arm != BICUBIC]
        assert {arm for arm in arms if told(over("noisy", arm)) == 1} == {compared.LONGER, "DLGSANet"}
        assert over("noisy", compared.LONGER).mean() == pytest.approx(0.42, abs=0.005)
        assert over("noisy", "DLGSANet").mean() == pytest.approx(0.06, abs=0.005)
        for arm in (compared.PLAIN, "ESPCN"):
            each = over("noisy", arm).mean(1)
            assert max(each[FLOWER], each[MOTORCYCLE]) < 0 < each[CAT]
            assert left("noisy", arm)[0] > 100
        for arm in ("HIR-Diff", "Wiener"):
            each = over("noisy", arm).mean(1)
            assert each[CAT] < 0 < min(each[FLOWER], each[MOTORCYCLE])
        wrong = parts()["clean", BICUBIC].wrong.sum(-1).mean(1)
        assert wrong.argmin() == CAT

    def test_where_gains_live(self):
        for arm in FITTED:
            gains = banded("clean", arm)
            assert gains[EDGES.index(2 / 16) : EDGES.index(5 / 16)].sum() > 0.89 * gains.sum()
        beyond = EDGES.index(6 / 16)
        for task in given.TASKS:
            arms = [arm for arm in compared.of_task(task) if arm != BICUBIC]
            assert all(banded(task, arm)[beyond:].sum() < 0.01 for arm in arms)
            assert all(banded(task, arm)[beyond:].sum() < -0.13 for arm in ("TV", "HIR-Diff"))

    def test_tenths(self):
        ahead = banded("clean", compared.PLAIN, "linear")
        assert ahead[BEYOND:].sum() == pytest.approx(0.04, abs=0.005)
        assert -ahead[:BEYOND].sum() / ahead[BEYOND:].sum() == pytest.approx(1 / 3, abs=0.05)
        for arm in ("CRAFT", "DLGSANet"):
            assert banded("clean", arm, compared.PLAIN)[:BEYOND].sum() < -0.015
        longer = banded("clean", compared.LONGER, compared.PLAIN)
        assert longer.sum() == pytest.approx(0.14, abs=0.005)
        assert longer[BEYOND:].sum() == pytest.approx(0.12, abs=0.005)
        longer = banded("noisy", compared.LONGER, compared.PLAIN)
        assert longer.sum() == pytest.approx(0.63, abs=0.005)
        for arm in (compared.LONGER, "CRAFT", "DLGSANet"):
            lead = banded("noisy", arm, compared.PLAIN)
            assert lead[:BEYOND].sum() / lead.sum() == pytest.approx(0.75, abs=0.03)

    def test_the_plane(self):
        def factor(task, arm):
            own = parts()[task, arm]
            gain, added = (part.mean((0, 1))[BELOW] for part in (own.gain, own.added / own.missing))
            return float(gain / added)

        assert factor("clean", "Wiener") == pytest.approx(0.99, abs=0.005)
        assert factor("clean", "linear") == pytest.approx(1.03, abs=0.005)
        nets = [factor("clean", arm) for arm in (compared.PLAIN, compared.LONGER, *NETS)]
        assert (round(min(nets), 2), round(max(nets), 2)) == (1.07, 1.22)
        assert all(0 < factor("noisy", arm) < 0.5 for arm in ("Wiener", "TV", "CRAFT"))
        assert all(0.85 < factor("noisy", arm) < 1.05 for arm in (compared.LONGER, "HIR-Diff"))

    def test_correlations(self):
        for arm in FITTED:
            found = parts()["clean", arm].correlation.mean((0, 1)).numpy()
            assert round(float(found[BELOW]), 1) == 0.8
            assert 0.4 < found[BEYOND] < 0.6
            assert found[BEYOND + 1 :].max() <= 0.3
        beyond = EDGES.index(6 / 16)
        for arm in ("TV", "HIR-Diff"):
            own = parts()["clean", arm]
            assert own.correlation.mean((0, 1))[beyond:].max() <= 0.055
            share = (own.added / own.missing).mean((0, 1))[beyond:]
            assert 0.07 < share.min() < share.max() < 0.2

    def test_gmsd_orders_methods_otherwise(self):
        means = {arm: found()["clean", arm]["gmsd"].mean() for arm in compared.of_task("clean")}
        assert min(means, key=means.get) == "Wiener"
        assert told(over("clean", compared.LONGER, "Wiener", "gmsd")) == 1
        assert over("clean", compared.LONGER, "Wiener").mean() == pytest.approx(0.2, abs=0.01)
        assert told(over("noisy", "HIR-Diff", "Wiener", "gmsd")) == -1
        assert told(over("noisy", "HIR-Diff", "Wiener")) == 0

    def test_settings_are_chosen_where_networks_lose_with_noise(self):
        rows = [row for row in loaded("restoration_rates")["rows"] if row["task"] == "noisy"]
        lost = {row["arm"] for row in rows if row["gain"] < 0}
        gained = {row["arm"] for row in rows if row["gain"] > 0}
        assert lost - gained == {compared.PLAIN, *NETS} | {BICUBIC} & lost

    def test_rows_of_bands(self):
        rows = compared.banded(parts())
        assert {(row["task"], row["arm"]) for row in rows} == set(found())
        (row,) = [r for r in rows if (r["task"], r["arm"]) == ("clean", "TV") and 0.2 < r["frequency"] < 0.24]
        own = parts()["clean", "TV"]
        assert row["restored"] == pytest.approx(float(own.gain.mean((0, 1))[BELOW]))
        assert row["left"] == pytest.approx(
            10 * np.log10(float((own.wrong / own.missing).mean((0, 1))[BELOW]))
        )


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="name must be one of"):
        given.seen("clean", ("lena",), 0)
    with pytest.raises(ValueError, match=r"side must be in 1\.\.300, got 301"):
        given.seen("clean", ("chelsea",), 0, 301)
    with pytest.raises(KeyError):
        given.seen("blurred", ("chelsea",), 0)
