"""Furniture: a chapter's first lines come from its record and its run, and say what they say."""

import re

import pytest
from bs4 import BeautifulSoup
from docutils import nodes
from docutils.utils import new_document

from fourfold.book import furniture
from fourfold.judging import records, rule
from fourfold.judging.records import Record

RECORD = Record.model_validate(
    {
        "slug": "a_paper",
        "part": "optics",
        "name": "Light",
        "title": "On <light>",
        "authors": ["A. One", "B. Two"],
        "year": 2020,
        "arxiv": "2001.00001",
        "doi": "10.1000/x",
        "venue": "A Venue 2020",
        "code": "https://example.org/code",
        "code_licence": "MIT",
        "idea": "Light is quick.",
        "claims": [
            {
                "id": name,
                "statement": f"Claim {name} holds.",
                "criteria": {"a": {"what": "a", "resolution": 0.1, "reproduced_if": "> 1"}},
                "controls": {"b": {"what": "b", "resolution": 0.1, "fails_if": "< 1"}},
            }
            for name in ("C1", "C2")
        ],
        "parameters": {
            "width": {"type": "int", "meaning": "how <wide>", "quick": 2, "full": 4, "min": 1, "max": 9},
        },
    }
)


def soup(text):
    return BeautifulSoup(text, "html.parser")


def test_the_bibliography_line_says_who_when_where_and_links():
    line = soup(furniture.bibliography(RECORD))
    assert line.get_text().startswith("A. One, B. Two (2020). On <light>. A Venue 2020. arXiv:2001.00001")
    assert [a["href"] for a in line.find_all("a")] == [
        "https://arxiv.org/abs/2001.00001",
        "https://doi.org/10.1000/x",
        "https://example.org/code",
    ]
    bare = RECORD.model_copy(update={"code": None, "doi": None, "arxiv": None, "venue": None})
    assert soup(furniture.bibliography(bare)).get_text().endswith("On <light>. no code by the authors found")


def test_the_headline_goes_to_the_top_and_leaves_its_code_behind():
    doctree = new_document("page")
    shown, other = (nodes.container("", classes=["cell_output"]) for _ in range(2))
    code = nodes.container("", classes=["cell_input"])
    cell = nodes.container("", code, shown, classes=["cell", "tag_hide-input", "tag_headline"])
    doctree += [nodes.paragraph("", "words"), cell, nodes.container("", other, classes=["cell"])]
    (headline,) = furniture.headline(doctree)
    assert headline.children == [shown]
    assert cell.children == [code]


def test_badges_say_the_word_lead_to_the_card_and_add_up():
    faces = [
        {"claim": "C2", "verdict": "not reproduced"},
        {"claim": "C1", "verdict": "reproduced"},
    ]
    shown = soup(furniture.badges(RECORD, faces, "Quick run"))
    assert shown.p.text == "Quick run: 1 reproduced, 1 not reproduced"
    assert [(a["href"], a.text) for a in shown.find_all("a")] == [
        ("#a_paper-C1", "✓ C1 reproduced"),
        ("#a_paper-C2", "✗ C2 not reproduced"),
    ]
    faces[0]["verdict"] = "holds"
    assert soup(furniture.badges(RECORD, faces, "Run")).p.text == "Run: 1 reproduced, 1 check that holds"
    faces[1]["verdict"] = "holds"
    assert soup(furniture.badges(RECORD, faces, "Run")).p.text == "Run: 2 checks that hold"


def test_the_evidence_says_what_verdicts_rest_on_and_how_this_run_compares():
    def face(claim, agrees, here):
        check = {"agrees": agrees, "words": "this run agrees" if agrees else "this run disagrees: it is 9"}
        finding = {"role": "criterion", "name": "a", "what": "a", "shown": "2.0", "here": here}
        return {"claim": claim, "verdict": "reproduced", "findings": [finding | {"spot_check": check}]}

    sampled = {**RECORD.claims[0].criteria["a"].model_dump(), "statistic": "every", "reproduced_if": "> 1"}
    claims = [c.model_copy(update={"criteria": {"a": records.Criterion(**sampled)}}) for c in RECORD.claims]
    record = RECORD.model_copy(update={"claims": claims})
    run = {"started": "2026-01-02", "stale": [], "processor": "A CPU", "parameters": {"seed": 0, "seeds": 20}}
    good = soup(furniture.evidence_box(record, [face("C1", True, [2.0, 2.1])], run, None))
    assert "1 with exact parts" in good.p.text
    assert "1 from recorded seeds (seeds 0 to 19, 2026-01-02, A CPU)" in good.p.text
    assert good.summary.text == "This copy's run agrees with the record in all 1 quantities compared"
    assert [cell.text for cell in good.tbody.find_all(["th", "td"])] == [
        "C1 a", "2.0", "2.0 to 2.1 (2 seeds)", "agrees",
    ]  # fmt: skip
    bad = soup(furniture.evidence_box(record, [face("C1", True, [2]), face("C2", False, [9])], run, None))
    assert bad.summary.text == "This copy's run disagrees with the record in C2"
    clock = records.Criterion(what="a", resolution=0.1, statistic="median", reproduced_if="> 1")
    raced = record.model_copy(update={"claims": [claims[0].model_copy(update={"criteria": {"a": clock}})]})
    times = {"started": "2026-01-03", "processor": "A CPU", "stale": ["script"]}
    judged = {"claim": "C1", "verdict": "reproduced", "findings": []}
    assert (
        "1 from recorded timings (2026-01-03, A CPU (stale: script changed since))"
        in soup(furniture.evidence_box(raced, [judged], None, times)).get_text()
    )
    waiting = {"claim": "C1", "verdict": "not recorded yet", "findings": []}
    assert soup(furniture.evidence_box(record, [waiting], None, None)).text == "Claims: 1 not recorded yet."


def test_the_parameter_table_is_the_records():
    cells = [cell.text for cell in soup(furniture.parameter_table(RECORD)).tbody.find_all(["th", "td"])]
    assert cells == ["width", "how <wide>", "2", "4", "int: 1..9"]


@pytest.mark.parametrize(
    ("parameters", "given"),
    [
        ({"seed": ("int", 100)}, "-p seed 7"),
        ({"width": ("int", 2), "seed": ("int", 100)}, "-p seed 7"),
        ({"width": ("int", 2)}, "-p width 2"),
        ({"planes": ("list[int]", [8, 16])}, "-y 'planes: [8, 16]'"),
    ],
)
def test_the_command_sets_a_parameter_that_the_chapter_has(parameters, given):
    specs = {
        name: records.Parameter(type=kind, meaning="m", quick=value, full=value, min=0, max=999)
        for name, (kind, value) in parameters.items()
    }
    first, *others = furniture.rerun_lines(RECORD.model_copy(update={"parameters": specs})).splitlines()
    assert first == f"papermill notebooks/optics/a_paper.ipynb out.ipynb {given}"
    assert others == [
        "pytest --nbval notebooks/optics/a_paper.ipynb",
        "make record NAME=a_paper",
        "make full NAME=a_paper",
    ]


def test_citations_are_bibtex_and_a_companion_is_cited_as_the_book():
    entries = furniture.citation(RECORD)
    assert re.findall(r"^@(\w+){(\w+),$", entries, re.M) == [("misc", "a_paper"), ("software", "fourfold")]
    assert entries.count("{") == entries.count("}")
    assert re.search(r"year = \{20\d\d\},\n  version = \{\d+\.\d+\.\d+\}\n\}$", entries)
    companion = furniture.citation(RECORD.model_copy(update={"companion": True}))
    assert re.findall(r"^@(\w+){(\w+),$", companion, re.M) == [("software", "fourfold")]


def test_launch_links_appear_where_the_repository_is_known(monkeypatch):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    assert "Binder" not in furniture._links(RECORD)
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/fourfold")
    launch = [a["href"] for a in soup(furniture._links(RECORD)).select("a.external")]
    assert all("someone/fourfold" in url and "notebooks/optics/a_paper.ipynb" in url for url in launch)
    assert len(launch) == 2


def test_a_stale_full_run_says_what_changed():
    run = {"started": "2026-01-02T03:04", "stale": ["tile", "notebook"], "processor": "A CPU"}
    run["parameters"] = {"seed": 3, "seeds": 2}
    assert furniture._about(run) == "seeds 3 to 4, 2026-01-02, A CPU (stale: tile, notebook changed since)"
    assert furniture._about(run | {"stale": []}) == "seeds 3 to 4, 2026-01-02, A CPU"
    fresh = run | {"stale": [], "kernels": "AVX2"}
    assert furniture._about(fresh) == "seeds 3 to 4, 2026-01-02, A CPU with AVX2"
    assert set(rule.VERDICTS) <= set(rule.SYMBOLS)
