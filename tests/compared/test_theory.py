"""Predicted against measured: every prediction names a finding that exists, and a miss is what it says."""

import math

import pytest
import yaml
from pydantic import ValidationError

from fourfold.compared import theory
from fourfold.judging import records
from fourfold.recorded import executed

KNOWN = {
    "paper": "snn",
    "claim": "C3",
    "finding": "variance",
    "quantity": "a variance",
    "predicted": 1,
    "scale": "constant",
    "by": "proof",
    "sizes": "50 layers",
}


def predicted(**other):
    return theory.Prediction.model_validate(KNOWN | other)


@pytest.fixture
def ran(monkeypatch):
    """A run of SNN whose one finding is given."""

    def run(low, value, high):
        estimate = {"low": low, "value": value, "high": high}
        face = {
            "claim": "C3",
            "verdict": "reproduced",
            "findings": [{"name": "variance", "estimate": estimate}],
        }
        monkeypatch.setattr(executed, "faces", lambda notebook, kind: [face])

    return run


@pytest.mark.parametrize("prediction", theory.load(), ids=lambda p: f"{p.paper}-{p.claim}-{p.finding}")
def test_a_prediction_names_a_criterion_that_exists(prediction):
    (record,) = (record for record in records.chapters() if record.slug == prediction.paper)
    (claim,) = (claim for claim in record.claims if claim.id == prediction.claim)
    assert prediction.finding in claim.criteria


def test_no_quantity_stands_twice():
    names = [(p.paper, p.claim, p.finding) for p in theory.load()]
    assert len(names) == len(set(names))
    quantities = [p.quantity for p in theory.load()]
    assert len(quantities) == len(set(quantities))


@pytest.mark.parametrize(
    ("end", "estimate", "miss"),
    [
        ("", (0.9, 1.0, 1.1), 0),
        ("", (1.2, 1.3, 1.4), 0.2),
        ("", (0.5, 0.6, 0.7), 0.3),
        ("", (0.75, 0.75, 0.75), 0.25),
        ("high", (1.4, 1.5, 1.6), 0),
        ("high", (0.4, 0.5, 0.6), 0.4),
        ("low", (0.4, 0.5, 0.6), 0),
        ("low", (1.4, 1.5, 1.6), 0.4),
    ],
)
def test_a_miss_is_the_distance_from_what_is_open_or_measured(ran, end, estimate, miss):
    ran(*estimate)
    (row,) = theory.measured([predicted(end=end)]).itertuples()
    assert row.miss == pytest.approx(miss)
    assert row.low <= row.value <= row.high
    assert math.isinf(row.low) == (end == "high")
    assert math.isinf(row.high) == (end == "low")


@pytest.mark.parametrize(
    ("other", "words"),
    [({"paper": "nobody"}, "nobody"), ({"claim": "C99"}, "C99"), ({"finding": "other"}, "'other'")],
)
def test_what_is_not_there_is_named(ran, other, words):
    ran(1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match=words):
        theory.measured([predicted(**other)])


@pytest.mark.parametrize("other", [{"by": "hope"}, {"scale": "ratio"}, {"predicted": "one"}, {"colour": 1}])
def test_an_entry_that_is_not_as_it_should_be_is_refused(tmp_path, other):
    file = tmp_path / "predictions.yml"
    file.write_text(yaml.safe_dump([KNOWN | other]))
    with pytest.raises(ValidationError, match=next(iter(other))):
        theory.load(file)


@pytest.mark.parametrize("ratio", [False, True])
def test_a_row_a_prediction_is_drawn(ran, ratio):
    ran(1.0, 1.5, 2.0)
    found = theory.measured([predicted(), predicted(quantity="another", end="low", by="fit")])
    (axes,) = theory.drawn(found, "constant", ratio=ratio).axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["another", "a variance"]
    rings = [line for line in axes.lines if line.get_fillstyle() == "none"]
    assert [list(line.get_xdata()) for line in rings] == [[1.0], [1.0]]
