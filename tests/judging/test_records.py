"""Records: every file on disk is valid, and a wrong one says where and what was expected."""

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fourfold.judging import records
from fourfold.judging.records import PAPERS, RecordError, Region

from .made_up import ABOUT

GOOD = ABOUT | {
    "arxiv": "2504.11517",
    "claims": [
        {
            "id": "C1",
            "statement": "It works well.",
            "criteria": {"error": {"what": "error", "resolution": 1e-3, "reproduced_if": "<= 0.1"}},
            "controls": {"broken": {"what": "error, broken", "resolution": 1e-3, "fails_if": "> 0.1"}},
        }
    ],
    "parameters": {
        "seed": {"type": "int", "meaning": "first seed", "quick": 5, "full": 5, "min": 0, "max": 9}
    },
}


def written(tmp_path, **changes):
    path = tmp_path / "a_paper.yml"
    path.write_text(yaml.safe_dump(GOOD | changes), encoding="utf-8")
    return path


def test_good_record(tmp_path):
    record = records.read(written(tmp_path))
    assert record.has_chapter
    assert record.claim("C1").criteria["error"].seeds_needed == 1
    assert 0.1 in record.claim("C1").criteria["error"].reproduced_if
    with pytest.raises(ValueError, match="no claim 'C9'; its claims are C1"):
        record.claim("C9")


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"part": "optic"}, "part", "'optics'"),
        ({"arxiv": 2504.11517}, "arxiv", "string"),
        ({"year": "2025"}, "year", "integer"),
        ({"colour": "blue"}, "colour", "not permitted"),
        ({"title": None}, "title", "string"),
        ({"claims": []}, "claims", "at least 1"),
        ({"idea": "no full stop at the end"}, "idea", "pattern"),
        ({"claims": GOOD["claims"] * 2}, "record", "claim ids must differ"),
        ({"parameters": {}}, "record", "needs parameters"),
        (
            {"parameters": {"n": {"type": "int", "meaning": "m", "quick": 1, "full": 1, "min": 0}}},
            "parameters.n",
            "min and max",
        ),
        ({"claims": [{**GOOD["claims"][0], "controls": {}}]}, "claims.0", "come together"),
        ({"slug": "another"}, "slug", "the file's name"),
    ],
)
def test_wrong_field_names_file_field_and_expectation(tmp_path, changes, field, expected):
    with pytest.raises(RecordError) as error:
        records.read(written(tmp_path, **changes))
    message = str(error.value)
    assert message.startswith(f"a_paper.yml: {field}")
    assert expected in message


def test_wrong_threshold_is_named(tmp_path):
    claim = {
        **GOOD["claims"][0],
        "criteria": {"error": {"what": "e", "resolution": 1, "reproduced_if": "small"}},
    }
    with pytest.raises(RecordError, match=r"claims\.0\.criteria\.error\.reproduced_if.*expected a threshold"):
        records.read(written(tmp_path, claims=[claim]))


CRITERIA = {"gain": {"what": "gain", "statistic": "mean", "resolution": 0.1, "reproduced_if": ">= 0.5"}}


def claim(**changes):
    return {"id": "C1", "statement": "It works well.", "criteria": CRITERIA} | changes


def test_a_control_of_a_criterion_measures_it_and_fails_outside_of_its_region(tmp_path):
    controls = {"blur": {"kind": "baseline", "of": "gain", "what": "the same for a blur"}}
    seed = GOOD["parameters"]["seed"]
    parameters = {"seed": seed, "seeds": seed | {"recorded": 9}}
    made = claim(controls=controls)
    blur = records.read(written(tmp_path, claims=[made], parameters=parameters)).claim("C1").controls["blur"]
    assert (blur.statistic, blur.resolution, str(blur.fails_if)) == ("mean", 0.1, "< 0.5")
    stricter = claim(controls={"blur": controls["blur"] | {"fails_if": "< 0.2"}})
    record = records.read(written(tmp_path, claims=[stricter], parameters=parameters))
    assert str(record.claim("C1").controls["blur"].fails_if) == "< 0.2"


CONTROL = {"kind": "baseline", "of": "gain", "what": "a blur"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"controls": {"blur": CONTROL | {"fails_if": "< 0.6"}}}, "may fail where gain is met: < 0.6"),
        ({"controls": {"blur": CONTROL | {"of": "loss"}}}, "is of 'loss'; the criteria are gain"),
        ({"controls": {"blur": CONTROL | {"kind": "sanity"}}}, "says which criterion"),
        (
            {
                "controls": {
                    "blur": {"kind": "ablation", "what": "a", "resolution": 1, "fails_if": "< 1"},
                }
            },
            "says which criterion",
        ),
        ({"check": True, "mutation": "none"}, "a check has criteria, and neither"),
        ({"check": True, "criteria": {}}, "a check has criteria, and neither"),
        ({"controls": {"blur": CONTROL}, "kind": "belief"}, "'identity', 'property'"),
        ({"controls": {"blur": CONTROL}, "expected": {"word": "true", "basis": "A pilot."}}, "'reproduced'"),
        (
            {
                "controls": {"blur": CONTROL},
                "criteria": {"gain": CRITERIA["gain"] | {"source": "we like it"}},
            },
            "pattern",
        ),
    ],
)
def test_what_a_claim_cannot_be_is_refused(tmp_path, changes, expected):
    with pytest.raises(RecordError) as error:
        records.read(written(tmp_path, claims=[claim(**changes)]))
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("clause", "expected"),
    [
        ({"clause": "It works well.", "claims": ["C1"]}, None),
        ({"clause": "It is loved.", "why_not": "Nobody was asked."}, None),
        ({"clause": "It works well."}, "one of the two"),
        ({"clause": "It works well.", "claims": ["C1"], "why_not": "Too hard to say."}, "one of the two"),
        ({"clause": "It works well.", "claims": ["C2"]}, "names C2, which is no claim"),
        ({"clause": "It works well.", "claims": ["C3"]}, "only checks our rebuilding"),
    ],
)
def test_a_clause_is_carried_by_claims_or_says_why_not(tmp_path, clause, expected):
    check = {**GOOD["claims"][0], "id": "C3", "check": True}
    path = written(tmp_path, abstract=[clause], claims=[*GOOD["claims"], check])
    if expected is None:
        assert records.read(path).abstract[0].clause == clause["clause"]
        return
    with pytest.raises(RecordError, match=expected):
        records.read(path)


def test_broken_yaml_and_missing_record(tmp_path):
    path = tmp_path / "a_paper.yml"
    path.write_text("slug: [", encoding="utf-8")
    with pytest.raises(RecordError, match=r"a_paper\.yml: not valid YAML"):
        records.read(path)
    with pytest.raises(RecordError, match=r"no record 'nothing' in data/papers$"):
        records.load("nothing")
    with pytest.raises(RecordError, match="did you mean 'convsharevit'"):
        records.load("ConvShareVit")


def test_a_key_written_twice_is_refused_and_one_merged_in_may_be_written_again(tmp_path):
    path = tmp_path / "a_paper.yml"
    path.write_text("a: 1\nb: {c: 2, d: 3, c: 4}\n", encoding="utf-8")
    with pytest.raises(RecordError, match=r"a_paper\.yml: .*'c' stands there twice(.|\n)*line 2, column 17"):
        records.read_yaml(path)
    path.write_text("a: &a {c: 2, d: 3}\nb: {<<: *a, c: 4}\n", encoding="utf-8")
    assert records.read_yaml(path)["b"] == {"c": 4, "d": 3}


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("<= 1e-5", [1e-5, 0, -math.inf], [1.1e-5, math.inf]),
        ("< 0.9", [0.8], [0.9, 1]),
        (">= .9", [0.9, 1, math.inf], [0.89]),
        ("> 0", [1e-300], [0, -1]),
        ("== 961", [961], [960, 962]),
        ("in [5.32, 6.72]", [5.32, 6, 6.72], [5.31, 6.73]),
    ],
)
def test_region_edges(text, inside, outside):
    region = Region(text)
    assert all(value in region and not region.disjoint(value, value) for value in inside)
    assert all(value not in region and region.disjoint(value, value) for value in outside)
    assert math.nan not in region
    assert str(region) == text


@pytest.mark.parametrize("text", ["", "0.9", "=> 1", "<= one", "in [2, 1]", "in (1, 2)", "<= 1 or > 2"])
def test_region_rejects(text):
    with pytest.raises(ValueError, match=r"expected a threshold|empty range"):
        Region(text)


@given(
    st.floats(-1e6, 1e6),
    st.floats(0, 1e3),
    st.sampled_from(["<", "<=", ">", ">=", "=="]),
    st.floats(-1e6, 1e6),
)
def test_interval_is_never_both_inside_and_disjoint(low, width, relation, number):
    region = Region(f"{relation} {number}")
    high = low + width
    assert not (low in region and high in region and region.disjoint(low, high))


@given(st.floats(-9, 9), st.floats(0, 9), st.sampled_from(["<= 1", "< 1", "> 1", "== 1", "in [0, 2]"]))
def test_the_complement_holds_what_the_region_does_not(low, width, text):
    region = Region(text)
    other = Region(region.complement)
    assert Region(other.complement).covers(low, low + width) == region.covers(low, low + width)
    assert other.covers(low, low + width) == region.disjoint(low, low + width)
    assert region.apart_from(other)
    assert other.apart_from(region)
    assert not region.apart_from(region)


def test_every_record_is_valid_and_every_paper_has_one():
    everything = records.load_all()
    assert len(everything) == len(list(PAPERS.glob("*.yml")))
    papers = [record for record in everything if not record.companion]
    assert len(papers) == 51
    assert len({record.arxiv for record in papers}) == 51
    assert len({record.title for record in papers}) == len({record.name for record in papers}) == 51


def test_claims_are_said_once_and_plainly():
    statements = [claim.statement for record in records.load_all() for claim in record.claims]
    assert len(set(statements)) == len(statements)
    assert not [s for s in statements if "TODO" in s or "$" in s or len(s) > 400]


def test_papers_per_part():
    counts = {part: 0 for part in records.PARTS}
    for record in records.load_all():
        counts[record.part] += not record.companion
    assert counts == {
        "optics": 4, "frequency": 6, "hybrids": 11, "efficiency": 8, "restoration": 8, "theory": 14
    }  # fmt: skip


def test_every_abstract_is_cut_into_clauses():
    assert not [record.slug for record in records.load_all() if not record.abstract]


@pytest.mark.parametrize("slug", ["channelvit", "cvt", "dhvt", "glmix", "h_denseunet", "smt"])
def test_claims_about_trained_networks_need_trained_networks(slug):
    claims = [claim for claim in records.load(slug).claims if "recorded" in claim.evidence]
    assert claims
    assert all("trained" in claim.conditions for claim in claims)


@pytest.mark.parametrize("record", records.chapters(), ids=lambda record: record.slug)
def test_a_chapters_record_says_what_a_referee_asks(record):
    for claim in record.claims:
        assert claim.criteria, f"{claim.id} is not judged: it belongs into a clause with why_not"
        assert claim.kind, claim.id
        assert all(criterion.source for criterion in claim.criteria.values()), claim.id
        assert all(control.kind for control in claim.controls.values()), claim.id
        if not claim.check:
            assert claim.expected, claim.id
