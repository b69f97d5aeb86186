"""Alchemy: every mutant is proved, and true; what is new is no instance; the prover's proofs are proofs."""

import math

import pytest
import torch
from torch import nn

from fourfold.metamath import boolean, controls, equations, instances, kernel, terms
from fourfold.theory import alchemy as paper
from fourfold.theory.alchemy import Mutant, Policy, grams, mutate, prove, renamed, training_pairs
from fourfold.training import stream

from ..draws import normal

LIBRARY = kernel.quantum_logic()
NUMBER = {label: one.number for label, one in LIBRARY.assertions.items()}
TARGETS = ("lelor", "oml2", "r3b", "comcom3", "u3lem13b", "womle")


def formula(text):
    return terms.parse(LIBRARY, ("|-", *text.split()))


def accepted(mutant, proof=None):
    given = {name: terms.unparse(LIBRARY, hypothesis) for hypothesis, name in mutant.names.items()}
    proof = terms.labels(LIBRARY, mutant.proof, mutant.names) if proof is None else proof
    return kernel.verify(LIBRARY, given, terms.unparse(LIBRARY, mutant.claim), proof)


# --- mutation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_every_mutant_is_proved_true_and_said_once(target):
    made = mutate(LIBRARY, target)
    assert made
    assert all(map(accepted, made))
    assert not any(boolean.violated(LIBRARY, one.theorem) for one in made)
    assert len({equations.canonical(*one.theorem) for one in made}) == len(made)
    assert not {equations.canonical(*one.theorem) for one in made} & paper.statements(LIBRARY)


def test_a_rewritten_conclusion_and_an_applied_theorem_by_hand():
    by = {(one.tactic, one.lemma): one for one in mutate(LIBRARY, "lelor")}
    assert by["rw", "ax-a2"].theorem == ((formula("a =< b"),), formula("( a v c ) =< ( c v b )"))
    hypotheses, claim = by["apply", "letr"].theorem
    assert claim == formula("( c v a ) =< ( c v b )")
    assert hypotheses == (formula("a =< d"), formula("d =< b"))


def test_lemmas_tactics_and_sizes_are_obeyed():
    earlier = mutate(LIBRARY, "oml2", lemmas=lambda lemma: NUMBER[lemma] < NUMBER["oml2"])
    assert {NUMBER[one.lemma] < NUMBER["oml2"] for one in earlier} == {True}
    both = {equations.canonical(*one.theorem) for one in mutate(LIBRARY, "oml2")}
    rw, apply = (mutate(LIBRARY, "oml2", tactic) for tactic in ("rw", "apply"))
    assert {one.tactic for one in rw} == {"rw"}
    assert both == {equations.canonical(*one.theorem) for one in [*rw, *apply]}
    small = mutate(LIBRARY, "oml2", max_size=9)
    assert 0 < len(small) < len(both)
    assert all(terms.size(part) <= 9 for one in small for part in (*one.hypotheses, one.claim))


def test_a_wrong_lemma_makes_no_proof():
    one = next(one for one in mutate(LIBRARY, "lelor") if one.lemma == "ax-a2")
    proof = terms.labels(LIBRARY, one.proof, one.names)
    assert accepted(one, proof)
    assert not accepted(one, ["ancom" if label == "ax-a2" else label for label in proof])


def test_a_whole_side_or_a_part_of_one():
    by = {one.lemma: one.inside for one in mutate(LIBRARY, "oml2", "rw")}
    assert by["ax-a2"] is False
    assert by["df-a"] is True
    assert not any(one.inside for one in mutate(LIBRARY, "oml2", "apply"))


def test_spoilt_proofs_are_of_four_kinds_and_none_is_accepted():
    made = [one for target in TARGETS for one in mutate(LIBRARY, target)[:4]]
    proofs = [(one.theorem, one.names, one.proof) for one in made]
    spoilt = controls.spoilt(LIBRARY, proofs, stream(0, "spoilt"))
    assert len(spoilt) > 3 * len(made)
    assert not any(terms.accepts(LIBRARY, *one) for one in spoilt)


def test_instances_and_gluings_are_true_and_never_new():
    known = instances.Known(LIBRARY, [terms.statement(LIBRARY, target) for target in TARGETS])
    chance = stream(0, "instances")
    for target in TARGETS * 3:
        one = controls.instance(LIBRARY, target, chance)
        assert not boolean.violated(LIBRARY, one)
        assert known.covers(one)
    glued = controls.glued(LIBRARY, "r3b", "u3lem13b")
    assert glued[1][0] == "wb"
    assert not boolean.violated(LIBRARY, glued)
    assert known.covers(glued)
    assert controls.instance(LIBRARY, "oml2", stream(0, "x")) == controls.instance(
        LIBRARY, "oml2", stream(0, "x")
    )


# --- pairs and policy -------------------------------------------------------------------------------------


def test_pairs_of_a_proof_by_hand():
    """lelor: le3tr1 from leror and twice ax-a2; the equations are the two instances of ax-a2."""
    found = training_pairs(LIBRARY, terms.tree(LIBRARY, "lelor"))
    assert found == {(renamed(formula("( c v a ) = ( a v c )")), "ax-a2")}
    mutant = next(one for one in mutate(LIBRARY, "lelor") if one.lemma == "ax-a2")
    assert paper.mutant_pairs(LIBRARY, [mutant]) >= found
    assert training_pairs(LIBRARY, terms.tree(LIBRARY, "oml2"), most=0) == set()


def test_own_statements_show_every_lemma_that_rewrites():
    shown = {lemma for _, lemma in paper.self_pairs(LIBRARY)}
    assert shown == {one.label for found in equations.rules(LIBRARY).values() for one in found}
    assert (renamed(formula("( a v b ) = ( b v a )")), "ax-a2") in paper.self_pairs(LIBRARY)


def test_grams_are_counted_and_know_no_names():
    one = grams(LIBRARY, formula("( a v b ) = c"))
    assert one.sum() == 8 + 7 + 6 + 5
    assert torch.equal(one, grams(LIBRARY, formula("( y v x ) = z")))
    assert not torch.equal(one, grams(LIBRARY, formula("( a v b ) = a")))


def test_a_policy_is_torchs_bag_of_embeddings(jolted):
    net = jolted(Policy, 7, 5)
    counts = torch.stack([grams(LIBRARY, formula(text)) for text in ("a = b", "( a v b ) = a ' '")])
    bag = nn.EmbeddingBag(paper.GRAMS, 5, mode="mean", dtype=torch.float64)
    with torch.no_grad():
        bag.weight.copy_(net.embedding.weight.T)
        ids = [torch.repeat_interleave(torch.arange(paper.GRAMS), row.long()) for row in counts]
        starts = torch.tensor([0, len(ids[0])])
        expected = net.out(net.norm(bag(torch.cat(ids), starts)))
        torch.testing.assert_close(net(counts.double()), expected, rtol=0, atol=1e-12)
    x = normal(2, paper.GRAMS).abs() + 1

    def mixed(w):
        return net(x * w)

    assert torch.autograd.gradcheck(mixed, torch.ones(1, dtype=torch.float64, requires_grad=True))


def test_a_split_knows_nothing_of_its_goals():
    goals = ["oran", "orcom", "anor3", "oml2"]
    goals = [label for label in goals if equations.equations(LIBRARY).get(label) == label]
    made = []

    def sampled(mutants):
        made.extend(mutants[:300])
        return made

    held = ["lelor", "df2i3"]
    found = paper.split(
        LIBRARY, goals, held, lambda free: [one for one in free[:40] if one not in goals], sampled
    )
    assert not {one.target for one in made} & {*goals, *held}
    assert not {equations.equations(LIBRARY).get(one.lemma) for one in made} & set(goals)
    known = instances.Known(LIBRARY, [terms.statement(LIBRARY, goal) for goal in goals])
    for pairs in found.pairs.values():
        assert pairs
        assert not {lemma for _, lemma in pairs} & set(goals)
        for state, _ in pairs[::50]:
            assert not known.covers(((), state))
            assert not known.covered(state)
    assert not set(found.pairs["library"]) & {*found.pairs["mutants"], *found.pairs["statements"]}
    assert set(found.tested) >= paper.own_pairs(LIBRARY, "lelor")


# --- search -----------------------------------------------------------------------------------------------


def likely(*lemmas):
    return lambda state: {lemma: math.log(0.9 - 0.1 * i) for i, lemma in enumerate(lemmas)}


def solved(goal, *lemmas, **how):
    return prove(LIBRARY, formula(goal), likely(*lemmas), lambda lemma: lemma != "orcom", **how)


def test_a_found_proof_is_accepted_and_says_what_it_used():
    goal = "( ( a v b ) v c ) ' = ( ( b v c ) v a ) '"
    found = solved(goal, "ax-a2", "ax-a3", "ancom")
    assert set(found.lemmas) <= {"ax-a2", "ax-a3"}
    proof = terms.labels(LIBRARY, found.proof, {})
    assert kernel.verify(LIBRARY, {}, ("|-", *goal.split()), proof)
    assert found == solved(goal, "ax-a2", "ax-a3", "ancom")


def test_search_ends_without_a_proof_of_what_is_false_or_out_of_reach():
    assert solved("( a v b ) = ( a ^ b )", "ax-a2", "ancom") is None
    assert solved("( a v b ) = ( b v a )", "ancom") is None
    assert prove(LIBRARY, formula("( a v b ) = ( b v a )"), likely("ax-a2"), lambda _: False) is None
    assert solved("( ( a v b ) v c ) ' = ( c v ( b v a ) ) '", "ax-a2", "ax-a3", budget=1) is None


# --- mutations --------------------------------------------------------------------------------------------


def instances_only(library, label, *how):
    """Mutants are random instances of the theorem, as many, in place of rewritten and back-chained ones."""
    chance = stream(0, label)
    copies = [controls.instance(library, label, chance) for _ in mutate(library, label, *how)]
    return [Mutant(*one, "rw", label, label, False, lambda: terms.tree(library, label)) for one in copies]


MUTATIONS = [("mutate", instances_only)]


def test_the_mutation_makes_nothing_new():
    known = instances.Known(LIBRARY, [terms.statement(LIBRARY, "oml2")])
    assert all(known.covers(one.theorem) for one in instances_only(LIBRARY, "oml2"))
    assert not all(known.covers(one.theorem) for one in mutate(LIBRARY, "oml2"))


# --- bad input --------------------------------------------------------------------------------------------

REFUSED = [
    (
        lambda: mutate(LIBRARY, "oml2", "simp"),
        "tactics must be one of 'rw', 'apply', 'rw\\+apply', got 'simp'",
    ),
    (lambda: mutate(LIBRARY, "oml2", max_size=0), "max_size must be >= 1, got 0"),
    (lambda: Policy(0), "lemmas must be >= 1, got 0"),
    (lambda: Policy(3, 0), "dim must be >= 1, got 0"),
    (lambda: solved("a = b", "ax-a2", budget=0), "budget must be >= 1, got 0"),
    (lambda: solved("a = b", "ax-a2", width=0), "width must be >= 1, got 0"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refused_with_name_value_and_range(call, message):
    with pytest.raises(ValueError, match=message):
        call()
