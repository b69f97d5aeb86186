"""Evidence in a whole book: a verdict is the recorded one, and a changed mechanism is noticed."""

import json

import pytest

from .small_book import SmallBook, faces


def card(book, claim):
    """The machine face of a claim of dice, and its row in the ledger."""
    (face,) = [f for f in faces(book.executed("theory/dice"), "verdict") if f["claim"] == claim]
    rows = json.loads((book.html / "downloads" / "ledger.json").read_text(encoding="utf-8"))
    return face, next(row for row in rows if (row["slug"], row["claim"]) == ("dice", claim))


@pytest.fixture(scope="module")
def changed(reference, tmp_path_factory) -> SmallBook:
    """A built book whose die has lost its one, as the control's has, and whose second claim asks for less."""
    book = reference.copy(tmp_path_factory.mktemp("changed") / "book")
    book.edit("src/fourfold/theory/dice.py", "integers(faces[0],", "integers(max(faces[0], 2),")
    book.edit("data/papers/dice.yml", 'reproduced_if: "> 0.5"', 'reproduced_if: "> 0.4"')
    book.build()
    return book


def test_a_build_notices_a_mechanism_without_its_heart_and_keeps_the_recorded_word(reference, changed):
    before, row = card(reference, "C1")
    assert (row["verdict"], row["evidence"], row["stale"]) == ("reproduced", "recorded", "")
    assert [f["spot_check"]["agrees"] for f in before["findings"]] == [True, True]

    after, row = card(changed, "C1")
    assert (row["verdict"], row["stale"]) == ("reproduced", "throw, criteria")
    mean, loaded = (f["spot_check"] for f in after["findings"])
    assert (mean["agrees"], loaded["agrees"]) == (False, True)
    page = (changed.html / "chapters" / "theory" / "dice.html").read_text(encoding="utf-8")
    assert mean["words"] in page
    assert "This copy's run disagrees with the record in C1" in page


def test_a_run_recorded_under_another_threshold_is_refused(reference, changed):
    assert card(reference, "C2")[0]["verdict"] == "not reproduced"
    face, row = card(changed, "C2")
    assert (face["verdict"], row["verdict"]) == ("not recorded yet", "not recorded yet")
