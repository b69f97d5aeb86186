"""Statements of a Metamath library as terms, and proofs as trees."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from fourfold.metamath.kernel import Assertion, Library, Symbols, unpacked, verify

Term = Any
"""A variable's symbol, or (label of a syntax axiom, a term for each variable in its frame's order)."""

Theorem = tuple[tuple[Term, ...], Term]
"""Hypotheses and conclusion."""


@cache
def statement(library: Library, label: str) -> Theorem:
    """An assertion's hypotheses and what it says, as terms."""
    found = library.assertions[label]
    return tuple(parse(library, one) for one in found.hypotheses), parse(library, found.symbols)


def parse(library: Library, symbols: Symbols) -> Term:
    """The term or formula that symbols, their type first, spell. Raises ``ValueError`` if they spell none."""
    term, end = _parse(library, symbols, 1)
    if end != len(symbols):
        raise ValueError(f"{' '.join(symbols)!r} is no formula from symbol {end} on")
    return term


def _parse(library: Library, symbols: Symbols, at: int) -> tuple[Term, int]:
    """The longest term that begins at a symbol, and where it ends."""
    if at >= len(symbols):
        raise ValueError(f"{' '.join(symbols)!r} ends too early")
    if symbols[at] in library.variables:
        term, at = symbols[at], at + 1
    else:
        candidates = [a for a in library.syntax if a.symbols[1] == symbols[at]]
        term, at = _fill(library, symbols, at + 1, candidates, 2, [])
    while at < len(symbols):  # what is written behind its first part: a ', a = b
        candidates = [
            a for a in library.syntax
            if len(a.symbols) > 2 and a.symbols[1] in library.variables and a.symbols[2] == symbols[at]
        ]  # fmt: skip
        if not candidates:
            break
        term, at = _fill(library, symbols, at + 1, candidates, 3, [term])
    return term, at


def _fill(
    library: Library, symbols: Symbols, at: int, candidates: list[Assertion], place: int, parts: list[Term]
) -> tuple[Term, int]:
    """Read on from ``place`` of the candidates' patterns, which agree up to there; ``parts``: terms read."""
    while candidates:
        for whole in (a for a in candidates if len(a.symbols) == place):
            spelled = [symbol for symbol in whole.symbols if symbol in library.variables]
            found = dict(zip(spelled, parts, strict=True))
            return (whole.label, *(found[variable] for _, variable in whole.floats)), at
        if candidates[0].symbols[place] in library.variables:
            part, at = _parse(library, symbols, at)
            parts.append(part)
        else:
            here = symbols[at] if at < len(symbols) else None
            candidates = [a for a in candidates if a.symbols[place] == here]
            at += 1
        place += 1
    raise ValueError(f"{' '.join(symbols)!r} is no formula at symbol {at - 1}")


def unparse(library: Library, term: Term, kind: str = "|-") -> Symbols:
    """The symbols of a term or formula, after the type that they shall have."""
    return (kind, *_spelled(library, term))


def _spelled(library: Library, term: Term) -> Iterator[str]:
    if isinstance(term, str):
        yield term
        return
    pattern = library.assertions[term[0]]
    parts = {variable: part for (_, variable), part in zip(pattern.floats, term[1:], strict=True)}
    for symbol in pattern.symbols[1:]:
        if symbol in parts:
            yield from _spelled(library, parts[symbol])
        else:
            yield symbol


def match(pattern: Term, term: Term, given: dict[str, Term]) -> bool:
    """Whether terms for the pattern's variables make it the term; ``given`` holds them, and is added to."""
    if isinstance(pattern, str):
        return given.setdefault(pattern, term) == term
    if isinstance(term, str) or pattern[0] != term[0]:
        return False
    return all(match(p, t, given) for p, t in zip(pattern[1:], term[1:], strict=True))


def substitute(term: Term, given: Mapping[str, Term]) -> Term:
    """A term with terms in place of its variables; those without stay."""
    if isinstance(term, str):
        return given.get(term, term)
    return (term[0], *[substitute(part, given) for part in term[1:]])


def subterms(term: Term) -> Iterator[Term]:
    """A term and all its parts, from the outside, first ones first."""
    yield term
    for part in () if isinstance(term, str) else term[1:]:
        yield from subterms(part)


def replaced(term: Term, old: Term, new: Term) -> Term:
    """A term with every instance of ``old`` replaced."""
    if term == old:
        return new
    return term if isinstance(term, str) else (term[0], *[replaced(part, old, new) for part in term[1:]])


def variables(term: Term) -> list[str]:
    """The variables of a term in order, each as often as it stands there."""
    return [term] if isinstance(term, str) else [v for part in term[1:] for v in variables(part)]


def size(term: Term) -> int:
    """Variables and constructors of a term."""
    return 1 if isinstance(term, str) else 1 + sum(map(size, term[1:]))


# --- proofs as trees --------------------------------------------------------------------------------------

HYPOTHESIS = "hypothesis"


class Step(NamedTuple):
    """What a proof does at one place: an assertion, terms for its variables, and proofs of its hypotheses."""

    label: str
    """Of an assertion, or `HYPOTHESIS`."""
    terms: tuple[Term, ...]
    """For the variables of its frame; the hypothesis itself where it is one."""
    parts: tuple["Step", ...] = ()

    def says(self, library: Library) -> Term:
        """What it proves."""
        if self.label == HYPOTHESIS:
            return self.terms[0]
        names = (variable for _, variable in library.assertions[self.label].floats)
        return substitute(statement(library, self.label)[1], dict(zip(names, self.terms, strict=True)))


def use(library: Library, label: str, given: Mapping[str, Term], *parts: Step) -> Step:
    """An assertion with terms for its variables."""
    frame = library.assertions[label].floats
    return Step(label, tuple(given[variable] for _, variable in frame), parts)


def conclude(library: Library, label: str, *parts: Step, given: Mapping[str, Term] | None = None) -> Step:
    """A theorem used on proofs of its hypotheses, which say what its variables are; the others: ``given``.

    Raises ``ValueError`` where the proofs are of something else.
    """
    found = dict(given or {})
    for hypothesis, part in zip(statement(library, label)[0], parts, strict=True):
        if not match(hypothesis, part.says(library), found):
            raise ValueError(f"{label} does not follow from {part.label}")
    return use(library, label, found, *parts)


def grafted(step: Step, hypothesis: Term, proof: Step) -> Step:
    """A proof with a proof of one of its hypotheses in that one's place."""
    if step.label == HYPOTHESIS:
        return proof if step.terms[0] == hypothesis else step
    return step._replace(parts=tuple(grafted(part, hypothesis, proof) for part in step.parts))


@cache
def tree(library: Library, label: str) -> Step:
    """A theorem's proof as a tree."""
    stack: list = []
    theorem = library.assertions[label]
    hypotheses = dict(zip(theorem.names, statement(library, label)[0], strict=True))
    for name in unpacked(library, theorem):
        if name in hypotheses:
            stack.append(Step(HYPOTHESIS, (hypotheses[name],)))
        elif name in library.floating:
            stack.append(library.floating[name][1])
        else:
            used = library.assertions[name]
            cut = len(stack) - len(used.hypotheses)
            start = cut - len(used.floats)
            terms, parts = tuple(stack[start:cut]), tuple(stack[cut:])
            del stack[start:]
            stack.append(Step(name, terms, parts) if used.symbols[0] == "|-" else (name, *terms))
    return stack[0]


def labels(library: Library, step: Step, names: Mapping[Term, str]) -> list[str]:
    """A tree as labels in reverse Polish order; ``names``: labels of the hypotheses that it uses."""
    result: list[str] = []

    def spell(term: Term) -> None:
        for part in () if isinstance(term, str) else term[1:]:
            spell(part)
        result.append(library.variables[term] if isinstance(term, str) else term[0])

    def run(step: Step) -> None:
        if step.label == HYPOTHESIS:
            result.append(names[step.terms[0]])
            return
        for term in step.terms:
            spell(term)
        for part in step.parts:
            run(part)
        result.append(step.label)

    run(step)
    return result


def written(library: Library, label: str, theorem: Theorem, proof: Step) -> str:
    """A theorem as the text that a Metamath file has of it."""
    names = {hypothesis: f"{label}.{i}" for i, hypothesis in enumerate(theorem[0], 1)}
    given = "".join(f"  {n} $e {' '.join(unparse(library, h))} $.\n" for h, n in names.items())
    claim, steps = " ".join(unparse(library, theorem[1])), " ".join(labels(library, proof, names))
    return f"${{\n{given}  {label} $p {claim} $= {steps} $.\n$}}\n"


def accepts(
    library: Library, names: Mapping[Term, str], claim: Term, proof: list[str], before: int | None = None
) -> bool:
    """Whether the kernel accepts a proof of a claim from hypotheses with these labels; see ``verify``."""
    given = {name: unparse(library, hypothesis) for hypothesis, name in names.items()}
    return verify(library, given, unparse(library, claim), proof, before)


def accepts_own(library: Library, label: str) -> bool:
    """Whether the kernel accepts a theorem's proof as it stands in the file, by what stands before it."""
    one = library.assertions[label]
    given = dict(zip(one.names, one.hypotheses, strict=True))
    return verify(library, given, one.symbols, unpacked(library, one), one.number)


def outline(library: Library, step: Step, depth: int = 0) -> Iterator[tuple[int, str, str]]:
    """A proof from what it proves down to hypotheses: (depth, label, what it says) of each step."""
    yield depth, step.label, " ".join(unparse(library, step.says(library))[1:])
    for part in step.parts:
        yield from outline(library, part, depth + 1)
