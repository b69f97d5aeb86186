"""Rewriting with the equations of a Metamath library, and the proofs of what comes out.

Made for relations and constructors of ql.mm: ``=``, ``=<`` and ``C``.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import permutations
from typing import NamedTuple

from fourfold.metamath.kernel import Library
from fourfold.metamath.terms import (
    Step,
    Term,
    Theorem,
    conclude,
    match,
    replaced,
    statement,
    substitute,
    subterms,
    use,
    variables,
)

EQUAL = "wb"
# Glue: a relation holds of what is equal to its left side, or to its right side.
LEFT = {EQUAL: "ax-r2", "wle": "bltr", "wc": "bctr"}
RIGHT = {EQUAL: "ax-r2", "wle": "lbtr", "wc": "cbtr"}


# --- rewriting --------------------------------------------------------------------------------------------


class Rule(NamedTuple):
    """An equation, read from left to right or, not ``forward``, from right to left."""

    label: str
    left: Term
    right: Term
    forward: bool


def canonical(hypotheses: Sequence[Term], claim: Term) -> Theorem:
    """A theorem but for the names of variables, the order of hypotheses, and the sides of its equation."""
    claims = [claim, (EQUAL, claim[2], claim[1])] if claim[0] == EQUAL else [claim]
    orders = permutations(hypotheses) if len(hypotheses) < 4 else [tuple(hypotheses)]

    def renamed(said: Term, order: Sequence[Term]) -> Theorem:
        names: dict[str, Term] = {}
        for term in (said, *order):
            for variable in variables(term):
                names.setdefault(variable, f"v{len(names)}")
        return tuple(substitute(term, names) for term in order), substitute(said, names)

    return min((renamed(said, order) for order in orders for said in claims), key=repr)


@cache
def equations(library: Library) -> dict[str, str]:
    """Label of each equation without hypotheses -> the first one that says the same but for names."""
    first: dict[Theorem, str] = {}
    return {
        one.label: first.setdefault(canonical(*statement(library, one.label)), one.label)
        for one in library.provable
        if not one.hypotheses and statement(library, one.label)[1][0] == EQUAL
    }


@cache
def rules(library: Library) -> dict[str, list[Rule]]:
    """The rules by the constructor of their left side: no bare variable there, none on the right alone."""
    found = defaultdict(list)
    for label, first in equations(library).items():
        _, one, other = statement(library, label)[1]
        for left, right, forward in ((one, other, True), (other, one, False)):
            bound = not isinstance(left, str) and set(variables(right)) <= set(variables(left))
            if label == first and left != right and bound:
                found[left[0]].append(Rule(label, left, right, forward))
    return dict(found)


class Rewrite(NamedTuple):
    """One use of a rule: ``old`` becomes ``new`` everywhere in a formula, which gives ``formula``."""

    rule: Rule
    given: dict[str, Term]
    old: Term
    new: Term
    formula: Term

    def equation(self, library: Library) -> Step:
        """The proof of ``old = new``."""
        step = use(library, self.rule.label, self.given)
        return step if self.rule.forward else conclude(library, "ax-r1", step)


def rewrites(library: Library, formula: Term, cost: Mapping[str, float] | None = None) -> Iterator[Rewrite]:
    """Every rule that fits, at the first subterm that it fits, as Lean's ``rw`` does.

    ``cost`` of a lemma: the cheapest come first, and those without one not at all. Left out are places inside
    a constructor for which the library has no congruence.
    """
    parts = [part for part in dict.fromkeys(subterms(formula)) if not isinstance(part, str)]
    closed = {c for c in {part[0] for part in parts[1:]} if any(
        (c, i + 1) not in congruences(library) for i in range(len(library.assertions[c].floats))
    )}  # fmt: skip
    inside = {inner for part in parts if part[0] in closed for side in part[1:] for inner in subterms(side)}
    places = defaultdict(list)
    for part in parts:
        if part not in inside:
            places[part[0]].append(part)
    fitting = [rule for head in places for rule in rules(library).get(head, ())]
    if cost is not None:
        fitting = [rule for rule in fitting if rule.label in cost]
        fitting.sort(key=lambda rule: cost[rule.label])
    for rule in fitting:
        for old in places[rule.left[0]]:
            given: dict[str, Term] = {}
            if match(rule.left, old, given):
                new = substitute(rule.right, given)
                if new != old:
                    yield Rewrite(rule, given, old, new, replaced(formula, old, new))
                break


@cache
def congruences(library: Library) -> dict[tuple[str, int], tuple[str, Term]]:
    """(constructor, place) -> theorem that from x = y concludes F(x) = F(y) there, and that left side."""
    found: dict[tuple[str, int], tuple[str, Term]] = {}
    for one in library.provable:
        hypotheses, (relation, left, right) = statement(library, one.label)
        if len(hypotheses) != 1 or relation != EQUAL or isinstance(left, str) or isinstance(right, str):
            continue
        if left[0] != right[0] or hypotheses[0][0] != EQUAL or len(set(left[1:])) < len(left) - 1:
            continue
        apart = [i for i in range(1, len(left)) if left[i] != right[i]]
        one_place = len(apart) == 1 and all(isinstance(part, str) for part in left[1:])
        if one_place and hypotheses[0][1:] == (left[apart[0]], right[apart[0]]):
            found.setdefault((left[0], apart[0]), (one.label, left))
    return found


def congruence(library: Library, term: Term, rewrite: Rewrite) -> Step | None:
    """The proof that a term is equal to what a rewrite makes of it; None if that is the term itself.

    Raises ``KeyError`` if the library has no congruence for a constructor.
    """
    if term == rewrite.old:
        return rewrite.equation(library)
    if isinstance(term, str):
        return None
    whole = None
    for i, part in enumerate(term[1:], 1):
        inner = congruence(library, part, rewrite)
        if inner is not None:
            label, pattern = congruences(library)[term[0], i]
            given = {v: t for k, (v, t) in enumerate(zip(pattern[1:], term[1:], strict=True), 1) if k != i}
            step = conclude(library, label, inner, given=given)
            whole = step if whole is None else conclude(library, "ax-r2", whole, step)
            term = (*term[:i], inner.says(library)[2], *term[i + 1 :])
    return whole


def carried(library: Library, step: Step, formula: Term, rewrite: Rewrite) -> Step:
    """From a proof of a formula that of its rewritten form, or the other way round: ``step`` is either."""
    relation, left, right = formula
    before, after = (congruence(library, side, rewrite) for side in (left, right))
    forward = step.says(library) == formula
    if before is not None:
        before = conclude(library, "ax-r1", before) if forward else before
        step = conclude(library, LEFT[relation], before, step)
    if after is not None:
        after = after if forward else conclude(library, "ax-r1", after)
        step = conclude(library, RIGHT[relation], step, after)
    return step
