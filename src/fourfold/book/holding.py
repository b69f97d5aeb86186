"""What holds up: the claims judged so far, by what kind they are and where they come from."""

from collections.abc import Sequence
from html import escape

import pandas as pd

from fourfold.book import ledger_page
from fourfold.judging import records, rule
from fourfold.judging.records import Record

EVIDENCE = {"exact": "exact alone", "recorded": "seeds", "timed": "a clock"}


def judged(claims: pd.DataFrame, everything: Sequence[Record]) -> pd.DataFrame:
    """The claims of papers that have a verdict, and what is known of their papers.

    Args:
        claims: as `ledger_page.collect` returns them.
        everything: all records.

    Returns:
        These columns and years, code (whether the authors' is public), venue (whether it is reviewed) and
        rests (on what the verdict does).
    """
    of = {record.slug: record for record in everything if not record.companion}
    found = claims[claims.verdict.isin(rule.VERDICTS) & claims.slug.isin(of)]
    papers = found.slug.map(of)
    return found.assign(
        years=[_years(paper.year) for paper in papers],
        code=["public" if paper.code else "none found" for paper in papers],
        venue=["journal or conference" if paper.venue else "preprint" for paper in papers],
        rests=[EVIDENCE[evidence.split(" + ")[-1]] for evidence in found.evidence],
    )


def _years(year: int) -> str:
    return "2019 and before" if year < 2020 else "2020 to 2022" if year < 2023 else str(year)


def shares(found: pd.DataFrame, by: str) -> pd.DataFrame:
    """Of the decided claims of each group, how many were reproduced.

    Returns:
        Rows are groups, their sum last; columns claims, decided, reproduced, share, low, high: the share of
        the decided that were reproduced, with its exact 95 % interval.
    """
    rows = []
    for group, part in [*found.groupby(by), ("all", found)]:
        decided = int(part.verdict.isin(rule.DECIDED).sum())
        held = int((part.verdict == "reproduced").sum())
        share = held / decided if decided else 0.0
        rows.append((group, len(part), decided, held, share, *rule.share_interval(held, decided)))
    columns = [by, "claims", "decided", "reproduced", "share", "low", "high"]
    return pd.DataFrame(rows, columns=columns).set_index(by)


def dots(found: pd.DataFrame, by: str, meaning: str) -> str:
    """A group a row, a claim a square that opens its card, and the share that was reproduced. HTML."""
    counted = shares(found, by)
    lines = []
    for group, part in found.groupby(by):
        row = counted.loc[group]
        told = part.assign(place=part.verdict.map(rule.VERDICTS.index)).sort_values("place", kind="stable")
        share = f"{100 * row.share:.0f} % [{100 * row.low:.0f}, {100 * row.high:.0f}]" if row.decided else "–"
        explained = f"<small>{records.KINDS[group]}</small>" if by == "kind" else ""
        lines.append(
            f"<tr><th scope='row'>{escape(str(group))}{explained}</th>"
            f"<td><span class='claims'>{ledger_page.squares(told, titles=by == 'kind')}</span></td>"
            f"<td>{row.reproduced:.0f} of {row.decided:.0f}</td>"
            f"<td>{share}</td></tr>"
        )
    head = "".join(f"<th scope='col'>{name}</th>" for name in (meaning, "Claims", "Reproduced", "Share"))
    return ledger_page.scrolled(
        meaning,
        f"<table class='counts dots'><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>",
    )
