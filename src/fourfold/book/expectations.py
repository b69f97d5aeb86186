"""How well we predict: the word that each record expected, and the one that came."""

from collections.abc import Sequence

import pandas as pd

from fourfold.judging import rule
from fourfold.judging.records import Record

WORDS = rule.VERDICTS


def predicted(claims: pd.DataFrame) -> pd.DataFrame:
    """The claims that had an expected word and have a verdict; the columns of `ledger_page.collect`."""
    return claims[claims.expected.isin(WORDS) & claims.verdict.isin(WORDS)]


def crossed(claims: pd.DataFrame) -> pd.DataFrame:
    """How many claims were expected to be what (rows) and became what (columns)."""
    found = predicted(claims)
    counted = pd.crosstab(found.expected, found.verdict)
    return counted.reindex(index=WORDS, columns=WORDS, fill_value=0).astype(int)


def hits(claims: pd.DataFrame) -> pd.DataFrame:
    """By kind of claim: how many were predicted, how many rightly, the share and its 95 % interval."""
    found = predicted(claims)
    right = found.expected == found.verdict
    counted = right.groupby(found.kind).agg(["size", "sum"])
    counted.loc["all kinds"] = [len(found), right.sum()]
    rows = []
    for kind, (predictions, hit) in counted.iterrows():
        share = hit / predictions if predictions else 0.0
        low, high = rule.share_interval(int(hit), int(predictions))
        rows.append((kind, int(predictions), int(hit), share, low, high))
    return pd.DataFrame(rows, columns=["kind", "predicted", "right", "share", "low", "high"])


def changed(everything: Sequence[Record], claims: pd.DataFrame) -> pd.DataFrame:
    """Every earlier word of every claim with its date and why it went, and the word of today."""
    today = claims.set_index(["slug", "claim"]).verdict
    rows = [
        (record.slug, claim.id, str(earlier.date), earlier.word, today[record.slug, claim.id], earlier.why)
        for record in everything
        for claim in record.claims
        for earlier in claim.before
    ]
    return pd.DataFrame(rows, columns=["paper", "claim", "until", "it was", "it is", "why"])
