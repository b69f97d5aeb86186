"""Mutations: what becomes of a verdict when the mechanism's heart is taken out.

A chapter's test file holds ``MUTATIONS``, pairs of a name in the paper's module and a replacement for it: the
smallest change without which the paper would have nothing to say. `measure` runs the part of the page that
judges a claim with the replacement in place, at a few seeds. The claim is *turned* when its word, from these
seeds alone, is no longer "reproduced", and, where it depends on seeds, a criterion lies outside of what the
recorded run makes likely. One that is not turned survives without its mechanism, and so is no finding about
it: its card says "inconclusive". ``data/mutations`` keeps what came out. What rests on timings is left
to the ablation that was timed beside it.
"""

import argparse
import hashlib
import importlib
import inspect
import json
import multiprocessing
import pkgutil
import sys
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest import mock

from fourfold.judging import card, records, rule, spot_check
from fourfold.judging.records import Record
from fourfold.recorded import evidence, survival
from fourfold.recorded.survival import Outcome

SEEDS = 4
"""A mutated run has as many seeds: the fewest that a verdict needs."""


@dataclass(frozen=True)
class Mutation:
    """A replacement of one function, class or method of a paper's module."""

    target: str
    replacement: Callable[..., Any]

    @property
    def words(self) -> str:
        """What is taken away: the first line of the replacement's docstring."""
        return (inspect.getdoc(self.replacement) or "").partition("\n")[0]

    @property
    def sources(self) -> str:
        """The text of the replacement."""
        return inspect.getsource(self.replacement)


def of(record: Record) -> dict[str, Mutation]:
    """The mutations of a chapter, by name.

    Raises:
        ValueError: for a mutation without a docstring, or with a target that is not there.
    """
    tests = _test_file(record)
    paper = f"fourfold.{record.part}.{record.slug}"
    found = {}
    for target, replacement in getattr(tests, "MUTATIONS", ()):
        whole = target if target.startswith("fourfold.") else f"{paper}.{target}"
        mutation = Mutation(whole, replacement)
        if not mutation.words:
            raise ValueError(
                f"{record.slug}: mutation {replacement.__name__} does not say what it takes away"
            )
        try:
            pkgutil.resolve_name(whole)
        except AttributeError as error:
            raise ValueError(
                f"{record.slug}: mutation {replacement.__name__} replaces {whole}: {error}"
            ) from error
        found[replacement.__name__] = mutation
    return found


def named(record: Record, exact: bool = False) -> dict[str, list[str]]:
    """mutation -> the claims that name it. With ``exact`` only those that depend on no seed.

    Raises:
        ValueError: if a claim names a mutation that the test file does not have.
    """
    known = of(record)
    wanted: dict[str, list[str]] = {}
    for claim in record.claims:
        if claim.mutation is None or "timed" in claim.evidence or (exact and claim.evidence != ["exact"]):
            continue
        if claim.mutation not in known:
            raise ValueError(
                f"{record.slug} {claim.id}: no mutation {claim.mutation!r} among {', '.join(known) or 'none'}"
            )
        wanted.setdefault(claim.mutation, []).append(claim.id)
    return wanted


def measure(slug: str, mutation: str, claims: Collection[str]) -> dict[str, Outcome]:
    """Judge these claims of a chapter with one of its mutations in place. Changes this process for good."""
    from fourfold import chapter
    from fourfold.recorded import slicing, sources

    record = records.load(slug)
    change = of(record)[mutation]
    judged: dict[str, card.Verdict] = {}

    def judge(self: chapter.Chapter, claim_id: str, *args: Any, **kwargs: Any) -> card.Verdict:
        judged[claim_id] = card.judge(self.record, claim_id, *args, **kwargs)
        return judged[claim_id]

    code = slicing.slice_for(sources.experiment(record.notebook), claims)
    # As recorded but for the seeds: with quick parameters some claims would not be measured at all.
    parameters = record.values("recorded") | {"seeds": SEEDS}
    with mock.patch.object(chapter.Chapter, "judge", judge), mock.patch(change.target, change.replacement):
        exec(compile(code, f"{slug} under {mutation}", "exec"), {"__name__": "__main__", **parameters})
    run = evidence.read(slug, "recorded")
    return {
        claim: _outcome(record, mutation, change, judged[claim], evidence.face(record, run, claim))
        for claim in claims
    }


def _outcome(
    record: Record,
    name: str,
    change: Mutation,
    verdict: card.Verdict,
    recorded: Mapping[str, Any] | None,
) -> Outcome:
    differences = [
        finding.spot_check.words
        for finding in spot_check.recall(verdict, recorded, "").findings
        if finding.role == "criterion" and finding.spot_check and finding.spot_check.agrees is False
    ]
    return Outcome(
        mutation=name,
        words=change.words,
        target=change.target,
        word=verdict.word,
        reason=verdict.reason,
        disagrees="; ".join(differences),
        turned=verdict.word != "reproduced" and (verdict.claim.evidence == ["exact"] or bool(differences)),
        criteria=rule.digest(verdict.claim),
        sources=sources_of(record, change),
    )


def sources_of(record: Record, change: Mutation) -> str:
    """A hash of all that the chapter's numbers come from, and of one mutation."""
    text = json.dumps([evidence.sources(record.slug), change.target, change.sources], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run(slugs: Collection[str], exact: bool = False) -> dict[str, dict[str, Outcome]]:
    """What becomes of the claims of these chapters: one process a mutation, as many at once as cores.

    Raises:
        ValueError: if a chapter cannot run under a mutation: it then says nothing.
    """
    wanted = [(slug, *item) for slug in slugs for item in named(records.load(slug), exact).items()]
    found: dict[str, dict[str, Outcome]] = {slug: {} for slug in slugs}
    # A process for each: a patched module must not be seen by the next. Each has one thread.
    with ProcessPoolExecutor(
        mp_context=multiprocessing.get_context("spawn"),
        max_tasks_per_child=1,
    ) as pool:
        running = {pool.submit(measure, *job): job for job in wanted}
        for future, (slug, mutation, _) in running.items():
            try:
                found[slug] |= future.result()
            except Exception as error:
                raise ValueError(f"{slug} does not run under its mutation {mutation}: {error}") from error
    return found


def keep(slug: str, outcomes: Mapping[str, Outcome]) -> None:
    """Write what became of a chapter's claims."""
    file = survival.path(slug)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(outcomes, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _test_file(record: Record) -> ModuleType:
    tests = records.ROOT / "tests"
    for name, folder in {"tests": tests, f"tests.{record.part}": tests / record.part}.items():
        if name not in sys.modules:
            # Test files import what they share from the folder above, which only pytest makes a package.
            package = ModuleType(name)
            package.__path__ = [str(folder)]
            sys.modules[name] = package
    return importlib.import_module(f"tests.{record.part}.test_{record.slug}")


def main() -> None:
    """The command line. A claim that survives is shown; that one turns or survives since is an error."""
    parser = argparse.ArgumentParser(prog="python -m fourfold.recorded.mutation", description=__doc__)
    parser.add_argument("slug", nargs="*", help="chapters; all if none is named")
    parser.add_argument("--exact", action="store_true", help="only what depends on no seed; nothing is kept")
    given = parser.parse_args()
    slugs = given.slug or [record.slug for record in records.chapters()]
    try:
        found = run(slugs, given.exact)
    except (ValueError, OSError) as error:
        sys.exit(f"mutations: {error}")
    otherwise = []
    for slug, claims in found.items():
        before = survival.read(slug)
        for claim, outcome in claims.items():
            if claim in before and before[claim]["turned"] != outcome["turned"]:
                otherwise.append(f"{slug} {claim}")
            fate = survival.fate(outcome)
            print(f"{slug} {claim} {outcome['mutation']}: {fate}: {outcome['word']}: {outcome['reason']}")
        if not given.exact:
            keep(slug, claims)
    if otherwise:
        sys.exit(f"mutations: {', '.join(otherwise)}: not what data/mutations had")


if __name__ == "__main__":
    main()
