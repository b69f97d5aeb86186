"""Truth in the two-element Boolean algebra: a look at theorems of ql.mm that owes nothing to any proof."""

from functools import cache

from fourfold.metamath.equations import EQUAL
from fourfold.metamath.kernel import Library
from fourfold.metamath.terms import Term, Theorem, statement, variables

RELATIONS = {"wle": "df-le2", "wc": "df-c2"}
"""A relation -> the definition that concludes an equation from it."""


@cache
def definitions(library: Library) -> dict[str, tuple[Term, Term]]:
    """Constructor -> both sides of the axiom that defines it; ``'`` and ``v`` have none."""
    found: dict[str, tuple[Term, Term]] = {}
    for one in library.provable:
        hypotheses, (relation, left, right) = statement(library, one.label)
        if not one.proof and not hypotheses and relation == EQUAL and not isinstance(left, str):
            plain = all(isinstance(part, str) for part in left[1:])
            if plain and left[0] not in ("wn", "wo") and len(set(left[1:])) == len(left) - 1:
                found.setdefault(left[0], (left, right))
    return found


def table(library: Library, term: Term, given: dict[str, int], full: int) -> int:
    """The truth table of a term or formula, a bit for each assignment; ``given``: those of its variables.

    ``full`` has all bits. A variable that is not given, which a definition has on its right side alone, is 0.
    """
    if isinstance(term, str):
        return given.get(term, 0)
    head, *sides = term
    parts = [table(library, side, given, full) for side in sides]
    if head == "wn":
        return full ^ parts[0]
    if head == "wo":
        return parts[0] | parts[1]
    if head == EQUAL:
        return full ^ parts[0] ^ parts[1]
    if head in RELATIONS:
        ((_, *names),), defined = statement(library, RELATIONS[head])
    else:
        (_, *names), defined = definitions(library)[head]
    return table(library, defined, dict(zip(names, parts, strict=True)), full)


def names(theorem: Theorem) -> list[str]:
    """The variables of a theorem."""
    return list(dict.fromkeys(v for term in (*theorem[0], theorem[1]) for v in variables(term)))


def violated(library: Library, theorem: Theorem) -> bool:
    """Whether some assignment makes all hypotheses true and the conclusion false.

    Raises ``ValueError`` for more than 16 variables, whose table would have more than 65536 bits.
    """
    hypotheses, claim = theorem
    if len(names(theorem)) > 16:
        raise ValueError(f"theorem must have at most 16 variables, got {len(names(theorem))}")
    bits = 1 << len(names(theorem))
    full = (1 << bits) - 1
    # Bit i of a variable's table is bit k of the number i.
    given = {v: full // ((1 << (1 << k)) + 1) << (1 << k) for k, v in enumerate(names(theorem))}
    satisfied = full
    for hypothesis in hypotheses:
        satisfied &= table(library, hypothesis, given, full)
    return satisfied & ~table(library, claim, given, full) != 0
