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


def faces(claim: Term) -> Iterator[Term]:
    """A formula, an equation also turned round, and what is left without a context that both sides share."""
    yield claim
    relation, left, right = claim
    if relation == EQUAL:
        yield (relation, right, left)
        if not isinstance(left, str) and not isinstance(right, str) and left[0] == right[0]:
            apart = [(a, b) for a, b in zip(left[1:], right[1:], strict=True) if a != b]
            if len(apart) == 1:
                yield from faces((EQUAL, *apart[0]))


class Known:
    """Theorems, among which to look for one that says more than another does.

    ``library``: whose constructors commute.
    """

    def __init__(self, library: Library, theorems: Collection[Theorem] = ()) -> None:
        self.swap = commuting(library)
        self.by_heads: dict[tuple, list[tuple[int, frozenset, Theorem]]] = defaultdict(list)
        self.by_faces: dict[tuple, list[tuple[int, frozenset, Term]]] = defaultdict(list)
        for theorem in theorems:
            self.add(theorem)

    @staticmethod
    def _heads(claim: Term) -> tuple:
        return (claim[0], *["" if isinstance(side, str) else side[0] for side in claim[1:]])

    def add(self, theorem: Theorem) -> None:
        """One more."""
        claim = theorem[1]
        self.by_heads[self._heads(claim)].append((size(claim), _constructors(claim), theorem))
        for face in faces(claim):
            self.by_faces[self._heads(face)].append((size(face), _constructors(face), face))

    def covers(self, theorem: Theorem) -> bool:
        """Whether a theorem, in one of the ``faces`` of its conclusion, is an instance of a known one.

        Swapped operands count as the same.
        """
        for face in faces(theorem[1]):
            (relation, left, right), large, has = self._heads(face), size(face), _constructors(face)
            for heads in {(relation, a, b) for a in (left, "") for b in (right, "")}:
                for small, needs, known in self.by_heads.get(heads, ()):
                    bare = known[0] and not theorem[0]
                    possible = small <= large and needs <= has and not bare
                    if possible and is_instance(known, (theorem[0], face), self.swap):
                        return True
        return False

    def covered(self, claim: Term) -> bool:
        """Whether a conclusion without hypotheses has a face of a known one among its instances."""
        heads, small, needs = self._heads(claim), size(claim), _constructors(claim)
        for has, those in self.by_faces.items():
            if all(mine in ("", its) for mine, its in zip(heads, has, strict=True)):
                for large, found, face in those:
                    possible = small <= large and needs <= found
                    if possible and is_instance(((), claim), ((), face), self.swap):
                        return True
        return False


def _constructors(term: Term) -> frozenset[str]:
    return frozenset(part[0] for part in subterms(term) if not isinstance(part, str))
