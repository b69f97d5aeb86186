"""A chapter at run time: its record, its checked parameters, and its judge.

A run at the record's quick parameters is a build's: what depends on seeds is judged by the recorded run and
spot-checked. Any other run is judged by itself.
"""

import html
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fourfold import training
from fourfold.judging import card, parameters, records, spot_check
from fourfold.recorded import evidence, replication, survival
from fourfold.recorded.machine import machine


@dataclass(frozen=True)
class Chapter:
    """One run of one chapter. Displayed, it says which parameters are in force."""

    record: records.Record
    values: Mapping[str, Any]
    profile: str

    def judge(
        self,
        claim_id: str,
        criteria: Mapping[str, Any],
        controls: Mapping[str, Any],
        conditions: Mapping[str, Any] | None = None,
    ) -> card.Verdict:
        """Judge one claim of this chapter's paper.

        As `card.judge` does, and in a build also `spot_check.recall`, `spot_check.at_twice_the_budget`,
        `survival.tell` and `replication.words`.
        """
        verdict = card.judge(self.record, claim_id, criteria, controls, conditions, profile=self.profile)
        if self.profile != "quick":
            return verdict
        run = self.recorded_run()
        basis = run and f"Recorded: {evidence.about(run)}."
        verdict = spot_check.recall(verdict, evidence.face(self.record, run, claim_id), basis or "")
        doubled = evidence.read(self.record.slug, "doubled")
        verdict = spot_check.at_twice_the_budget(verdict, evidence.face(self.record, doubled, claim_id))
        verdict = survival.tell(verdict, survival.read(self.record.slug))
        return replace(verdict, replicated=replication.words(self.record, claim_id))

    def keep(self, name: str, data: Any) -> "Kept":
        """Results that the book wants from another run: made of dicts, lists, numbers, text and None.

        They reach it by being shown: the call is a cell's last expression, or stands in ``display(...)``.
        """
        return Kept(self.record.slug, name, data)

    def full_run(self) -> dict[str, Any] | None:
        """The recorded full run of this chapter, or None; see `fourfold.recorded.evidence.load`."""
        return evidence.load(self.record.slug, "full")

    def recorded_run(self) -> dict[str, Any] | None:
        """The recorded run of the quick parameters, or None; see `fourfold.recorded.evidence.read`."""
        return evidence.read(self.record.slug, "recorded")

    def drawn(self, name: str, here: Any) -> tuple[Any, str]:
        """What a figure draws: in a build the recorded run's results of that name, else this run's, ``here``.

        With, for the caption, whose they are.
        """
        run = self.recorded_run() if self.profile == "quick" else None
        if run is None or run["parameters"] != self.record.values("recorded") or name not in run["data"]:
            return here, f"this run, {evidence.seeds(self.values)}"
        return run["data"][name], f"the recorded run, {evidence.seeds(run['parameters'])}"

    def __str__(self) -> str:
        changed = {n: v for n, v in self.values.items() if v != self.record.parameters[n].quick}
        what = "quick parameters" if not changed else ", ".join(f"{n} = {v!r}" for n, v in changed.items())
        return f"{self.record.slug}, {self.profile} run: {what}"

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict, dict]:
        face = {
            "kind": "run",
            "paper": self.record.slug,
            "profile": self.profile,
            "parameters": dict(self.values),
            **machine(),
        }
        return (
            {"text/plain": str(self), "text/html": f"<p class='run'>{html.escape(str(self))}</p>"},
            {"fourfold": face},
        )


@dataclass(frozen=True)
class Kept:
    """Named results of a run. Displayed, they travel in the notebook's metadata and show only their name."""

    paper: str
    name: str
    data: Any

    def __str__(self) -> str:
        return f"kept: {self.name}"

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict, dict]:
        face = {"kind": "data", "paper": self.paper, "name": self.name, "data": card.jsonable(self.data)}
        return {"text/plain": str(self)}, {"fourfold": face}


def open_chapter(slug: str, namespace: Mapping[str, Any]) -> Chapter:
    """Open a chapter: read its record, check the injected parameters, make the run deterministic.

    Args:
        slug: the paper's name.
        namespace: ``globals()`` of the notebook, right after its parameters cell.

    Raises:
        fourfold.judging.parameters.ParameterError: for parameters that cannot be used, before any compute.
        fourfold.judging.records.RecordError: when there is no valid record of that name.
    """
    record = records.load(slug)
    values = parameters.validate(record, namespace)
    training.deterministic()
    # tqdm, which transformers imports, says so in every notebook that has no widgets.
    warnings.filterwarnings("ignore", message="IProgress not found")
    return Chapter(record, values, parameters.profile(record, values))
