"""Which theorem is an instance of which: matching one way, up to swapped operands."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from functools import cache

from fourfold.metamath.equations import EQUAL, equations
from fourfold.metamath.kernel import Library
from fourfold.metamath.terms import Term, Theorem, size, statement, subterms


@cache
def commuting(library: Library) -> frozenset[str]:
    """The constructors whose operands may change places, by a theorem of the library."""
    said = (statement(library, label)[1] for label in equations(library))
    return frozenset(
        left[0] for _, left, right in said
        if len(left) == len(right) == 3 and left == (right[0], right[2], right[1]) and left[1] != left[2]
        and isinstance(left[1], str) and isinstance(left[2], str)
    )  # fmt: skip


def matches(pattern: Term, term: Term, given: dict[str, Term], swap: Collection[str]) -> Iterator[dict]:
    """Every way in which terms for its variables make a pattern the term; operands of ``swap`` may swap."""
    if isinstance(pattern, str):
        if given.get(pattern, term) == term:
            yield {**given, pattern: term}
    elif not isinstance(term, str) and pattern[0] == term[0]:
        orders = [term[1:], term[:0:-1]] if term[0] in swap and term[1] != term[2] else [term[1:]]
        for order in orders:
            yield from all_match(pattern[1:], order, given, swap)


def all_match(patterns: tuple, terms: tuple, given: dict[str, Term], swap: Collection[str]) -> Iterator[dict]:
    """The same for as many patterns as terms."""
    if not patterns:
        yield given
    else:
        for more in matches(patterns[0], terms[0], given, swap):
            yield from all_match(patterns[1:], terms[1:], more, swap)


def settled(theorem: Theorem, swap: Collection[str]) -> Theorem:
    """A theorem with what may change places, sides and hypotheses too, in one order; names stay."""

    def order(term: Term) -> Term:
        if isinstance(term, str):
            return term
        parts = [order(part) for part in term[1:]]
        return (term[0], *(sorted(parts, key=repr) if term[0] in swap or term[0] == EQUAL else parts))

    return tuple(sorted(map(order, theorem[0]), key=repr)), order(theorem[1])


def is_instance(pattern: Theorem, theorem: Theorem, swap: Collection[str] = ()) -> bool:
    """Whether terms for its variables make a pattern say the theorem, from no more hypotheses."""

    def found(left: Sequence[Term], given: dict[str, Term]) -> bool:
        tries = (more for one in theorem[0] for more in matches(left[0], one, given, swap)) if left else ()
        return not left or any(found(left[1:], more) for more in tries)

    return any(found(pattern[0], given) for given in matches(pattern[1], theorem[1], {}, swap))


MONOTONE = {"wle": ("wo", "wa")}
"""Constructors of which ``a =< b`` in their places makes ``=<`` of the whole; for ``=`` it is all of them."""


class Known:
    """Theorems, among which to look for what a theorem follows from at once.

    ``library``: whose constructors commute.
    """

    def __init__(self, library: Library, theorems: Collection[Theorem] = ()) -> None:
        self.swap = commuting(library)
        self.by_heads: dict[tuple, list[tuple[int, frozenset, Theorem]]] = defaultdict(list)
        for theorem in theorems:
            claim = theorem[1]
            self.by_heads[_heads(claim)].append((size(claim), _constructors(claim), theorem))

    def covers(self, theorem: Theorem) -> bool:
        """Whether a theorem needs no more than known ones put side by side.

        It is an instance of one, turned or with swapped operands too; or one of its own hypotheses; or both
        its sides have one constructor, and what stands in each of its places is equal, or is covered: so what
        is glued from several theorems under one context, or ``a =< b`` from ``a = b``, is covered.
        """
        hypotheses, claim = theorem
        relation, left, right = claim
        if claim in hypotheses or (left == right and relation in (EQUAL, "wle")):
            return True
        if relation == EQUAL and self._has((hypotheses, (EQUAL, right, left))):
            return True
        if self._has(theorem) or (relation == "wle" and self.covers((hypotheses, (EQUAL, left, right)))):
            return True
        return any(
            all(self.covers((hypotheses, (relation, *pair))) for pair in pairs)
            for pairs in self._places(claim)
        )

    def covered(self, claim: Term) -> bool:
        """Whether an equation has a known conclusion, or what stands in its places, among its instances."""
        small, needs = size(claim), _constructors(claim)
        either = ((), claim), ((), (EQUAL, claim[2], claim[1]))
        return any(
            is_instance(pattern, ((), face), self.swap)
            for those in self.by_heads.values()
            for large, found, (_, known) in those
            if small <= large and needs <= found
            for face in self._faces(known)
            for pattern in either
        )

    def _has(self, theorem: Theorem) -> bool:
        hypotheses, claim = theorem
        (relation, left, right), large, has = _heads(claim), size(claim), _constructors(claim)
        return any(
            is_instance(known, theorem, self.swap)
            for heads in {(relation, a, b) for a in (left, "") for b in (right, "")}
            for small, needs, known in self.by_heads.get(heads, ())
            if small <= large and needs <= has and (hypotheses or not known[0])
        )

    def _places(self, claim: Term) -> Iterator[list[tuple[Term, Term]]]:
        """What stands in the places of both sides, if these have one constructor: pairs, in either order."""
        relation, left, right = claim
        if isinstance(left, str) or isinstance(right, str) or left[0] != right[0] or not left[1:]:
            return
        if relation == EQUAL or left[0] in MONOTONE.get(relation, ()):
            yield list(zip(left[1:], right[1:], strict=True))
            if left[0] in self.swap:
                yield list(zip(left[1:], right[:0:-1], strict=True))

    def _faces(self, claim: Term) -> Iterator[Term]:
        """A formula, and equations in its places where the others are equal."""
        yield claim
        for pairs in self._places(claim):
            differing = [pair for pair in pairs if pair[0] != pair[1]]
            if len(differing) == 1:
                yield from self._faces((claim[0], *differing[0]))


def _heads(claim: Term) -> tuple:
    return (claim[0], *["" if isinstance(side, str) else side[0] for side in claim[1:]])


def _constructors(term: Term) -> frozenset[str]:
    return frozenset(part[0] for part in subterms(term) if not isinstance(part, str))
