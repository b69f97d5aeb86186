"""The judge, pushed where it could err: equality, NaN, missing controls, one seed, passing controls."""

import json
import math
from datetime import date

import nbformat
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fourfold.book import ledger_page
from fourfold.judging import rule
from fourfold.judging.card import judge
from fourfold.judging.records import (
    Claim,
    Clause,
    Condition,
    Control,
    Criterion,
    Earlier,
    Expected,
)
from fourfold.recorded import executed

from .made_up import paper, sampled


def record(criterion, control=None, **more):
    """A record with one claim of one criterion ``a`` and one control ``broken``."""
    control = control or {"statistic": "exact", "fails_if": "> 0.5"}
    claim = Claim(
        id="C1",
        statement="It works well.",
        criteria={"a": Criterion(**({"what": "a", "resolution": 0.01} | criterion)), **more},
        controls={"broken": Control(**({"what": "broken", "resolution": 0.01} | control))},
    )
    return paper(
        claims=[claim, Claim(id="C2", statement="It is also elegant.")],
        parameters=sampled(1),
    )


def word(criterion, values, control=1.0, **more):
    return judge(record(criterion, **more), "C1", {"a": values}, {"broken": control}).word


EXACT = {"reproduced_if": "<= 0.1"}
MEAN = {"reproduced_if": ">= 0.9", "statistic": "mean"}
EVERY = {"reproduced_if": ">= 0.9", "statistic": "every"}
SHARE = {"reproduced_if": ">= 0.5", "statistic": "fraction"}
ROUNDS = {"reproduced_if": ">= 2", "statistic": "median"}


@pytest.mark.parametrize(
    ("criterion", "values", "expected"),
    [
        (EXACT, 0.1, "reproduced"),  # equality counts
        (EXACT, np.nextafter(0.1, 1), "not reproduced"),
        ({"reproduced_if": "< 0.1"}, 0.1, "not reproduced"),
        ({"reproduced_if": "== 961"}, 961, "reproduced"),
        ({"reproduced_if": "== 961"}, 961 + 1e-9, "not reproduced"),
        (EXACT, math.nan, "inconclusive"),
        (EXACT, math.inf, "not reproduced"),
        (EXACT, None, "beyond this scale"),
        (MEAN, [0.9] * 4, "reproduced"),  # no spread, at equality
        (MEAN, [0.99, 0.98, 0.99, 0.97], "reproduced"),
        (MEAN, [0.99, 0.80, 0.99, 0.97], "inconclusive"),  # the interval straddles
        (MEAN, [0.5, 0.51, 0.49, 0.5], "not reproduced"),
        (MEAN, [1.0], "inconclusive"),  # one seed has no interval
        (MEAN, [1.0, 1.0, 1.0], "inconclusive"),  # three are too few
        (MEAN, [0.1, 0.1, 0.1], "inconclusive"),  # too few to refute as well
        (MEAN, [1.0, 1.0, 1.0, math.nan], "inconclusive"),
        (MEAN, [1.0, 1.0, 1.0, math.inf], "inconclusive"),
        (EVERY, [0.9, 0.95, 1.0, 1.0], "reproduced"),
        (EVERY, [0.9, 0.95, 1.0, 0.89], "not reproduced"),
        (EVERY, [1.0], "inconclusive"),
        (EVERY, [0.5], "not reproduced"),  # one counterexample is enough
        (EVERY, [1.0, 1.0, 1.0, math.nan], "inconclusive"),
        (SHARE, [True] * 20, "reproduced"),
        (SHARE, [True, True, True, True], "inconclusive"),  # 4 of 4 allows a share of 0.4
        (SHARE, [False] * 20, "not reproduced"),
        (ROUNDS, [1.0] * 5 + [2.5] * 15, "reproduced"),  # the interval leaves out five at either end
        (ROUNDS, [1.0] * 6 + [2.5] * 14, "inconclusive"),
        (ROUNDS, [1.0] * 30, "not reproduced"),
        (ROUNDS, [2.5] * 15, "inconclusive"),  # the rounds of one run alone
        (ROUNDS, None, "not recorded yet"),
    ],
)
def test_verdict(criterion, values, expected):
    assert word(criterion, values) == expected


@pytest.mark.parametrize("control", [0.5, 0.05, math.nan, None])
@pytest.mark.parametrize("kind", ["baseline", "ablation", "sanity"])
def test_a_rival_that_does_not_fail_leaves_a_claim_open_and_excuses_nothing(control, kind):
    of = {} if kind == "sanity" else {"of": "a"}
    made = record(EXACT, {"kind": kind, "fails_if": "> 0.5", **of})
    met, violated, unclear = (
        judge(made, "C1", {"a": value}, {"broken": control}) for value in (0.05, 0.5, math.nan)
    )
    assert [met.word, unclear.word] == ["inconclusive"] * 2
    assert "broken" in met.reason
    # Where what cannot work does, the measurement itself is in doubt.
    assert violated.word == ("inconclusive" if kind == "sanity" else "not reproduced")


def test_a_control_left_out_was_not_run():
    verdict = judge(record(EXACT), "C1", {"a": 0.0}, {})
    assert (verdict.word, verdict.reason) == ("inconclusive", "control broken: not run")


def test_a_control_must_fail_with_its_whole_interval():
    noisy = {"statistic": "mean", "fails_if": "< 0.9"}
    made = record(EXACT, noisy)
    clear = judge(made, "C1", {"a": 0.0}, {"broken": [0.5, 0.5, 0.5, 0.6]})
    unclear = judge(made, "C1", {"a": 0.0}, {"broken": [0.5, 0.5, 0.5, 1.0]})
    few = judge(made, "C1", {"a": 0.0}, {"broken": [0.5]})
    assert [v.word for v in (clear, unclear, few)] == ["reproduced", "inconclusive", "inconclusive"]


def test_a_claim_whose_condition_does_not_hold_is_inconclusive_whatever_was_measured():
    made = record(EXACT)
    trained = Condition(what="accuracy in training", resolution=0.01, needed=">= 0.9")
    claim = made.claims[0].model_copy(update={"conditions": {"trained": trained}})
    made = made.model_copy(update={"claims": [claim]})

    def judged(a, conditions):
        return judge(made, "C1", {"a": a}, {"broken": 1.0}, conditions)

    assert judged(0.0, {"trained": 0.95}).word == "reproduced"
    for a in (0.0, 1.0):
        verdict = judged(a, {"trained": 0.1})
        assert (verdict.word, verdict.reason) == (
            "inconclusive",
            "condition accuracy in training: does not hold, so the claim cannot be told",
        )
    assert judged(0.0, {}).reason == "condition accuracy in training: not run"
    assert "  condition trained: 0.95; needed >= 0.9: holds" in str(judged(0.0, {"trained": 0.95}))
    with pytest.raises(ValueError, match=r"C1 conditions: expected \['trained'\], got also \['tried'\]"):
        judged(0.0, {"tried": 1.0})


@given(st.integers(6, 60))
def test_the_interval_of_a_median_covers_95_of_100_and_no_narrower_one_does(n):
    quantity = Criterion(what="a", resolution=0.01, statistic="median", reproduced_if="> 0")
    found = rule.estimate(quantity, list(range(1, n + 1)))
    inside = stats.binom.cdf(found.high - 1, n, 0.5) - stats.binom.cdf(found.low - 1, n, 0.5)
    narrower = stats.binom.cdf(found.high - 2, n, 0.5) - stats.binom.cdf(found.low, n, 0.5)
    assert inside >= 0.95 > narrower


def test_an_interval_is_printed_finer_where_its_rounded_end_would_contradict_the_verdict():
    quantity = Criterion(what="a", resolution=0.01, statistic="mean", reproduced_if=">= 0.02")
    found = rule.find("a", quantity, np.linspace(-0.245, 0.163, 20))
    assert (found.state, found.shown) == ("violated", "-0.041 [-0.100, 0.018] (20 seeds)")
    below = Criterion(what="a", resolution=0.1, statistic="every", reproduced_if="<= 0.6")
    assert rule.find("a", below, [0.5, 0.599]).shown == "0.5 to 0.6 (2 seeds)"
    assert rule.find("a", below, [0.5, 0.604]).shown == "0.500 to 0.604 (2 seeds)"
    exact = Criterion(what="a", resolution=0.1, reproduced_if="< 0.6")
    assert rule.find("a", exact, 0.599).shown == "0.6"


def test_the_digest_of_a_claim_changes_with_what_judges_it_and_with_nothing_else():
    claim = record(EXACT).claims[0]
    same = record(EXACT | {"resolution": 0.1}).claims[0].model_copy(update={"statement": "It works."})
    assert rule.digest(same) == rule.digest(claim)
    for other in (
        record({"reproduced_if": "<= 0.2"}),
        record(EXACT | {"min_seeds": 5}),
        record(EXACT | {"what": "another"}),
        record(EXACT, {"fails_if": "> 0.6"}),
    ):
        assert rule.digest(other.claims[0]) != rule.digest(claim)


def test_violated_outranks_unmeasured_and_unmeasured_outranks_open():
    second = Criterion(what="b", resolution=0.01, statistic="mean", reproduced_if=">= 0.9")
    made = record(EXACT, b=second)

    def judged(a, b):
        return judge(made, "C1", {"a": a, "b": b}, {"broken": 1.0}).word

    assert judged(0.5, None) == "not reproduced"
    assert judged(0.0, None) == "beyond this scale"
    assert judged(None, [1.0]) == "beyond this scale"
    assert judged(0.0, [1.0]) == "inconclusive"
    assert judged(math.nan, [0.1] * 4) == "not reproduced"


GAIN = {"statistic": "mean", "reproduced_if": ">= 0.5"}
LOW = {"statistic": "mean", "fails_if": "< 0.5"}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("baseline", "reproduced"), ("ablation", "reproduced"), ("sanity", "inconclusive")],
)
def test_a_sanity_control_earns_nothing(kind, expected):
    of = None if kind == "sanity" else "a"
    made = record(GAIN, LOW | {"kind": kind, "of": of})
    verdict = judge(made, "C1", {"a": [0.9, 0.8, 0.9, 0.8]}, {"broken": [0.1, 0.2, 0.1, 0.1]})
    assert verdict.word == expected
    assert f"{kind.capitalize()}: broken" in verdict.to_html()


def test_two_arms_with_the_very_same_numbers_are_refused():
    values = [0.9, 0.8, 0.9, 0.8]
    twins = {"b": Criterion(what="b", resolution=0.01, statistic="mean", reproduced_if="> 0")}
    made = record(GAIN, LOW, **twins)
    control = {"broken": [0.1, 0.2, 0.1, 0.1]}
    verdict = judge(made, "C1", {"a": values, "b": list(values)}, control)
    assert (verdict.word, verdict.reason) == ("inconclusive", "two arms with the very same numbers: a; b")
    # What is the same number at every seed may well be that number of both.
    assert judge(made, "C1", {"a": [1.0] * 4, "b": [1.0] * 4}, control).word == "reproduced"


@pytest.mark.parametrize(
    ("values", "expected"), [(0.0, "holds"), (0.2, "fails"), (math.nan, "fails"), (None, "beyond this scale")]
)
def test_a_check_holds_or_fails_and_needs_no_control(values, expected):
    made = record(EXACT)
    criteria = made.claim("C1").criteria
    sanity = {"broken": Control(what="broken", kind="sanity", resolution=1, fails_if="> 0.5")}
    for controls in ({}, sanity):
        check = Claim(id="C1", statement="It adds up.", check=True, criteria=criteria, controls=controls)
        one = made.model_copy(update={"claims": [check]})
        verdict = judge(one, "C1", {"a": values}, dict.fromkeys(controls, 1.0))
        assert verdict.word == expected
    assert f"check: {expected}" in verdict.to_html()


def test_a_card_tells_clause_source_expectation_and_what_it_was_before():
    made = record(EXACT | {"source": "paper: Table 2"})
    claim = made.claim("C1").model_copy(
        update={
            "expected": Expected(word="reproduced", basis="There is a proof."),
            "before": [Earlier(word="inconclusive", date=date(2026, 1, 2), why="A control was wrong.")],
        }
    )
    clause = Clause(clause="It is the best.", claims=["C1"])
    made = made.model_copy(update={"claims": [claim], "abstract": [clause]})
    html = judge(made, "C1", {"a": 0.0}, {"broken": 1.0}).to_html()
    for words in (
        "The abstract: It is the best.",
        "<small>paper: Table 2</small>",
        "Expected before the run that judges: reproduced. There is a proof.",
        "Until 2026-01-02 it was inconclusive. A control was wrong.",
    ):
        assert words in html


def test_fisher_against_scipy_and_with_too_few_seeds():
    spec = {"statistic": "fisher", "reproduced_if": "< 0.05", "min_seeds": 20}
    less, more = [True] * 5 + [False] * 15, [True] * 20
    verdict = judge(record(spec), "C1", {"a": (less, more)}, {"broken": 1.0})
    assert verdict.word == "reproduced"
    expected = stats.fisher_exact([[5, 15], [20, 0]], alternative="less").pvalue
    assert verdict.findings[0].estimate.value == pytest.approx(expected)
    assert word(spec, (more, more)) == "not reproduced"
    assert word(spec, (less[:4], more[:4])) == "inconclusive"
    assert (
        "too few seeds (4 of 20)"
        in judge(record(spec), "C1", {"a": (less[:4], more[:4])}, {"broken": 1.0}).reason
    )


@pytest.mark.parametrize(
    ("criterion", "values", "message"),
    [
        (EXACT, [0.1, 0.1], "exact needs one number"),
        (MEAN, 0.9, "mean needs one number per seed"),
        (EVERY, [], "every needs one number per seed"),
        (SHARE, [0.3, 0.4], "fraction needs truth values"),
        ({"statistic": "fisher", "reproduced_if": "< 0.05"}, ([1.5], [1]), "fisher needs two groups"),
    ],
)
def test_values_of_the_wrong_shape_are_refused(criterion, values, message):
    with pytest.raises(ValueError, match=message):
        word(criterion, values)


def test_wrong_names_are_refused():
    made = record(EXACT)
    with pytest.raises(ValueError, match=r"expected \['a'\], got \[\]"):
        judge(made, "C1", {}, {"broken": 1.0})
    with pytest.raises(ValueError, match=r"expected \['broken'\], got also \['other'\]"):
        judge(made, "C1", {"a": 0.0}, {"other": 1.0})
    with pytest.raises(ValueError, match="no claim 'C7'"):
        judge(made, "C7", {}, {})
    with pytest.raises(ValueError, match="no criteria in its record"):
        judge(made, "C2", {}, {})


@given(st.lists(st.floats(-10, 10), min_size=4, max_size=30), st.floats(-10, 10))
def test_mean_interval_is_scipys(values, threshold):
    quantity = Criterion(what="a", resolution=0.01, statistic="mean", reproduced_if=f">= {threshold}")
    got = rule.estimate(quantity, values)
    if np.std(values, ddof=1) > 1e-6:
        low, high = stats.t.interval(
            0.95, len(values) - 1, loc=np.mean(values), scale=np.std(values, ddof=1) / len(values) ** 0.5
        )
        assert (got.low, got.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))
    assert got.low <= got.value <= got.high


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_reproduced_exact_claim_never_survives_the_baseline_in_its_place(mechanism, baseline):
    """Where the control is the claim's own negation, mechanism and baseline cannot swap verdicts."""
    made = record({"reproduced_if": "<= 0.5"}, {"fails_if": "> 0.5"})
    straight = judge(made, "C1", {"a": mechanism}, {"broken": baseline}).word
    swapped = judge(made, "C1", {"a": baseline}, {"broken": mechanism}).word
    assert straight != "reproduced" or swapped != "reproduced"


@pytest.mark.parametrize(
    ("value", "resolution", "text"),
    [
        (0.99642, 0.01, "1.00"),
        (0.5041, 0.01, "0.50"),
        (-0.001, 0.01, "0.00"),
        (3e-16, 1e-12, "below 1e-12"),
        (0.0, 1e-5, "below 1e-05"),
        (2.34e-5, 1e-6, "2.3e-05"),
        (961, 1, "961"),
        (1938.2, 1, "1938"),
        (144.31, 0.1, "144.3"),
        (7.0, 0.5, "7.0"),
        (math.inf, 1, "∞"),
        (-math.inf, 1, "−∞"),
        (math.nan, 1, "not a number"),
    ],
)
def test_rounding(value, resolution, text):
    assert rule.show(value, resolution) == text


def test_three_faces():
    verdict = judge(record(EXACT), "C1", {"a": math.inf}, {"broken": 1.0}, profile="quick")
    data, metadata = verdict._repr_mimebundle_()
    assert data["text/plain"].splitlines() == [
        "C1 not reproduced: violated: a",
        "  criterion a: ∞; threshold <= 0.1: violated",
        "  control broken: 1.00; must be > 0.5: fails, as it must",
    ]
    assert "id='a_paper-C1'" in data["text/html"]
    assert "≤ 0.1" in data["text/html"]
    face = metadata["fourfold"]
    assert (face["verdict"], face["profile"], face["findings"][0]["values"]) == (
        "not reproduced",
        "quick",
        "inf",
    )
    json.dumps(face, allow_nan=False)


def notebook(path, outputs, **metadata):
    node = nbformat.v4.new_notebook()
    metadata = metadata or {"papermill": {"status": "completed"}}
    node.cells = [nbformat.v4.new_code_cell("judge", outputs=outputs, metadata=metadata)]
    nbformat.write(node, path)
    return path


def test_verdicts_travel_through_an_executed_notebook_into_the_table(tmp_path):
    made = record(EXACT)
    verdict = judge(made, "C1", {"a": 0.0}, {"broken": 1.0})
    data, metadata = verdict._repr_mimebundle_()
    output = nbformat.v4.new_output("execute_result", data, metadata=metadata, execution_count=1)
    ran = notebook(tmp_path / "ran.ipynb", [output])
    (face,) = executed.faces(ran, "verdict")
    assert face == verdict.to_metadata()
    assert executed.faces(ran, "run") == []

    run = {"profile": "full", "parameters": made.values("full"), "verdicts": [face]}
    full = {"a_paper": run | {"stale": ["fourfold.bench4f.light"]}}
    rows = ledger_page.collect([made], {"a_paper": [face]}, {}, full)
    assert rows.verdict.tolist() == ["reproduced", "not judged yet"]
    assert rows.full.tolist() == ["reproduced", ""]
    assert rows.full_stale.tolist() == ["fourfold.bench4f.light", ""]
    # A full run that was judged by other criteria says nothing of today's.
    full["a_paper"]["verdicts"] = [face | {"criteria": "0123456789abcdef"}]
    assert ledger_page.collect([made], {"a_paper": [face]}, {}, full).full.tolist() == ["", ""]
    assert rows.evidence.tolist() == ["exact", ""]
    assert rows.stale.tolist() == ["", ""]
    assert ledger_page.collect([made], {}, {}, {}).verdict.tolist() == ["not judged yet"] * 2


def test_a_failed_silent_or_stuttering_chapter_is_refused(tmp_path):
    for unfinished in ({"papermill": {"status": s}} for s in ("failed", "running", "pending", None)):
        with pytest.raises(ValueError, match="did not run to its end"):
            executed.faces(notebook(tmp_path / "ran.ipynb", [], **unfinished), "verdict")
    with pytest.raises(ValueError, match="did not run to its end"):
        executed.faces(notebook(tmp_path / "ran.ipynb", [], tags=["never executed"]), "verdict")
    made = record(EXACT)
    assert ledger_page.collect([made], {}, {}, {}, failed={"a_paper"}).verdict.tolist() == ["did not run"] * 2
    with pytest.raises(ValueError, match="never judges C1"):
        ledger_page.collect([made], {"a_paper": []}, {}, {})
    face = judge(made, "C1", {"a": 0.0}, {}).to_metadata()
    with pytest.raises(ValueError, match="judges a claim twice"):
        ledger_page.collect([made], {"a_paper": [face, face]}, {}, {})
