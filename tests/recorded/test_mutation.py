"""Mutations: a claim turns without its mechanism, one that does not is not told, and both are found out."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from fourfold.frequency import gaunt_tensor_product
from fourfold.judging import card, parameters, records, rule
from fourfold.recorded import evidence, mutation, survival

CHAPTERS = [record for record in records.chapters() if any(claim.mutation for claim in record.claims)]


@pytest.mark.parametrize("record", CHAPTERS, ids=lambda record: record.slug)
def test_exact_claims_turn_without_their_mechanism_as_is_kept(record):
    kept = survival.read(record.slug)
    for claim, outcome in mutation.run([record.slug], exact=True)[record.slug].items():
        assert claim in kept, f"{claim}: make mutate NAME={record.slug}"
        assert outcome["turned"] == kept[claim]["turned"], f"{claim}: {outcome}"


@pytest.mark.parametrize("record", CHAPTERS, ids=lambda record: record.slug)
def test_what_is_kept_is_of_todays_code_and_criteria(record):
    known, kept = mutation.of(record), survival.read(record.slug)
    named = {claim for claims in mutation.named(record).values() for claim in claims}
    assert kept.keys() <= named
    for claim, outcome in kept.items():
        assert outcome["criteria"] == rule.digest(record.claim(claim)), f"{claim}: make mutate"
        assert outcome["sources"] == mutation.sources_of(record, known[outcome["mutation"]]), "make mutate"


@pytest.mark.parametrize("record", records.chapters(), ids=lambda record: record.slug)
def test_every_reproduced_claim_has_a_mutation_or_a_measured_ablation(record):
    run = evidence.read(record.slug, "recorded")
    judged = [claim for claim in record.claims if claim.criteria and not claim.check]
    for claim in judged:
        face = evidence.face(record, run, claim.id)
        if face and face["verdict"] == "reproduced" and "timed" not in claim.evidence:
            assert claim.mutation, f"{claim.id} needs a mutation"
            assert claim.id in survival.read(record.slug), f"{claim.id}: make mutate NAME={record.slug}"


def zero(*_, **__):
    """Nothing is multiplied."""
    return 0


RECORD = records.load("gaunt_tensor_product")


def with_mutations(monkeypatch, *pairs):
    monkeypatch.setattr(mutation, "_test_file", lambda _: SimpleNamespace(MUTATIONS=pairs))


def test_a_mutation_says_what_it_takes_away_and_replaces_what_is_there(monkeypatch):
    public = next(name for name in vars(gaunt_tensor_product) if not name.startswith("_") and name.islower())
    with_mutations(monkeypatch, (public, zero))
    found = mutation.of(RECORD)["zero"]
    assert found.words == "Nothing is multiplied."
    assert found.target == f"fourfold.frequency.gaunt_tensor_product.{public}"
    with_mutations(monkeypatch, ("not_there", zero))
    with pytest.raises(ValueError, match=r"replaces fourfold\.frequency\.gaunt_tensor_product\.not_there"):
        mutation.of(RECORD)
    with_mutations(monkeypatch, (public, lambda: 0))
    with pytest.raises(ValueError, match="does not say what it takes away"):
        mutation.of(RECORD)


def test_a_claim_that_names_an_unknown_mutation_is_refused(monkeypatch):
    with_mutations(monkeypatch)
    claim = next(c for c in RECORD.claims if c.criteria and c.evidence == ["exact"])
    named = claim.model_copy(update={"mutation": "heartless"})
    with pytest.raises(ValueError, match="no mutation 'heartless' among none"):
        mutation.named(RECORD.model_copy(update={"claims": [named]}))


@pytest.fixture
def verdict():
    claim = next(c for c in RECORD.claims if c.criteria and c.evidence == ["exact"])
    claim = claim.model_copy(update={"mutation": "zero"})
    return card.Verdict(RECORD.slug, claim, "quick", "reproduced", "every criterion is met", ())


def outcome(verdict, **changes):
    return {
        "mutation": "zero",
        "words": "Nothing is multiplied.",
        "target": "fourfold.a.b",
        "word": "not reproduced",
        "reason": "violated",
        "disagrees": "",
        "turned": True,
        "criteria": rule.digest(verdict.claim),
        "sources": "0",
    } | changes


def test_a_claim_that_survives_is_not_told_and_one_that_turns_says_so(verdict):
    told = survival.tell(verdict, {verdict.claim.id: outcome(verdict)})
    assert told.word == "reproduced"
    assert told.mutation == "Without its mechanism (Nothing is multiplied): not reproduced."
    assert told.mutation in str(told)
    assert told.mutation in told.to_html()
    survivor = survival.tell(verdict, {verdict.claim.id: outcome(verdict, turned=False, word="reproduced")})
    assert survivor.word == "inconclusive"
    assert survivor.reason == "it survives without its mechanism (Nothing is multiplied)"
    open_ = survival.tell(verdict, {verdict.claim.id: outcome(verdict, turned=False)})
    assert open_.word == "inconclusive"
    assert open_.reason.startswith("its seeds cannot tell it from what is left without its mechanism")


def test_an_outcome_under_other_criteria_or_of_another_mutation_says_nothing(verdict):
    for known in (
        {},
        {verdict.claim.id: outcome(verdict, criteria="other")},
        {verdict.claim.id: outcome(verdict, mutation="other")},
    ):
        told = survival.tell(verdict, known)
        assert told.word == "reproduced"
        assert "has not been run" in told.mutation


def test_only_what_is_reproduced_can_survive(verdict):
    failed = replace(verdict, word="not reproduced")
    assert survival.tell(failed, {verdict.claim.id: outcome(verdict, turned=False)}) is failed


@pytest.mark.parametrize("record", CHAPTERS, ids=lambda record: record.slug)
def test_a_mutated_run_has_the_recorded_parameters_at_four_seeds(record, monkeypatch):
    given = {}
    monkeypatch.setattr(mutation, "exec", lambda code, namespace: given.update(namespace), raising=False)
    (name, claims), *_ = mutation.named(record).items()
    with pytest.raises(KeyError):  # nothing was judged
        mutation.measure(record.slug, name, claims)
    recorded = record.values("recorded")
    assert {key: given[key] for key in recorded} == recorded | {"seeds": 4}
    assert parameters.validate(record, {key: given[key] for key in recorded})["seeds"] == 4
