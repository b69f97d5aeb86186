"""What looks like theorems and proofs: instances that are not new, and proofs that a kernel must reject."""

from collections import defaultdict
from collections.abc import Sequence

import torch

from fourfold.metamath.equations import canonical
from fourfold.metamath.kernel import Library
from fourfold.metamath.terms import Step, Term, Theorem, labels, statement, substitute, variables


def instance(library: Library, label: str, generator: torch.Generator) -> Theorem:
    """A theorem with a random term of one operation in place of each variable."""
    hypotheses, claim = statement(library, label)
    names = list(dict.fromkeys(v for term in (claim, *hypotheses) for v in variables(term)))
    given: dict[str, Term] = {}
    for name in names:
        other = names[int(torch.randint(len(names), (), generator=generator))]
        kind = ("wn", "wo", "wa")[int(torch.randint(3, (), generator=generator))]
        given[name] = (kind, name) if kind == "wn" else (kind, name, other)
    return tuple(substitute(term, given) for term in hypotheses), substitute(claim, given)


def glued(library: Library, one: str, other: str) -> Theorem:
    """From a = b and c = d, or a =< b and c =< d, that of a v c and b v d; with the hypotheses of both.

    Raises ``ValueError`` for two relations, which together say nothing.
    """
    (first, (relation, a, b)), (second, (its, c, d)) = (statement(library, label) for label in (one, other))
    if relation != its:
        raise ValueError(f"{one} and {other} must have one relation, got {relation} and {its}")
    return (*first, *second), (relation, ("wo", a, c), ("wo", b, d))


def spoilt(
    library: Library, proofs: Sequence[tuple[Theorem, dict[Term, str], Step]], generator: torch.Generator
) -> list[tuple[dict[Term, str], Term, list[str]]]:
    """Hypotheses with their labels, claim and proof of theorems whose proofs are wrong, up to four a proof.

    Another assertion with as many parts as the last step; the proof of another claim; a hypothesis that is
    used left out; two variables of the claim made one.
    """
    found = []
    alike = defaultdict(list)
    for one in library.provable:
        alike[len(one.floats), len(one.hypotheses)].append(one.label)
    for (_, claim), names, step in proofs:
        proof = labels(library, step, names)
        last = library.assertions[proof[-1]]
        said = canonical(*statement(library, last.label))
        for wrong in alike[len(last.floats), len(last.hypotheses)]:
            if canonical(*statement(library, wrong)) != said:
                found.append((names, claim, [*proof[:-1], wrong]))
                break
        for (_, another), its, other in proofs:
            if another != claim:
                found.append((names, claim, labels(library, other, its)))
                break
        for used in (hypothesis for hypothesis, name in names.items() if name in proof):
            found.append(({h: name for h, name in names.items() if h != used}, claim, proof))
            break
        several = list(dict.fromkeys(variables(claim)))
        if len(several) > 1:
            at = int(torch.randint(1, len(several), (), generator=generator))
            found.append((names, substitute(claim, {several[at]: several[0]}), proof))
    return found
