"""The spot check: it lets fresh seeds through, and catches a mechanism without its heart."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.judging import records, spot_check
from fourfold.judging.card import judge
from fourfold.judging.records import Claim, Control, Criterion
from fourfold.recorded import evidence

from .made_up import paper, sampled

MEAN = Criterion(what="gain", resolution=0.01, statistic="mean", reproduced_if="> 0")
SHARE = Criterion(what="solved", resolution=0.01, statistic="fraction", reproduced_if=">= 0.9")
RECORD = paper(
    claims=[
        Claim(
            id="C1",
            statement="It works well.",
            criteria={
                "gain": MEAN,
                "count": Criterion(what="count", resolution=1, reproduced_if="== 3"),
            },
            controls={
                "broken": Control(what="broken", resolution=0.01, statistic="every", fails_if="< 0"),
            },
        ),
        Claim(
            id="C2",
            statement="It counts.",
            criteria={"count": Criterion(what="count", resolution=1, reproduced_if="== 3")},
            controls={"none": Control(what="none", resolution=1, fails_if="== 0")},
        ),
        Claim(
            id="C3",
            statement="It is fast.",
            criteria={
                "ratio": Criterion(what="ratio", resolution=1, statistic="median", reproduced_if="> 2")
            },
            controls={"none": Control(what="none", resolution=1, fails_if="== 0")},
        ),
    ],
    parameters=sampled(1000),
)
GAINS = np.random.default_rng(0).normal(0.5, 0.1, 20)


def judged(gain, broken, count=3, profile="quick"):
    return judge(RECORD, "C1", {"gain": gain, "count": count}, {"broken": broken}, profile=profile)


RUN = {
    "profile": "recorded",
    "parameters": RECORD.values("recorded"),
    "started": "2026-01-02T03:04:05+00:00",
    "processor": "A CPU",
    "verdicts": [judged(GAINS, -GAINS, profile="recorded").to_metadata()],
}


def recalled(verdict, run=RUN):
    face = evidence.face(RECORD, run, verdict.claim.id)
    return spot_check.recall(verdict, face, f"Recorded: {evidence.about(RUN)}.")


def test_the_verdict_is_the_recorded_one_and_the_text_has_no_number_of_this_run():
    verdict = recalled(judged(GAINS[:2], -GAINS[:2]))
    assert verdict.word == "reproduced"
    other = recalled(judged(GAINS[:2] + 0.01, -GAINS[:2] - 0.01))
    assert str(other) == str(verdict)
    assert other.to_html() == verdict.to_html()
    lines = str(verdict).splitlines()
    assert lines[1].endswith("(20 seeds); threshold > 0: met; this run agrees")
    assert lines[2] == "  criterion count: 3; threshold == 3: met"
    assert lines[-1] == "  Recorded: seeds 1000 to 1019, 2026-01-02, A CPU."
    here = verdict.to_metadata()["findings"][0]["here"]
    assert here == GAINS[:2].tolist()


def test_a_mechanism_without_its_heart_is_caught_and_both_numbers_are_said():
    verdict = recalled(judged([0.0, 0.04], [0.0, -0.04]))
    assert verdict.word == "reproduced", "the word is the record's; the check is what fails"
    assert [check.agrees for check in verdict.spot_checks] == [False, False]
    assert "this run disagrees: its mean is 0.02 (2 seeds), expected 0.48 ±" in str(verdict)
    assert "this run disagrees" in verdict.to_html()


def test_what_is_exact_is_judged_by_this_run_and_compared_as_text():
    verdict = recalled(judged(GAINS[:2], -GAINS[:2], count=4))
    assert verdict.word == "not reproduced"
    assert "criterion count: 4; threshold == 3: violated; this run disagrees: the recorded one had 3" in str(
        verdict
    )


def test_without_a_record_a_claim_waits_and_shows_no_number_that_another_processor_would_not():
    verdict = recalled(judged(GAINS[:2], -GAINS[:2]), run=None)
    assert (verdict.word, verdict.findings[0].shown) == ("not recorded yet", "–")
    assert verdict.findings[1].state == "met"
    assert str(verdict) == str(recalled(judged([9.0, 9.0], [9.0, 9.0]), run=None))
    assert verdict.to_metadata()["findings"][0]["here"] == GAINS[:2].tolist()


def test_what_no_quick_run_can_measure_needs_no_record_to_say_so():
    assert recalled(judge(RECORD, "C1", {"gain": None, "count": None}, {}), None).word == (
        "beyond this scale"
    )


def test_claims_without_seeds_are_left_as_they_are():
    for claim, values in (("C2", {"count": 3}), ("C3", {"ratio": [3.0] * 20})):
        verdict = judge(RECORD, claim, values, {"none": 0})
        assert verdict.word == "reproduced"
        assert recalled(verdict) is verdict


@pytest.mark.parametrize("change", ["threshold", "parameters", "control"])
def test_a_run_for_another_question_is_refused(change, monkeypatch):
    claim = RECORD.claims[0]
    if change == "threshold":
        other = MEAN.model_copy(update={"reproduced_if": records.Region("> 0.1")})
        claim = claim.model_copy(update={"criteria": {**claim.criteria, "gain": other}})
    if change == "control":
        other = claim.controls["broken"].model_copy(update={"what": "another"})
        claim = claim.model_copy(update={"controls": {"broken": other}})
    record = RECORD.model_copy(update={"claims": [claim, *RECORD.claims[1:]]})
    run = RUN | ({"parameters": {"seed": 1000, "seeds": 19}} if change == "parameters" else {})
    assert evidence.face(RECORD, RUN, "C1") is not None
    assert evidence.face(record, run, "C1") is None


def test_false_alarms_are_as_rare_as_the_rule_says():
    """200,000 honest builds at fresh seeds: 8 of 100,000 are expected to be called wrong, 16 of 200,000."""
    rng = np.random.default_rng(1)
    then, now = rng.normal(size=(200_000, 20)), rng.normal(size=(200_000, 2))
    standard_error = then.std(axis=1, ddof=1) * math.sqrt(1 / 2 + 1 / 20)
    alarms = int((abs(now.mean(1) - then.mean(1)) > 5 * standard_error).sum())
    assert alarms <= 30
    exact = Criterion(what="a", resolution=1e-12, statistic="mean", reproduced_if="> 0")
    for i in range(0, 200_000, 20_000):
        close = abs(now[i].mean() - then[i].mean()) <= 5 * standard_error[i]
        assert spot_check.compare(exact, then[i], now[i]).agrees == close


@given(st.lists(st.floats(-1, 1), min_size=20, max_size=20), st.integers(1, 20))
def test_a_run_never_disagrees_with_its_own_first_seeds_unless_they_are_outliers(values, m):
    check = spot_check.compare(MEAN, values, values[:m])
    spread = np.std(values, ddof=1) * math.sqrt(1 / m + 1 / 20)
    assert check.agrees or abs(np.mean(values[:m]) - np.mean(values)) > 4.9 * spread


def test_equal_recorded_values_leave_the_resolution():
    assert spot_check.compare(MEAN, [1.0] * 20, [1.0, 0.99]).agrees
    assert not spot_check.compare(MEAN, [1.0] * 20, [1.0, 0.9]).agrees


def test_numbers_that_are_none():
    assert not spot_check.compare(MEAN, [1.0] * 20, [math.nan, 1.0]).agrees
    assert not spot_check.compare(MEAN, [1.0] * 20, [math.inf, 1.0]).agrees
    assert spot_check.compare(MEAN, [1.0, "inf"], [1.0]).agrees is None
    assert spot_check.compare(MEAN, None, None) is None
    unseen = spot_check.compare(MEAN, None, [1.0])
    assert (unseen.agrees, unseen.words) == (False, "this run disagrees: the recorded one did not measure it")
    dear = spot_check.compare(MEAN, [1.0] * 20, None)
    assert (dear.agrees, dear.words) == (None, "this run did not measure it")


def test_shares_are_told_apart_where_that_is_possible():
    assert spot_check.compare(SHARE, [1] * 20, [1, 1]).agrees is None, "two seeds cannot contradict twenty"
    assert spot_check.compare(SHARE, [1] * 20, [1] * 8).agrees
    assert not spot_check.compare(SHARE, [1] * 20, [0] * 8).agrees
    fisher = Criterion(what="a", resolution=1e-3, statistic="fisher", reproduced_if="< 0.05")
    assert not spot_check.compare(fisher, ([1] * 20, [0] * 20), ([1] * 8, [1] * 8)).agrees
    assert spot_check.compare(fisher, ([1] * 20, [0] * 20), ([1] * 8, [0] * 8)).agrees


@pytest.mark.parametrize(
    ("doubled", "word", "said"),
    [
        ("reproduced", "reproduced", "At twice the budget the word is the same."),
        (
            "not reproduced",
            "inconclusive",
            "a word of the budget: reproduced, and at twice the budget not repr",
        ),
        ("inconclusive", "inconclusive", "a word of the budget: reproduced, and at twice the budget inconcl"),
    ],
)
def test_a_word_that_twice_the_budget_changes_is_not_told(doubled, word, said):
    verdict = recalled(judged(GAINS[:2], -GAINS[:2]))
    found = spot_check.at_twice_the_budget(verdict, {"verdict": doubled})
    assert found.word == word
    assert said in f"{found.reason} {found.basis}"
    assert spot_check.at_twice_the_budget(verdict, None) is verdict


def test_what_is_exact_has_no_budget():
    verdict = judge(RECORD, "C2", {"count": 3}, {"none": 0})
    assert spot_check.at_twice_the_budget(verdict, {"verdict": verdict.word}) is verdict
