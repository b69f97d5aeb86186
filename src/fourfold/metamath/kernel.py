"""Metamath: a library of statements with proofs, read from a file and checked by a kernel.

A statement is a row of symbols. It is proved by a row of labels that a stack machine runs: a hypothesis
pushes its symbols; an assertion pops its own hypotheses, with terms in place of its variables, and pushes
what it says. Nothing else is ever proved. ``verify`` is that machine. It works on symbols alone and shares
nothing with what makes proofs: neither terms nor matching.

Departures from the language: one scope of constants and variables, no conditions on distinct variables, no
proofs that are incomplete, and no file that includes another. A file with any of these is refused.
"""

import gzip
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

Symbols = tuple[str, ...]


class Assertion(NamedTuple):
    """An axiom or a theorem with its frame."""

    label: str
    number: int
    """Its place among the assertions of the file."""
    floats: tuple[tuple[str, str], ...]
    """(type, variable) of its variables, in the order in which the file declares them."""
    hypotheses: tuple[Symbols, ...]
    symbols: Symbols
    names: tuple[str, ...] = ()
    """Labels of the hypotheses."""
    proof: Symbols = ()
    """A theorem's proof as it stands in the file; an axiom has none."""


@dataclass(frozen=True, eq=False)
class Library:
    """A file's assertions, in its order."""

    floating: Mapping[str, tuple[str, str]]
    """Label of a variable's declaration -> (type, variable), in the file's order."""
    assertions: Mapping[str, Assertion]

    @cached_property
    def variables(self) -> dict[str, str]:
        """Variable -> label of its declaration."""
        return {variable: label for label, (_, variable) in self.floating.items()}

    @cached_property
    def syntax(self) -> list[Assertion]:
        """The assertions that build terms and formulas."""
        return [a for a in self.assertions.values() if a.symbols[0] != "|-"]

    @cached_property
    def provable(self) -> list[Assertion]:
        """The others, which say that something holds."""
        return [a for a in self.assertions.values() if a.symbols[0] == "|-"]


# --- the kernel -------------------------------------------------------------------------------------------


def verify(
    library: Library,
    hypotheses: Mapping[str, Symbols],
    claim: Symbols,
    proof: Sequence[str],
    before: int | None = None,
) -> bool:
    """Whether a proof, labels in reverse Polish order, proves a claim from hypotheses: label -> symbols.

    ``before``: only assertions with lower numbers count, as for a theorem of the file itself.
    """
    stack: list[Symbols] = []
    for label in proof:
        if label in hypotheses:
            stack.append(hypotheses[label])
        elif label in library.floating:
            stack.append(library.floating[label])
        elif label not in library.assertions:
            return False
        else:
            used = library.assertions[label]
            if before is not None and used.number >= before:
                return False
            start = len(stack) - len(used.floats) - len(used.hypotheses)
            if start < 0:
                return False
            popped = stack[start:]
            del stack[start:]
            given: dict[str, Symbols] = {}
            for (kind, variable), symbols in zip(used.floats, popped, strict=False):
                if symbols[0] != kind:
                    return False
                given[variable] = symbols[1:]
            for hypothesis, symbols in zip(used.hypotheses, popped[len(used.floats) :], strict=True):
                if _substituted(hypothesis, given) != symbols:
                    return False
            stack.append(_substituted(used.symbols, given))
    return stack == [claim]


def _substituted(symbols: Symbols, given: Mapping[str, Symbols]) -> Symbols:
    result: list[str] = []
    for symbol in symbols:
        result.extend(given.get(symbol, (symbol,)))
    return tuple(result)


# --- reading ----------------------------------------------------------------------------------------------

SHIPPED = Path(__file__).resolve().parents[3] / "data" / "others" / "metamath" / "ql.mm.gz"
SHIPPED_SHA256 = "bae1cf8e9d6d46ce404aee82e94e07f7bd715877da40d76345e71d11bfc16fcd"


def quantum_logic() -> Library:
    """Megill's Quantum Logic Explorer, 1138 theorems on ortholattices (CC0; see the README beside the file).

    Raises ``ValueError`` if the file is not the one committed.
    """
    content = gzip.decompress(SHIPPED.read_bytes())
    if hashlib.sha256(content).hexdigest() != SHIPPED_SHA256:
        raise ValueError(f"{SHIPPED.name} is not the file that was committed")
    return read(content.decode("ascii"))


def read(text: str) -> Library:
    """Read a Metamath file. Raises ``ValueError`` for what it says wrongly, or what we leave out."""
    tokens = iter(re.sub(r"\$\(\s.*?\s\$\)", " ", text, flags=re.DOTALL).split())
    floating: dict[str, tuple[str, str]] = {}
    assertions: dict[str, Assertion] = {}
    variables: set[str] = set()
    scopes: list[dict[str, Symbols]] = [{}]
    for token in tokens:
        if token == "${":
            scopes.append({})
        elif token == "$}":
            scopes.pop()
        elif token in ("$c", "$v"):
            declared = _until("$.", tokens)
            variables |= set(declared) if token == "$v" else set()
        elif token.startswith("$"):
            raise ValueError(f"expected one of ${{ $}} $c $v or a label, got {token!r}")
        else:
            kind = next(tokens)
            symbols = _until("$=" if kind == "$p" else "$.", tokens)
            if kind == "$f":
                floating[token] = (symbols[0], symbols[1])
            elif kind == "$e":
                scopes[-1][token] = symbols
            elif kind in ("$a", "$p"):
                names = {name: given for scope in scopes for name, given in scope.items()}
                used = {s for given in (*names.values(), symbols) for s in given} & variables
                floats = tuple(pair for pair in floating.values() if pair[1] in used)
                proof = _until("$.", tokens) if kind == "$p" else ()
                assertions[token] = Assertion(
                    token, len(assertions), floats, tuple(names.values()), symbols, tuple(names), proof
                )
            else:
                raise ValueError(f"{token}: expected one of $f $e $a $p, got {kind!r}")
    return Library(floating, assertions)


def _until(end: str, tokens: Iterator[str]) -> Symbols:
    found: list[str] = []
    for token in tokens:
        if token == end:
            return tuple(found)
        found.append(token)
    raise ValueError(f"the file ends before {end!r}")


def unpacked(library: Library, theorem: Assertion) -> list[str]:
    """A theorem's proof as labels: a file packs it into letters, in which a number recalls an earlier part.

    Raises ``ValueError`` for a proof that is incomplete or garbled.
    """
    proof = theorem.proof
    if not proof or "?" in "".join(proof):
        raise ValueError(f"{theorem.label} has no complete proof")
    if proof[0] != "(":
        return list(proof)
    end = proof.index(")")
    labels = [library.variables[variable] for _, variable in theorem.floats]
    labels += [*theorem.names, *proof[1:end]]
    stack: list[list[str]] = []
    kept: list[list[str]] = []
    number = 0
    for letter in "".join(proof[end + 1 :]):
        if letter == "Z":
            kept.append(stack[-1])
        elif letter >= "U":
            number = 5 * number + ord(letter) - ord("T")
        else:
            at = 20 * number + ord(letter) - ord("A")
            number = 0
            if at >= len(labels):
                stack.append(kept[at - len(labels)])
                continue
            used = library.assertions.get(labels[at])
            taken = len(used.floats) + len(used.hypotheses) if used else 0
            if taken > len(stack):
                raise ValueError(f"{theorem.label}: {labels[at]} needs {taken} items, got {len(stack)}")
            parts = stack[len(stack) - taken :]
            del stack[len(stack) - taken :]
            stack.append([label for part in parts for label in part] + [labels[at]])
    if len(stack) != 1:
        raise ValueError(f"{theorem.label}: a proof must leave 1 item, got {len(stack)}")
    return stack[0]
