"""The ledger as a page: every paper a line, every claim a square, and behind a line its claims in words.

It is plain HTML that unfolds without a script; ``book/_static/ledger.js`` adds search, filters and addresses.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pandas as pd

from fourfold.judging import card, records, rule
from fourfold.judging.records import Record
from fourfold.recorded import evidence, executed, sources, survival

COLUMNS = ("Claim", "Statement", "Expected", "Verdict", "Evidence", "Without its mechanism", "Full run")


def claims() -> pd.DataFrame:
    """Every claim of every paper with its verdicts, from the executed chapters and the recorded runs.

    The columns of `collect`.
    """
    everything = records.load_all()
    chapters = {record.slug: executed.of(record) for record in everything if record.has_chapter}
    failed = {slug for slug, run in chapters.items() if executed.failure(run)}
    built = {slug: executed.faces(run, "verdict") for slug, run in chapters.items() if slug not in failed}
    tiers = {
        tier: {r.slug: run for r in everything if (run := evidence.load(r.slug, tier))}
        for tier in evidence.TIERS
    }
    mutated = {record.slug: survival.read(record.slug) for record in everything}
    return collect(everything, built, tiers["recorded"], tiers["full"], failed, mutated)


def collect(
    everything: Sequence[Record],
    built: Mapping[str, Sequence[dict]],
    seeded: Mapping[str, dict],
    full: Mapping[str, dict],
    failed: Collection[str] = (),
    mutated: Mapping[str, Mapping[str, survival.Outcome]] | None = None,
) -> pd.DataFrame:
    """Every claim of every paper, one row each.

    Args:
        everything: all records.
        built: slug -> verdict faces of the executed chapter.
        seeded: slug -> recorded run as `fourfold.recorded.evidence.load` returns it, with ``stale``.
        full: slug -> likewise its full run.
        failed: slugs of the chapters that did not run to their end.
        mutated: slug -> claim -> what became of it without its mechanism.

    Returns:
        Columns part, name, paper (its title), slug, claim, kind, statement, expected (the word), verdict,
        before (the word it had last), evidence, mutation (the verdict of what was reproduced, without its
        mechanism), measured, stale (what changed since its seeds were recorded), full (the full run's
        verdict, if it judged by today's question), full_stale.

    Raises:
        ValueError: if a chapter ran and a claim with criteria was never judged, or was judged twice.
    """
    rows = []
    for record in everything:
        judged = {face["claim"]: face for face in built.get(record.slug, ())}
        if len(judged) < len(built.get(record.slug, ())):
            raise ValueError(f"{record.slug} judges a claim twice")
        if record.slug in built:
            silent = [c.id for c in record.claims if c.criteria and c.id not in judged]
            if silent:
                raise ValueError(f"{record.slug} never judges {', '.join(silent)}")
        stale, full_stale = (
            sources.listed(runs[record.slug]["stale"]) if record.slug in runs else ""
            for runs in (seeded, full)
        )
        at_full = {face["claim"]: face for face in evidence.faces(record, full.get(record.slug))}
        unjudged = rule.FAILED if record.slug in failed else rule.UNJUDGED
        without = (mutated or {}).get(record.slug, {})
        for claim in record.claims:
            face = judged.get(claim.id)
            word = face["verdict"] if face else unjudged
            rests_on_seeds = "recorded" in claim.evidence and word in rule.VERDICTS
            rows.append(
                {
                    "part": record.part,
                    "name": record.name,
                    "paper": record.title,
                    "slug": record.slug,
                    "claim": claim.id,
                    "kind": "check" if claim.check else claim.kind or "",
                    "statement": claim.statement,
                    "expected": claim.expected.word if claim.expected else "",
                    "verdict": word,
                    "before": claim.before[-1].word if claim.before else "",
                    "evidence": " + ".join(claim.evidence) if face else "",
                    "mutation": without[claim.id]["word"]
                    if word == "reproduced" and claim.id in without
                    else "",
                    "measured": "; ".join(f["shown"] for f in face["findings"] if f["role"] == "criterion")
                    if face
                    else "",
                    "stale": stale if rests_on_seeds else "",
                    "full": at_full[claim.id]["verdict"] if claim.id in at_full else "",
                    "full_stale": full_stale if claim.id in at_full else "",
                }
            )
    return pd.DataFrame(rows)


def face(table: pd.DataFrame) -> dict[str, Any]:
    """The machine face of the page's run, from which the files that it offers are written."""
    return {"fourfold": {"kind": "ledger", "claims": table.to_dict(orient="records")}}


def downloads(run: Path) -> dict[str, str]:
    """The ledger as files, name -> text: CSV, and JSON with the same columns; none where its page failed."""
    if not run.is_file() or executed.failure(run):
        return {}
    (kept,) = executed.faces(run, "ledger")
    return {
        "ledger.csv": pd.DataFrame(kept["claims"]).to_csv(index=False),
        "ledger.json": json.dumps(kept["claims"], indent=1, ensure_ascii=False) + "\n",
    }


def words(table: pd.DataFrame) -> list[str]:
    """What can stand in the place of a verdict here; what should not be there only where it is.

    Checks of our own rebuilding come last: they are no claims of a paper.
    """
    others = (rule.UNJUDGED, rule.UNRECORDED, rule.FAILED, *rule.CHECKED)
    return [*rule.VERDICTS, *(word for word in others if (table.verdict == word).any())]


CLAUSES = ("in the abstracts", "carried by a claim", "judged", "reproduced")


def clauses(everything: Sequence[Record], table: pd.DataFrame) -> pd.DataFrame:
    """How many clauses of the papers' abstracts are carried, judged and reproduced, by part; their sum last.

    A clause is judged when one of the claims that carry it is reproduced or not, and reproduced when all are.
    """
    verdicts = table.set_index(["slug", "claim"]).verdict
    rows = []
    for record in everything:
        for clause in record.abstract:
            said = [verdicts[record.slug, claim] for claim in clause.claims]
            judged = any(word in rule.DECIDED for word in said)
            held = bool(said) and all(word == "reproduced" for word in said)
            rows.append([record.part, 1, bool(said), judged, held])
    counted = pd.DataFrame(rows, columns=["part", *CLAUSES]).groupby("part")[list(CLAUSES)].sum().astype(int)
    counted = counted.reindex(records.PARTS, fill_value=0)
    counted.loc["all"] = counted.sum()
    return counted.rename_axis(None)


def counts(table: pd.DataFrame) -> str:
    """Claims per part and verdict; each number links to the rows that it counts. HTML."""
    head = "".join(f"<th scope='col'>{_word(word)}</th>" for word in words(table))
    lines = []
    for part in [*records.PARTS, "all"]:
        rows = table if part == "all" else table[table.part == part]
        cells = "".join(
            f"<td>{_view(int((rows.verdict == word).sum()), part=part, verdict=word)}</td>"
            for word in words(table)
        )
        lines.append(f"<tr><th scope='row'>{part}</th><td>{rows.slug.nunique()}</td>{cells}</tr>")
    return scrolled(
        "Claims per part and verdict",
        "<table class='counts'><thead><tr><th scope='col'>Part</th><th scope='col'>Chapters and papers</th>"
        f"{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>",
    )


def papers(table: pd.DataFrame) -> str:
    """The controls, and all papers by part. HTML."""
    legend = "".join(f"<li>{_square(word)} {word}</li>" for word in words(table))
    head = "".join(f"<th scope='col'>{name}</th>" for name in COLUMNS)
    parts = []
    for part in records.PARTS:
        of_part = table[table.part == part].groupby("slug", sort=False)
        lines = "".join(_paper(list(rows.itertuples()), head) for _, rows in of_part)
        parts.append(f"<section><h3>{part.capitalize()}</h3>{lines}</section>")
    return (
        f"<ul class='legend'>{legend}</ul>{_controls(table)}<div class='papers'>{''.join(parts)}</div>"
        "<p>All of it as <a href='../downloads/ledger.csv' download>CSV</a> or "
        "<a href='../downloads/ledger.json' download>JSON</a>.</p>"
    )


def _paper(claims: Sequence[Any], head: str) -> str:
    """A paper's line, which opens its claims."""
    first = claims[0]
    line = "".join(map(_claim_square, claims))
    name = f"<span class='name' title='{escape(first.paper, quote=True)}'>{escape(first.name)}</span>"
    label = f"Claims of {escape(first.name, quote=True)}"
    rows = "".join(map(_row, claims))
    table = f"<table class='ledger'><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return (
        f"<div class='paper'><details data-part='{first.part}' data-paper='{first.slug}'>"
        f"<summary>{name}</summary><p class='title'>{escape(first.paper)}</p>"
        f"{scrolled(label, table)}</details>"
        f"<span class='claims'>{line}</span></div>"
    )


def _controls(table: pd.DataFrame) -> str:
    verdicts = _options(words(table))
    names = table.drop_duplicates("slug").set_index("slug").name
    papers = "".join(f"<option value='{slug}'>{escape(name)}</option>" for slug, name in names.items())
    return (
        "<form class='ledger-controls' role='search' aria-label='Find claims'>"
        "<label>Search <input type='search' name='search' autocomplete='off'></label>"
        f"<label>Part <select name='part'>{_options(records.PARTS)}</select></label>"
        f"<label>Paper <select name='paper'><option value=''>all</option>{papers}</select></label>"
        f"<label>Verdict <select name='verdict'>{verdicts}</select></label>"
        f"<label>Full run <select name='full'>{verdicts}"
        "<option value='stale'>stale</option><option value='none'>not run</option></select></label>"
        "<button type='reset'>Show all</button>"
        "<p class='found'><output aria-live='polite'></output> "
        "<a href='ledger.html'>Link to this view</a></p></form>"
    )


def _options(words: Iterable[str]) -> str:
    return "<option value=''>all</option>" + "".join(f"<option>{word}</option>" for word in words)


def _row(claim: Any) -> str:
    place = f"{claim.slug}-{claim.claim}"
    measured = f"<small>measured: {escape(claim.measured)}</small>" if claim.measured else ""
    full = f"{_word(claim.full)}{_old(claim.full_stale)}" if claim.full else "–"
    before = f"<small>was {claim.before}</small>" if claim.before not in ("", claim.verdict) else ""
    expected, mutation = (_word(word) if word else "–" for word in (claim.expected, claim.mutation))
    return (
        f"<tr id='{place}' data-verdict='{claim.verdict}' "
        f"data-full='{claim.full or 'none'}'{' data-stale' if claim.full_stale else ''}>"
        f"<td>{_to_chapter(claim, claim.claim)} <a class='permalink' href='#{place}' "
        f"aria-label='Link to {claim.claim}'>#</a></td>"
        f"<td>{escape(claim.statement)}{measured}</td><td>{expected}</td>"
        f"<td>{_word(claim.verdict)}{before}{_old(claim.stale)}</td>"
        f"<td>{claim.evidence or '–'}</td><td>{mutation}</td><td>{full}</td></tr>"
    )


def _old(stale: str) -> str:
    """What changed since a run was recorded, if anything did."""
    return f"<small>stale: {escape(stale)} changed since</small>" if stale else ""


def _to_chapter(claim: Any, text: str) -> str:
    return text if claim.verdict == rule.UNJUDGED else f"<a href='{_address(claim)}'>{text}</a>"


def _address(claim: Any) -> str:
    """The claim's card on its page; a paper with no chapter has its rows below, a failed one no cards."""
    page = "" if claim.verdict == rule.UNJUDGED else f"{claim.part}/{claim.slug}.html"
    return page if claim.verdict == rule.FAILED else f"{page}#{claim.slug}-{claim.claim}"


def squares(table: pd.DataFrame, titles: bool) -> str:
    """Claims as squares, each coloured and signed by its verdict, that open their cards. HTML.

    ``titles`` are statements, which weigh most of a page: it has them once, from where a script copies them.
    """
    return "".join(_claim_square(claim, titles) for claim in table.itertuples())


def _claim_square(claim: Any, titled: bool = False) -> str:
    word = claim.verdict
    title = f" title='{claim.claim}: {escape(claim.statement, quote=True)}'" if titled else ""
    return (
        f"<a class='square {card.css(word)}' href='{_address(claim)}' aria-label='{claim.claim} {word}'"
        f"{title}>{rule.SYMBOLS[word]}</a>"
    )


def _square(word: str) -> str:
    return f"<span class='square {card.css(word)}' aria-hidden='true'>{rule.SYMBOLS[word]}</span>"


def _word(verdict: str) -> str:
    return f"<span class='verdict-word {card.css(verdict)}'>{rule.SYMBOLS[verdict]} {verdict}</span>"


def _view(count: int, part: str, verdict: str) -> str:
    if not count:
        return "0"
    query = {"verdict": verdict} | ({} if part == "all" else {"part": part})
    return f"<a href='?{urlencode(query)}#every-claim'>{count}</a>"


def scrolled(label: str, inside: str) -> str:
    """A wide table scrolls inside its own box, by keyboard too."""
    return f"<div class='scroll' tabindex='0' role='region' aria-label='{label}'>{inside}</div>"
