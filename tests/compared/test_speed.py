"""Promised speed: every promise names findings that exist, and a ratio is who it says over whom."""

import pytest
import yaml
from pydantic import ValidationError

from fourfold.compared import speed
from fourfold.judging import records
from fourfold.recorded import executed

KNOWN = {
    "paper": "sit",
    "claim": "C3b",
    "finding": "best",
    "quantity": "SiT",
    "promised": 1.7,
    "machine": "GPU",
}


@pytest.mark.parametrize("promise", speed.load(), ids=lambda p: f"{p.paper}-{p.claim}-{p.finding}")
def test_a_promise_names_a_criterion_and_a_control_of_it(promise):
    (record,) = (record for record in records.chapters() if record.slug == promise.paper)
    (claim,) = (claim for claim in record.claims if claim.id == promise.claim)
    assert promise.finding in claim.criteria
    if promise.beside:
        assert claim.controls[promise.beside].of == promise.finding


def test_no_quantity_stands_twice():
    quantities = [p.quantity for p in speed.load()]
    assert len(quantities) == len(set(quantities))


def test_what_stands_beside_a_promise_is_measured_and_named(monkeypatch):
    def estimate(value):
        return {"low": value - 0.1, "value": value, "high": value + 0.1}

    names = {"best": estimate(1.6), "pooled": estimate(1.8)}
    findings = [{"name": name, "estimate": found} for name, found in names.items()]
    face = {"claim": "C3b", "verdict": "inconclusive", "findings": findings}
    monkeypatch.setattr(executed, "faces", lambda notebook, kind: [face])
    alone, beside = (
        speed.Promise.model_validate(KNOWN | other)
        for other in ({}, {"beside": "pooled", "beside_is": "averaging"})
    )
    rows = speed.measured([alone, beside])
    assert rows.value.tolist() == [1.6, 1.6]
    assert rows.other.isna().tolist() == [True, False]
    assert rows.other[1] == 1.8
    shown = speed.table(rows)
    assert shown["beside it"].tolist() == ["", "1.8: averaging"]
    assert shown.promised.tolist() == ["1.7 (GPU)"] * 2
    assert shown["timed here"].tolist() == ["1.6 [1.5, 1.7]"] * 2
    assert "sit.html#sit-C3b" in shown.chapter[0]
    with pytest.raises(ValueError, match="has no finding 'late'"):
        speed.measured([speed.Promise.model_validate(KNOWN | {"beside": "late", "beside_is": "late"})])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"machine": "none"}, "promised must be 1"),
        ({"promised": 0}, "greater than 0"),
        ({"beside": "pooled"}, "belong together"),
        ({"speed": 3}, "Extra"),
    ],
)
def test_a_bad_entry_is_named(tmp_path, bad, message):
    file = tmp_path / "speeds.yml"
    file.write_text(yaml.safe_dump([KNOWN | bad]))
    with pytest.raises(ValidationError, match=message):
        speed.load(file)


ROWS = [
    {"who": "slow", "tokens": 16, "rounds": [4.0, 2.0, 100.0]},
    {"who": "fast", "tokens": 16, "rounds": [1.0, 2.0, 1.0]},
    {"who": "slow", "tokens": 64, "rounds": [8.0, 8.0, 8.0]},
    {"who": "fast", "tokens": 256, "rounds": [1.0, 1.0, 1.0]},
]


def test_speed_is_the_other_s_time_over_the_arm_s_where_both_were_timed():
    (row,) = speed.over(ROWS, "slow", arm="who", at="tokens", times="rounds").to_dict("records")
    assert row == {"who": "fast", "tokens": 16, "times as fast": 4.0}
    with pytest.raises(ValueError, match=r"one must be one of \['fast', 'slow'\], got 'none'"):
        speed.over(ROWS, "none", arm="who", at="tokens", times="rounds")
