"""What holds up: shares of decided claims, exact intervals, and every claim a square that opens a card."""

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from fourfold.book import holding, ledger_page
from fourfold.judging import records, rule

EVERYTHING = records.load_all()
PAPERS = [record for record in EVERYTHING if not record.companion]


@pytest.fixture(scope="module")
def found():
    return holding.judged(ledger_page.claims(), EVERYTHING)


def made(*words):
    return pd.DataFrame({"verdict": words, "kind": ["speed"] * len(words)})


def test_only_decided_claims_count_and_the_interval_is_the_exact_one():
    counted = holding.shares(
        made("reproduced", "not reproduced", "inconclusive", "beyond this scale"), "kind"
    )
    row = counted.loc["speed"]
    assert (row.claims, row.decided, row.reproduced, row.share) == (4, 2, 1, 0.5)
    assert (row.low, row.high) == rule.share_interval(1, 2)
    assert counted.index.tolist() == ["speed", "all"]
    nothing = holding.shares(made("inconclusive"), "kind").loc["all"]
    assert (nothing.share, nothing.low, nothing.high) == (0, 0, 1)


def test_checks_companions_and_papers_without_a_chapter_are_no_evidence(found):
    assert set(found.verdict) <= set(rule.VERDICTS)
    assert set(found.slug) <= {record.slug for record in PAPERS}
    assert "check" not in set(found.kind)


@pytest.mark.parametrize("by", ["kind", "rests", "expected", "part", "years", "venue", "code"])
def test_groups_share_out_all_claims_each_a_square(found, by):
    counted = holding.shares(found, by)
    assert counted.loc["all"].claims == counted.drop("all").claims.sum() == len(found)
    assert (counted.low <= counted.share).all()
    assert (counted.share <= counted.high).all()
    page = BeautifulSoup(holding.dots(found, by, "Group"), "html.parser")
    assert len(page.select("a.square")) == len(found)
    assert len(page.select("tbody tr")) == len(counted) - 1
    assert len(page.select("a.square[title]")) == (len(found) if by == "kind" else 0)
    order = [rule.SYMBOLS[word] for word in rule.VERDICTS]
    for line in page.select("tbody tr"):
        *_, held, share = (cell.get_text() for cell in line.select("td"))
        assert (share == "–") == held.endswith(" of 0")
        places = [order.index(square.text) for square in line.select("a.square")]
        assert places == sorted(places)


@pytest.mark.parametrize(
    ("year", "years"),
    [
        (2019, "2019 and before"),
        (2020, "2020 to 2022"),
        (2022, "2020 to 2022"),
        (2023, "2023"),
    ],
)
def test_years_are_few_groups(year, years):
    assert holding._years(year) == years
