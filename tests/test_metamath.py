"""Metamath: the kernel accepts what is proved and nothing else, as Debian's verifier; terms come back."""

import shutil
import subprocess

import pytest

from fourfold.metamath import boolean, controls, equations, instances, kernel, terms

LIBRARY = kernel.quantum_logic()
THEOREMS = [one for one in LIBRARY.provable if one.proof]
TINY = """$c |- wff ( ) -> $. $v p q $. wp $f wff p $. wq $f wff q $.
 wi $a wff ( p -> q ) $. ${ min $e |- p $. maj $e |- ( p -> q ) $. mp $a |- q $. $}
 ax $a |- ( p -> ( q -> p ) ) $. ${ h $e |- p $. a1i $p |- ( q -> p ) $= wp wq wp wi h wp wq ax mp $. $}"""


PACKED = ["wp", "wq", "wp", "wi", "k", "wp", "wq", "ax", "mp"]


def formula(text):
    return terms.parse(LIBRARY, ("|-", *text.split()))


def theorem(claim, *hypotheses):
    return tuple(map(formula, hypotheses)), formula(claim)


def test_the_library_is_whole():
    assert len(THEOREMS) == 1138
    assert len(LIBRARY.assertions) == 1138 + 77
    assert len(LIBRARY.syntax) == 29


def test_the_kernel_accepts_the_librarys_own_proofs_and_none_that_uses_itself():
    for one in THEOREMS[::3]:
        named = dict(zip(one.names, one.hypotheses, strict=True))
        assert kernel.verify(LIBRARY, named, one.symbols, kernel.unpacked(LIBRARY, one), one.number)
        circular = [LIBRARY.variables[v] for _, v in one.floats] + [*one.names, one.label]
        assert kernel.verify(LIBRARY, named, one.symbols, circular)
        assert not kernel.verify(LIBRARY, named, one.symbols, circular, one.number)


def test_a_proof_by_hand_and_what_is_wrong_with_others():
    library = kernel.read(TINY)
    one = library.assertions["a1i"]
    hypotheses, proof = {"h": one.hypotheses[0]}, list(one.proof)
    assert kernel.verify(library, hypotheses, one.symbols, proof)
    assert not kernel.verify(library, {}, one.symbols, proof), "an unknown label"
    assert not kernel.verify(library, hypotheses, one.symbols, proof[:-1]), "too much is left"
    assert not kernel.verify(library, hypotheses, one.symbols, ["mp"]), "nothing to take"
    assert not kernel.verify(library, hypotheses, one.symbols, ["h", *proof[1:]]), "a proof in a term's place"
    assert not kernel.verify(library, hypotheses, one.hypotheses[0], proof), "another claim"
    assert not kernel.verify(library, hypotheses, one.symbols, [])
    swapped = [*proof[:3], proof[3], "h", "wq", "wp", "ax", "mp"]
    assert not kernel.verify(library, hypotheses, one.symbols, swapped), "a hypothesis that is not met"


def test_a_relation_is_not_another():
    given = {"h": ("|-", "a", "=<", "b")}
    proof = ["wva", "wvb", "h", "ax-r1"]
    assert not kernel.verify(LIBRARY, given, ("|-", "b", "=", "a"), proof)
    assert kernel.verify(LIBRARY, {"h": ("|-", "a", "=", "b")}, ("|-", "b", "=", "a"), proof)


def test_statements_come_back_from_terms_and_proofs_from_trees():
    for one in LIBRARY.provable:
        hypotheses, claim = terms.statement(LIBRARY, one.label)
        assert terms.unparse(LIBRARY, claim) == one.symbols
        assert tuple(terms.unparse(LIBRARY, h) for h in hypotheses) == one.hypotheses
    for one in THEOREMS[::5]:
        hypotheses, claim = terms.statement(LIBRARY, one.label)
        tree = terms.tree(LIBRARY, one.label)
        named = dict(zip(hypotheses, one.names, strict=True))
        assert tree.says(LIBRARY) == claim
        assert terms.labels(LIBRARY, tree, named) == kernel.unpacked(LIBRARY, one)


def test_packed_proofs_by_the_languages_own_example():
    """A is the first label, T the twentieth, UA the 21st, YT the 120th, UUA the 121st."""
    text = TINY + " ${ k $e |- p $. b $p |- ( q -> p ) $= ( wi ax mp ) ABADCABEF $. $}"
    library = kernel.read(text)
    assert kernel.unpacked(library, library.assertions["b"]) == PACKED
    recalled = text.replace("ABADCABEF", "AZBGDCGBEF")
    library = kernel.read(recalled)
    assert kernel.unpacked(library, library.assertions["b"]) == PACKED


def test_matching_and_substitution_undo_each_other():
    pattern, term = formula("( a v b ) = a"), formula("( ( c ^ d ) v b ' ) = ( c ^ d )")
    given = {}
    assert terms.match(pattern, term, given)
    assert terms.substitute(pattern, given) == term
    assert not terms.match(pattern, formula("( c v b ) = d"), {})
    assert not terms.match(term, pattern, {})


@pytest.mark.parametrize("label", ["lelor", "oml", "lem3.1", "u3lem13b"])
def test_every_rewrite_of_a_theorem_is_proved(label):
    hypotheses, claim = terms.statement(LIBRARY, label)
    names = {hypothesis: f"h{i}" for i, hypothesis in enumerate(hypotheses)}
    given = {name: terms.unparse(LIBRARY, hypothesis) for hypothesis, name in names.items()}
    for one in equations.rewrites(LIBRARY, claim):
        step = equations.carried(LIBRARY, terms.tree(LIBRARY, label), claim, one)
        proof = terms.labels(LIBRARY, step, names)
        assert kernel.verify(LIBRARY, given, terms.unparse(LIBRARY, one.formula), proof)


def test_rewriting_is_of_all_instances_of_the_first_match():
    rules = [one for one in equations.rewrites(LIBRARY, formula("( b v c ) = ( ( b v c ) ^ ( d v e ) )"))]
    (swap,) = [one for one in rules if one.rule.label == "ax-a2" and one.rule.forward]
    assert swap.formula == formula("( c v b ) = ( ( c v b ) ^ ( d v e ) )")
    cheap = equations.rewrites(LIBRARY, swap.formula, {"ax-a2": 2.0, "ancom": 1.0})
    assert next(one.rule.label for one in cheap) == "ancom"


def test_what_says_the_same_is_one_equation():
    same = equations.equations(LIBRARY)
    assert same["orcom"] == "ax-a2"
    assert equations.canonical(*theorem("( c v a ) = b")) == equations.canonical(*theorem("a = ( b v c )"))
    assert equations.canonical(*theorem("a = b", "a C b")) != equations.canonical(*theorem("a = b", "b C b"))


INSTANCES = [
    ("( a v b ) = c", "( ( a ' v a ) v b ) = b '", True),
    ("( a v b ) = a", "( a v b ) = b", True),  # swapped operands
    ("( a v b ) = a", "c ' = ( c ' v d )", True),  # turned
    ("( a v a ) = a", "( d ->1 ( b v b ) ) ' = ( d ->1 b ) '", True),  # within a context
    ("( a v b ) = a", "( a ^ b ) = a", False),
    ("( a v a ) = b", "( a v b ) = b", False),
    ("( a v b ) =< c", "c =< ( a v b )", False),
    ("( a v a ) = a", "( b v b ) =< b", True),  # weaker
]


@pytest.mark.parametrize(("pattern", "claim", "expected"), INSTANCES)
def test_what_is_an_instance(pattern, claim, expected):
    known = instances.Known(LIBRARY, [theorem(pattern)])
    assert known.covers(theorem(claim)) is expected
    if expected and claim.count("=<") == 0:
        assert instances.Known(LIBRARY, [theorem(claim)]).covered(formula(pattern))


def test_what_is_said_side_by_side_is_covered():
    known = instances.Known(
        LIBRARY, [theorem("( a v a ) = a"), theorem("a =< ( a v b )"), theorem("a = a ' '")]
    )
    assert known.covers(theorem("( ( b v b ) ->1 c ) = ( b ->1 c ' ' )"))
    assert known.covers(theorem("( ( b v b ) ^ d ) = ( c ^ b )", "d = c")), "by a hypothesis, and swapped"
    assert known.covers(theorem("( b v c ) =< ( ( b v d ) v ( c v c ) )"))
    assert not known.covers(theorem("( b ->1 c ) =< ( ( b v d ) ->1 c )")), (
        "not every constructor is monotone"
    )
    assert not known.covers(theorem("( ( b v b ) ^ d ) = ( c ^ b )"))
    assert not known.covers(theorem("b ' =< ( b v d ) '"))


def test_hypotheses_must_be_there():
    known = instances.Known(LIBRARY, [theorem("a =< c", "a =< b", "b =< c")])
    assert known.covers(theorem("d =< e", "d =< a ' ", "1 = 0", "a ' =< e"))
    assert not known.covers(theorem("d =< e", "d =< a '", "a =< e"))
    assert not known.covers(theorem("d =< e"))


def test_everything_commutes_that_the_library_says():
    assert instances.commuting(LIBRARY) == {"wo", "wa", "tb", "wcmtr"}
    one, two = theorem("( a v b ) = c", "a C b", "b C c"), theorem("c = ( b v a )", "b C c", "a C b")
    swap = instances.commuting(LIBRARY)
    assert instances.settled(one, swap) == instances.settled(two, swap)


def test_truth_tables_by_hand():
    assert not boolean.violated(LIBRARY, theorem("( a ^ ( b v c ) ) = ( ( a ^ b ) v ( a ^ c ) )"))
    assert boolean.violated(LIBRARY, theorem("( a v b ) = a"))
    assert not boolean.violated(LIBRARY, theorem("( a v b ) = a", "b =< a"))
    assert boolean.violated(LIBRARY, theorem("a =< b", "b =< a"))
    assert not boolean.violated(LIBRARY, theorem("( a ->1 b ) = ( a ' v b )"))
    assert not boolean.violated(LIBRARY, theorem("a C b"))


@pytest.mark.skipif(shutil.which("metamath") is None, reason="Debian's metamath is not installed")
def test_debians_verifier_agrees(tmp_path):
    text = kernel.gzip.decompress(kernel.SHIPPED.read_bytes()).decode()
    for i, rewrite in enumerate(equations.rewrites(LIBRARY, terms.statement(LIBRARY, "oml")[1])):
        claim = terms.statement(LIBRARY, "oml")[1]
        step = equations.carried(LIBRARY, terms.tree(LIBRARY, "oml"), claim, rewrite)
        text += terms.written(LIBRARY, f"new{i}", ((), rewrite.formula), step)
    (tmp_path / "more.mm").write_text(text)
    commands = ["read more.mm", "verify proof *", "exit"]
    said = subprocess.run(["metamath", *commands], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "All proofs in the database were verified" in said.stdout


REFUSED = [
    (lambda: terms.parse(LIBRARY, ("|-", "(", "a", "v")), "ends too early"),
    (lambda: terms.parse(LIBRARY, ("|-", "(", "a", "v", "b", "b")), "is no formula at symbol 5"),
    (lambda: terms.parse(LIBRARY, ("|-", "a", "=", "b", ")")), "is no formula from symbol 4 on"),
    (lambda: kernel.read("$c a"), r"the file ends before '\$\.'"),
    (lambda: kernel.read("$[ other.mm $]"), r"expected one of .* got '\$\['"),
    (lambda: kernel.read("x $d a b $."), r"x: expected one of \$f \$e \$a \$p, got '\$d'"),
    (lambda: kernel.unpacked(LIBRARY, LIBRARY.assertions["ax-a1"]), "ax-a1 has no complete proof"),
    (
        lambda: terms.conclude(LIBRARY, "ax-r1", terms.Step("hypothesis", (formula("a C b"),))),
        "does not follow",
    ),
    (lambda: controls.glued(LIBRARY, "oml", "lelor"), "oml and lelor must have one relation, got wb and wle"),
    (lambda: boolean.violated(LIBRARY, terms.statement(LIBRARY, "gomaex3lem5")), "at most 16 variables, got"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refused_with_a_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_file_that_is_not_the_published_one_is_refused(tmp_path, monkeypatch):
    changed = tmp_path / "ql.mm.gz"
    changed.write_bytes(kernel.gzip.compress(TINY.encode()))
    monkeypatch.setattr(kernel, "SHIPPED", changed)
    with pytest.raises(ValueError, match=r"ql\.mm\.gz is not the file that was committed"):
        kernel.quantum_logic()
