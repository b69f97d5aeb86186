"""Opening a chapter: checked parameters, the right profile, and faces that travel in the notebook."""

import json

import pytest

from fourfold import open_chapter, training
from fourfold.book import cover
from fourfold.judging import records
from fourfold.judging.parameters import ParameterError
from fourfold.recorded import evidence

RECORD = records.load("convsharevit")
QUICK = RECORD.values("quick")


@pytest.fixture(autouse=True)
def _leave_torch_as_it_is(monkeypatch):
    monkeypatch.setattr(training, "deterministic", lambda: None)


def test_quick_full_and_custom_runs_say_what_they_are():
    full = RECORD.values("full")
    assert str(open_chapter("convsharevit", QUICK)) == "convsharevit, quick run: quick parameters"
    recorded = open_chapter("convsharevit", RECORD.values("recorded"))
    assert str(recorded) == "convsharevit, recorded run: seeds = 60"
    assert open_chapter("convsharevit", full).profile == "full"
    custom = open_chapter("convsharevit", QUICK | {"seed": 7, "sign": "offset"})
    assert str(custom) == "convsharevit, custom run: seed = 7, sign = 'offset'"


def test_run_face_has_parameters_machine_and_versions_and_the_page_does_not():
    data, metadata = open_chapter("convsharevit", QUICK)._repr_mimebundle_()
    face = metadata["fourfold"]
    assert (face["kind"], face["paper"], face["parameters"]) == ("run", "convsharevit", QUICK)
    assert {"processor", "kernels", "cores", "python", "started"} <= face.keys()
    assert face["versions"]["torch"].startswith("2.13.0")
    assert face["processor"] not in data["text/plain"] + data["text/html"]
    json.dumps(metadata, allow_nan=False)


def test_kept_results_travel_in_metadata_alone():
    kept = open_chapter("convsharevit", QUICK).keep("recall", {"epochs": [float("inf"), 3.0]})
    data, metadata = kept._repr_mimebundle_()
    assert data == {"text/plain": "kept: recall"}
    assert metadata["fourfold"]["data"] == {"epochs": ["inf", 3.0]}
    json.dumps(metadata, allow_nan=False)


def test_a_chapter_judges_by_its_own_record():
    criteria = dict.fromkeys(RECORD.claim("C5b").criteria)
    verdict = open_chapter("convsharevit", QUICK).judge("C5b", criteria, {})
    assert (verdict.paper, verdict.profile, verdict.word) == ("convsharevit", "quick", "beyond this scale")


def test_a_build_takes_its_verdict_from_the_record_and_any_other_run_from_itself(monkeypatch):
    claim = next(claim for claim in RECORD.claims if claim.evidence == ["recorded"])
    values = {kind: {name: [1.0] * 20 for name in named} for kind, named in claim.quantities.items()}
    given = (claim.id, values["criterion"], values["control"], values["condition"])
    twenty = open_chapter("convsharevit", RECORD.values("recorded")).judge(*given)
    run = {
        "profile": "recorded",
        "parameters": RECORD.values("recorded"),
        "started": "2026-01-02",
        "processor": "A CPU",
    }
    monkeypatch.setattr(evidence, "read", lambda slug, tier: None)
    assert open_chapter("convsharevit", QUICK).judge(*given).word == "not recorded yet"
    custom = open_chapter("convsharevit", QUICK | {"seed": 7}).judge(*given)
    assert (custom.word, custom.findings) == (twenty.word, twenty.findings)
    kept = run | {"verdicts": [twenty.to_metadata()]}
    monkeypatch.setattr(evidence, "read", lambda slug, tier: kept if tier == "recorded" else None)
    quick = open_chapter("convsharevit", QUICK).judge(*given)
    assert (quick.word, quick.basis) == (
        twenty.word,
        f"Recorded: {evidence.seeds(RECORD.values('recorded'))}, 2026-01-02, A CPU.",
    )
    assert {check.agrees for check in quick.spot_checks} <= {True, None}


def test_what_cannot_be_opened():
    with pytest.raises(records.RecordError, match="no record 'nothing'"):
        open_chapter("nothing", QUICK)
    with pytest.raises(ParameterError, match=r"p = 9: expected int, 8 \| 16 \| 32"):
        open_chapter("convsharevit", QUICK | {"p": 9})


def test_the_cover_is_one_picture_of_three_planes_with_words_for_those_who_cannot_see_it():
    picture = cover.cover()
    assert picture.count("<image ") == 3
    assert 'role="img" aria-label="Light from a plane' in picture
    assert "http" not in picture.replace('xmlns="http://www.w3.org/2000/svg"', "")
