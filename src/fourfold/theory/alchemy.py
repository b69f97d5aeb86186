"""Alchemy: mutate the theorems of a library, prove the mutants, train a prover on them.

Wu et al., arXiv 2410.15748, ICLR 2025. A theorem is rewritten with each equation of the library that fits, in
its conclusion or a hypothesis (``rw``), or a hypothesis is replaced by what implies it (``apply``). The proof
of the mutant is made mechanically from the theorem's own.

Implemented: both tactics on Metamath's equations and relations, proofs as trees, forms that are equal but for
names, what is an instance of what; pairs (equation, lemma) from proofs, a small policy, best-first search.

Departures: Metamath's ql.mm in place of Lean's Mathlib. Mutants are made of terms and not of text, so that
all of them can be proved; the paper drops what Lean refuses. ``rw`` uses equations without hypotheses only.
The prover rewrites an equation until both sides are the same, and its policy is a bag of n-grams.
"""

import heapq
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import count, islice
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

from fourfold.checks import at_least, one_of
from fourfold.metamath.equations import (
    EQUAL,
    Rewrite,
    canonical,
    carried,
    equations,
    rewrites,
    rules,
)
from fourfold.metamath.instances import Known
from fourfold.metamath.kernel import Library
from fourfold.metamath.terms import (
    HYPOTHESIS,
    Step,
    Term,
    Theorem,
    grafted,
    match,
    size,
    statement,
    substitute,
    tree,
    unparse,
    use,
    variables,
)

TACTICS = ("rw", "apply", "rw+apply")

# --- mutation ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Mutant:
    """A new theorem, and how its proof is made."""

    hypotheses: tuple[Term, ...]
    claim: Term
    tactic: str
    target: str
    lemma: str
    inside: bool
    """Whether a part of a side was rewritten, and not a whole side."""
    build: Callable[[], Step]

    @cached_property
    def proof(self) -> Step:
        """Its proof, made when it is first asked for."""
        return self.build()

    @property
    def theorem(self) -> Theorem:
        """What it says."""
        return self.hypotheses, self.claim

    @property
    def names(self) -> dict[Term, str]:
        """Its hypotheses with their labels."""
        return {hypothesis: f"h.{i}" for i, hypothesis in enumerate(self.hypotheses)}


def mutate(
    library: Library,
    label: str,
    tactics: str = "rw+apply",
    lemmas: Callable[[str], bool] = lambda _: True,
    max_size: int = 60,
) -> list[Mutant]:
    """All mutants of a theorem by one tactic and one lemma, no two the same but for names.

    ``lemmas`` says which may be used; formulas of more than ``max_size`` nodes are left out, as is what is
    trivial (a = a, or a conclusion among the hypotheses), or says what the library says.
    Raises ``ValueError`` for other tactics.
    """
    one_of(TACTICS, tactics=tactics)
    at_least(1, max_size=max_size)
    hypotheses, claim = statement(library, label)
    found: dict[Theorem, Mutant] = {}

    def add(changed: Sequence[Term], said: Term, lemma: str, build: Callable[[], Step], **how: Any) -> None:
        changed = tuple(dict.fromkeys(changed))
        trivial = said in changed or any(one[1] == one[2] for one in (*changed, said))
        if trivial or any(size(one) > max_size for one in (*changed, said)):
            return
        form = canonical(changed, said)
        if form not in statements(library):
            mutant = Mutant(changed, said, target=label, lemma=lemma, build=build, **how)
            found.setdefault(form, mutant)

    proof = tree(library, label)

    def replacing(old: Term, lemma: Step) -> Step:
        return grafted(proof, old, lemma)

    def rewritten(old: Term, one: Rewrite) -> Step:
        return replacing(old, carried(library, Step(HYPOTHESIS, (one.formula,)), old, one))

    for old in (claim, *hypotheses) if "rw" in tactics else ():
        for one in (one for one in rewrites(library, old) if lemmas(one.rule.label)):
            how = {"tactic": "rw", "inside": one.old not in old[1:]}
            if old is claim:
                build = partial(carried, library, proof, claim, one)
                add(hypotheses, one.formula, one.rule.label, build, **how)
            else:
                changed = [one.formula if h == old else h for h in hypotheses]
                add(changed, claim, one.rule.label, partial(rewritten, old, one), **how)
    for old in hypotheses if "apply" in tactics else ():
        for lemma, step in implied(library, old, (*hypotheses, claim)):
            if lemmas(lemma) and lemma != label:
                new = [part.terms[0] for part in step.parts]
                changed = [n for h in hypotheses for n in (new if h == old else [h])]
                add(changed, claim, lemma, partial(replacing, old, step), tactic="apply", inside=False)
    return list(found.values())


def implied(library: Library, formula: Term, taken: Sequence[Term]) -> Iterator[tuple[str, Step]]:
    """Every theorem with hypotheses that concludes a formula: its label, and the step from hypotheses.

    Variables that the formula does not bind become ones that are not ``taken``.
    """
    used = {v for term in taken for v in variables(term)}
    for one in library.provable:
        given: dict[str, Term] = {}
        if one.hypotheses and match(statement(library, one.label)[1], formula, given):
            fresh = (v for v in library.variables if v not in used)
            free = [v for _, v in one.floats if v not in given]
            if len(free) + len(used) <= len(library.variables):
                given |= dict(zip(free, fresh, strict=False))
                needed = (substitute(h, given) for h in statement(library, one.label)[0])
                parts = (Step(HYPOTHESIS, (hypothesis,)) for hypothesis in needed)
                yield one.label, use(library, one.label, given, *parts)


@cache
def statements(library: Library) -> set[Theorem]:
    """What the library says, in canonical form."""
    return {canonical(*statement(library, one.label)) for one in library.provable}


# --- pairs and policy -------------------------------------------------------------------------------------

Pair = tuple[Term, str]
"""An equation, its variables renamed, and a lemma that helps to prove it."""


def renamed(term: Term) -> Term:
    """A term whose variables are v0, v1, ... in the order in which they come."""
    return substitute(term, {v: f"v{i}" for i, v in enumerate(dict.fromkeys(variables(term)))})


def training_pairs(library: Library, proof: Step, most: int = 6) -> set[Pair]:
    """Each equation of a proof with each of the at most ``most`` equations of the library it rests on."""
    found: set[Pair] = set()

    def walk(step: Step) -> frozenset[str]:
        first = equations(library).get(step.label)
        below = frozenset([first] if first else []).union(*map(walk, step.parts))
        if 0 < len(below) <= most and (said := step.says(library))[0] == EQUAL:
            found.update((renamed(said), label) for label in below)
        return below

    walk(proof)
    return found


@cache
def own_pairs(library: Library, label: str) -> set[Pair]:
    """The training pairs of a theorem's own proof."""
    return training_pairs(library, tree(library, label))


def mutant_pairs(library: Library, mutants: Collection[Mutant]) -> set[Pair]:
    """The training pairs of the proofs of mutants."""
    return set().union(*(training_pairs(library, mutant.proof) for mutant in mutants))


def self_pairs(library: Library) -> set[Pair]:
    """Each rule's own equation with its label: what shows every lemma, and needs no proof."""
    every = (rule for heads in rules(library).values() for rule in heads)
    return {(renamed((EQUAL, rule.left, rule.right)), rule.label) for rule in every}


class Split(NamedTuple):
    """What one seed trains and tests on."""

    goals: list[str]
    pairs: dict[str, list[Pair]]
    """Of the library's proofs; of mutants' proofs and of lemmas' own statements, without the first."""
    tested: list[Pair]
    """Of held-out proofs."""


def split(
    library: Library,
    goals: Sequence[str],
    held: Collection[str],
    mutated: Callable[[list[str]], list[str]],
    sampled: Callable[[list[Mutant]], list[Mutant]],
    **how: Any,
) -> Split:
    """Training and test pairs that know nothing of the goals.

    No label of a goal, or of what says the same, is a lemma of a mutant or of a pair, and no pair has an
    equation that follows from a goal at once or from which a goal does. ``held``: other theorems whose proofs
    are held out; ``mutated`` and ``sampled`` choose theorems and mutants for training; ``how`` goes to
    ``mutate``.
    """
    same, away = equations(library), set(goals)
    hidden = {*held, *goals, *(label for label, first in same.items() if first in away)}
    known = Known(library, [statement(library, goal) for goal in goals])

    @cache
    def leaks(state: Term) -> bool:
        return known.covers(((), state)) or known.covered(state)

    def clean(pairs: Collection[Pair]) -> set[Pair]:
        return {pair for pair in pairs if pair[1] not in away and not leaks(pair[0])}

    proved = {one.label for one in library.provable if one.proof}
    free = [label for label in library.assertions if label in proved - hidden]
    pairs = {"library": clean(set().union(*(own_pairs(library, label) for label in free)))}
    made = [
        m
        for one in mutated(free)
        for m in mutate(library, one, lemmas=lambda u: same.get(u) not in away, **how)
    ]
    pairs["mutants"] = clean(mutant_pairs(library, sampled(made))) - pairs["library"]
    pairs["statements"] = clean(self_pairs(library)) - pairs["library"]
    tested = {pair for label in hidden & proved for pair in own_pairs(library, label) if pair[1] not in away}
    return Split(
        list(goals), {arm: sorted(of, key=repr) for arm, of in pairs.items()}, sorted(tested, key=repr)
    )


GRAMS = 2048
"""Places of n-grams: the upper 11 bits of a hash."""


def grams(library: Library, state: Term) -> Tensor:
    """How often each hashed 1- to 4-gram of an equation's symbols stands there, (GRAMS,), bytes."""
    codes = np.array([crc32(symbol.encode()) for symbol in unparse(library, renamed(state))], np.uint64)
    rolling = np.zeros(len(codes), np.uint64)
    found: list[np.ndarray] = []
    for _ in range(4):
        last = codes[len(found) :]
        rolling = (rolling[: len(last)] + last) * np.uint64(0x9E3779B97F4A7C15)
        found.append(rolling >> np.uint64(53))
    counts = np.bincount(np.concatenate(found).astype(np.int64), minlength=GRAMS)
    return torch.from_numpy(counts.astype(np.uint8))


class Policy(nn.Module):
    """Counts of n-grams (n, GRAMS) -> logits of lemmas (n, lemmas): mean embedding, LayerNorm, linear."""

    def __init__(self, lemmas: int, dim: int = 64) -> None:
        super().__init__()
        at_least(1, lemmas=lemmas, dim=dim)
        self.embedding = nn.Linear(GRAMS, dim, bias=False)
        nn.init.normal_(self.embedding.weight)
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, lemmas)

    def forward(self, counts: Tensor) -> Tensor:
        """Logits for counts of n-grams."""
        return self.out(self.norm(self.embedding(counts / counts.sum(-1, keepdim=True))))


# --- search -----------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """A proof that search found, and after how many expansions."""

    proof: Step
    expansions: int
    lemmas: tuple[str, ...]


def prove(
    library: Library,
    goal: Term,
    policy: Callable[[Term], Mapping[str, float]],
    lemmas: Callable[[str], bool],
    budget: int = 32,
    width: int = 6,
) -> Found | None:
    """Best-first search: rewrite an equation until both its sides are the same.

    ``policy``: log-probabilities of lemmas in a state; ``lemmas`` says which are allowed. The ``width``
    likeliest rewrites are tried in each of ``budget`` states, short states with likely paths first.
    Raises ``ValueError`` for a budget or width < 1.
    """
    at_least(1, budget=budget, width=width)
    heap: list[tuple] = [(0.0, 0, 0.0, goal, ())]
    seen, ticket = {goal}, count(1)
    for expansion in range(1, budget + 1):
        if not heap:
            return None
        *_, cost, state, path = heapq.heappop(heap)
        cost_of = {label: -value for label, value in policy(state).items() if lemmas(label)}
        for one in islice(rewrites(library, state, cost_of), width):
            if one.formula in seen:
                continue
            seen.add(one.formula)
            longer = (*path, (state, one))
            if one.formula[1] == one.formula[2]:
                return Found(retraced(library, longer), expansion, tuple(r.rule.label for _, r in longer))
            spent = cost + cost_of[one.rule.label]
            priority = spent + 0.05 * size(one.formula)
            heapq.heappush(heap, (priority, next(ticket), spent, one.formula, longer))
    return None


def retraced(library: Library, path: Sequence[tuple[Term, Rewrite]]) -> Step:
    """The proof that a path of rewrites, which ends where both sides are the same, is."""
    step = use(library, "id", {"a": path[-1][1].formula[1]})
    for state, one in reversed(path):
        step = carried(library, step, state, one)
    return step
