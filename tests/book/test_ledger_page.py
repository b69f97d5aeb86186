"""The ledger page: each claim once on the map and once in the table, numbers that lead to their rows."""

import csv
import io
import json
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from fourfold.book import ledger_page
from fourfold.judging import records, rule


def claim(part, slug, name, verdict, full="", full_stale="", evidence="exact", stale="", before="", **more):
    return {
        "part": part,
        "name": slug.upper(),
        "paper": f"{slug}: a <title>",
        "slug": slug,
        "claim": name,
        "statement": f"Statement & {name} of {slug}.",
        "kind": "count",
        "expected": "",
        "mutation": "",
        "verdict": verdict,
        "before": before,
        "measured": "0.5; 3" if verdict in rule.VERDICTS else "",
        "evidence": evidence if verdict in rule.VERDICTS else "",
        "stale": stale,
        "full": full,
        "full_stale": full_stale,
    } | more


@pytest.fixture
def table():
    return pd.DataFrame(
        [
            claim(
                "optics",
                "a",
                "C1",
                "reproduced",
                "not reproduced",
                "light, notebook",
                expected="reproduced",
                mutation="not reproduced",
            ),
            claim(
                "optics",
                "a",
                "C2",
                "inconclusive",
                "reproduced",
                evidence="exact + recorded",
                stale="x",
                before="reproduced",
            ),
            claim("optics", "b", "C1", rule.UNJUDGED),
            *(claim(part, part, "C1", "beyond this scale") for part in records.PARTS if part != "optics"),
        ]
    )


def soup(text):
    return BeautifulSoup(text, "html.parser")


def test_every_claim_is_one_square_with_its_word_and_leads_to_its_chapter_or_its_row(table):
    squares = soup(ledger_page.papers(table)).select(".claims a")
    assert len(squares) == len(table)
    assert [(a["href"], a["aria-label"]) for a in squares[:3]] == [
        ("optics/a.html#a-C1", "C1 reproduced"),
        ("optics/a.html#a-C2", "C2 inconclusive"),
        ("#b-C1", "C1 not judged yet"),
    ]


def test_every_claim_is_one_row_with_an_address_of_its_own(table):
    page = soup(ledger_page.papers(table))
    papers = page.select(".papers details")
    assert [(p["data-part"], p["data-paper"], p.select_one(".name").text) for p in papers[:2]] == [
        ("optics", "a", "A"),
        ("optics", "b", "B"),
    ]
    assert papers[0].select_one(".title").text == "a: a <title>"
    assert [row["id"] for row in papers[0].select("tbody tr")] == ["a-C1", "a-C2"]
    rows = page.select("table.ledger tbody tr")
    assert [row["id"] for row in rows[:3]] == ["a-C1", "a-C2", "b-C1"]
    assert len({row["id"] for row in rows}) == len(table)
    first = rows[0]
    assert (first["data-verdict"], first["data-full"]) == ("reproduced", "not reproduced")
    words = [cell.get_text() for cell in first.select("td")]
    assert words[2:] == [
        "✓ reproduced",
        "✓ reproduced",
        "exact",
        "✗ not reproduced",
        "✗ not reproducedstale: light, notebook changed since",
    ]
    assert [cell.get_text() for cell in rows[1].select("td")][2] == "–"
    assert first.has_attr("data-stale")
    assert not rows[1].has_attr("data-stale")
    assert "stale: light, notebook changed since" in first.get_text()
    assert "exact + recorded" in rows[1].get_text()
    assert "stale: x changed since" in rows[1].get_text()
    assert "was reproduced" in rows[1].get_text()
    assert "was" not in first.get_text()
    assert first.select_one(".permalink")["href"] == "#a-C1"
    assert "Statement & C1 of a." in first.get_text()
    assert "measured: 0.5; 3" in first.get_text()
    assert not [a for a in rows[2].select("a") if ".html" in a["href"]]


def test_counts_add_up_and_lead_to_what_they_count(table):
    page = soup(ledger_page.counts(table))
    lines = {tr.th.text: tr for tr in page.select("tbody tr")}
    assert [td.text for td in lines["optics"].select("td")] == ["2", "1", "0", "1", "0", "1"]
    assert [td.text for td in lines["all"].select("td")] == ["7", "1", "0", "1", "5", "1"]
    link = urlsplit(lines["optics"].select_one("a")["href"])
    assert parse_qs(link.query) == {"verdict": ["reproduced"], "part": ["optics"]}


def test_a_claim_that_waits_for_its_seeds_has_a_word_and_a_count(table):
    assert rule.UNRECORDED not in ledger_page.counts(table)
    assert rule.UNJUDGED not in ledger_page.counts(table[table.verdict != rule.UNJUDGED])
    waiting = pd.concat([table, pd.DataFrame([claim("theory", "z", "C1", rule.UNRECORDED)])])
    assert soup(ledger_page.counts(waiting)).select("thead th")[-1].text == "○ not recorded yet"
    square = soup(ledger_page.papers(waiting)).select(".claims a")[-1]
    assert square["href"] == "theory/z.html#z-C1"


def test_a_chapter_that_failed_says_so_and_leads_to_its_error(table):
    assert rule.FAILED not in ledger_page.counts(table)
    broken = pd.concat([table, pd.DataFrame([claim("theory", "z", "C1", rule.FAILED)])])
    square = soup(ledger_page.papers(broken)).select(".claims a")[-1]
    assert (square["href"], square["aria-label"]) == ("theory/z.html", "C1 did not run")
    assert soup(ledger_page.counts(broken)).select("thead th")[-1].text == "! did not run"


def test_downloads_carry_every_row(table):
    files = ledger_page.downloads(table)
    read = list(csv.DictReader(io.StringIO(files["ledger.csv"])))
    assert [row["statement"] for row in read] == table.statement.tolist()
    assert json.loads(files["ledger.json"])[0]["full_stale"] == "light, notebook"


def test_the_book_has_a_row_for_every_claim_of_every_record(monkeypatch):
    monkeypatch.setattr(records, "load_all", lambda: [r for r in ALL if not r.has_chapter])
    assert len(ledger_page.claims()) == sum(len(r.claims) for r in ALL if not r.has_chapter)


ALL = records.load_all()
