"""Evidence in a whole book: a verdict is the recorded one, and a changed mechanism is noticed."""

import json

from .small_book import faces


def card(book, claim):
    """The machine face of a claim of dice, and its row in the ledger."""
    (face,) = [f for f in faces(book.executed("theory/dice"), "verdict") if f["claim"] == claim]
    rows = json.loads((book.html / "downloads" / "ledger.json").read_text(encoding="utf-8"))
    return face, next(row for row in rows if (row["slug"], row["claim"]) == ("dice", claim))


def test_a_build_notices_a_mechanism_without_its_heart_and_keeps_the_recorded_word(built):
    before, row = card(built, "C1")
    assert (row["verdict"], row["evidence"], row["stale"]) == ("reproduced", "recorded", "")
    assert [f["spot_check"]["agrees"] for f in before["findings"]] == [True, True]

    # The die loses its one, as the control's has.
    built.edit("src/fourfold/theory/dice.py", "integers(faces[0],", "integers(max(faces[0], 2),")
    built.build()
    after, row = card(built, "C1")
    assert (row["verdict"], row["stale"]) == ("reproduced", "throw")
    mean, loaded = (f["spot_check"] for f in after["findings"])
    assert (mean["agrees"], loaded["agrees"]) == (False, True)
    page = (built.html / "chapters" / "theory" / "dice.html").read_text(encoding="utf-8")
    assert mean["words"] in page
    assert "This copy's run disagrees with the record in C1" in page


def test_a_run_recorded_under_another_threshold_is_refused(built):
    built.edit("data/papers/dice.yml", 'reproduced_if: "in [3.4, 3.6]"', 'reproduced_if: "in [3.3, 3.7]"')
    built.build()
    face, row = card(built, "C1")
    assert (face["verdict"], row["verdict"]) == ("not recorded yet", "not recorded yet")
    assert card(built, "C2")[0]["verdict"] == "not reproduced"
