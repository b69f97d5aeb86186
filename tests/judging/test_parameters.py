"""Parameters: what papermill lets through stops here, before any compute, in words that help."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.judging import parameters
from fourfold.judging.parameters import ParameterError
from fourfold.judging.records import Parameter

from .made_up import paper

RECORD = paper(
    claims=[{"id": "C1", "statement": "It works well."}],
    parameters={
        "p": Parameter(type="int", meaning="side", quick=8, full=16, min=2, max=32),
        "rate": Parameter(type="float", meaning="rate", quick=1e6, full=1e6, min=1, max=1e9),
        "flag": Parameter(type="bool", meaning="flag", quick=False, full=True),
        "sign": Parameter(type="str", meaning="sign", quick="pm", full="pm", choices=["pm", "offset"]),
        "plane": Parameter(type="list[int]", meaning="planes", quick=[256, 512], full=[256], min=8, max=1024),
        "arms": Parameter(type="list[str]", meaning="arms", quick=["a"], full=["a", "b"], choices=["a", "b"]),
        "gpu": Parameter(
            type="float", meaning="GPU time", quick=None, full=None, optional=True, min=0.1, max=9
        ),
        "side": Parameter(type="int", meaning="side", quick=8, full=8, min=1, max=64, multiple_of="heads"),
        "block": Parameter(type="int", meaning="block", quick=2, full=2, min=1, max=9, divides="side"),
        "test": Parameter(type="int", meaning="test", quick=2, full=2, min=1, max=99, at_most="side"),
        "dims": Parameter(
            type="list[int]",
            meaning="dims",
            quick=[4, 8],
            full=[4],
            min=1,
            max=64,
            longest=3,
            multiple_of=4,
            long_as="depths",
        ),
        "depths": Parameter(
            type="list[int]", meaning="depths", quick=[2, 2], full=[2], min=1, max=9, repeats=True
        ),
        "pair": Parameter(
            type="list[int]", meaning="two", quick=[1, 2], full=[1, 2], min=1, max=9, shortest=2
        ),
        "seeds": Parameter(type="int", meaning="seeds", quick=2, recorded=20, full=20, min=1, max=20),
        "heads": Parameter(type="int", meaning="heads", quick=4, full=4, choices=[1, 2, 4]),
        "seed": Parameter(type="int", meaning="first seed", quick=100, full=100, min=0, max=1000),
    },
)
QUICK = {name: spec.quick for name, spec in RECORD.parameters.items()}


def test_quick_and_full_values_pass_and_are_named():
    full = {name: spec.full for name, spec in RECORD.parameters.items()}
    assert parameters.validate(RECORD, QUICK) == QUICK
    assert parameters.profile(RECORD, QUICK) == "quick"
    assert parameters.profile(RECORD, full) == "full"
    assert parameters.profile(RECORD, QUICK | {"seeds": 20}) == "recorded"
    assert parameters.profile(RECORD, QUICK | {"seed": 7}) == "custom"


def notebook(*cells, **names):
    """A namespace after these cells, the last of which asks for the chapter."""
    return {**QUICK, **names, "In": ["", *cells, "chapter = fourfold.open_chapter('a_paper', globals())"]}


CELL = parameters.cell(RECORD)


def test_what_the_reader_and_papermill_did_not_set_is_nobodys_parameter():
    before = [
        "import sys\nsys.path.insert(0, 'src')",
        "%load_ext autoreload",
        "url = 'x'",
        CELL,
        "# Parameters\np = 4",
    ]
    assert parameters.validate(RECORD, notebook(*before, p=4, sys=1, url="x"))["p"] == 4


def test_every_name_that_was_injected_is_checked_even_one_of_ours_or_of_ipython():
    injected = "# Parameters\nfourfold = 5\nexit = 2\nopen = [4]\n"
    with pytest.raises(ParameterError) as error:
        parameters.validate(RECORD, notebook(CELL, injected, fourfold="a module"))
    for words in ("fourfold = 5: a_paper has no such", "exit = 2: ", "open = [4]: "):
        assert words in str(error.value)


def test_the_first_cells_can_be_edited_and_run_again():
    opened = "import fourfold\n\nchapter = fourfold.open_chapter('a_paper', globals())"
    chapter = "seeds_used = 3"
    again = notebook(CELL, opened, chapter, CELL.replace("p: int = 8", "p: int = 4"), p=4, chapter=1, x=2)
    assert parameters.validate(RECORD, again)["p"] == 4
    wrong = notebook(CELL, opened, CELL.replace("seed: int", "sed: int"))
    with pytest.raises(ParameterError, match="sed = 100: a_paper has no such parameter; did you mean 'seed'"):
        parameters.validate(RECORD, wrong)
    mended = notebook(CELL, opened, "sed: int = 3\np: int = 8", opened, CELL)
    assert parameters.validate(RECORD, mended) == QUICK
    with pytest.raises(ParameterError, match="p = 99"):
        parameters.validate(RECORD, notebook(CELL, opened, "p = 99", p=99))


def test_rules_between_parameters_name_both_and_come_before_any_compute():
    for wrong, words in (
        ({"side": 9}, ["side = 9: expected a multiple of heads, which is 4"]),
        ({"block": 3}, ["block = 3: expected a divisor of side, which is 8"]),
        ({"test": 9}, ["test = 9: expected at most side, which is 8"]),
        ({"dims": [4, 6]}, ["dims = [4, 6]: expected a multiple of 4"]),
        ({"dims": [4]}, ["dims = [4]: expected as many values as depths, which has 2"]),
        (
            {"dims": [4, 8, 12, 16]},
            ["expected list[int], each 1..64, a multiple of 4, no repeats, at most 3"],
        ),
        ({"pair": [1]}, ["pair = [1]: expected list[int], each 1..9, no repeats, at least 2 values"]),
        ({"heads": 2, "side": 6, "block": 4}, ["block = 4: expected a divisor of side, which is 6"]),
    ):
        with pytest.raises(ParameterError) as error:
            parameters.validate(RECORD, QUICK | wrong)
        assert all(word in str(error.value) for word in words), str(error.value)
    assert parameters.validate(RECORD, QUICK | {"dims": [8, 4], "depths": [3, 3]})["depths"] == [3, 3]


def test_ipythons_names_are_no_parameters_without_a_cell_that_sets_them():
    names = [
        "In",
        "Out",
        "_",
        "__",
        "_i",
        "_i1",
        "_1",
        "_oh",
        "get_ipython",
        "exit",
        "quit",
        "open",
        "__name__",
    ]
    own = dict.fromkeys(names, "IPython's own")
    assert parameters.validate(RECORD, notebook(CELL, **{n: v for n, v in own.items() if n != "In"})) == QUICK


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("p", 64, ["p = 64", "int", "2..32"]),
        ("p", 8.0, ["p = 8.0", "int"]),
        ("p", True, ["p = True", "int"]),
        ("p", "8", ["p = '8'", "int"]),
        ("p", None, ["p = None", "int, 2..32"]),
        ("heads", 3, ["heads = 3", "int, 1 | 2 | 4"]),
        ("heads", [4], ["heads = [4]", "1 | 2 | 4"]),
        ("seed", -1, ["seed = -1", "0..1000"]),
        ("rate", 0, ["rate = 0", "1..1e+09"]),
        ("rate", math.nan, ["rate = nan", "float"]),
        ("rate", math.inf, ["rate = inf", "float"]),
        ("rate", "1e-3", ["rate = '1e-3'", "YAML reads 1e-3 as text", "write 1.0e-3"]),
        ("flag", "true", ["flag = 'true'", "bool", "write True"]),
        ("flag", 1, ["flag = 1", "bool"]),
        ("sign", "plus", ["sign = 'plus'", "pm | offset"]),
        ("plane", "[256, 512]", ["plane", "-y 'name: [a, b]'"]),
        ("plane", [], ["plane = []", "list[int]"]),
        ("plane", 256, ["plane = 256", "-y 'name: [a, b]'"]),
        ("rate", 1e-300, ["rate = 1e-300"]),
        ("rate", 1e300, ["rate = 1e+300"]),
        ("plane", [256, 256], ["no repeats"]),
        ("plane", [256, 4], ["each 8..1024"]),
        ("plane", [[256]], ["list[int]"]),
        ("plane", list(range(8, 109)), ["at most 100 values, got 101"]),
        ("arms", ["a", "c"], ["arms", "a | b"]),
        ("gpu", 0.0, ["gpu = 0.0", "0.1..9, or None"]),
    ],
)
def test_wrong_value_names_parameter_value_and_allowed(name, value, words):
    with pytest.raises(ParameterError) as error:
        parameters.validate(RECORD, QUICK | {name: value})
    assert all(word in str(error.value) for word in words), str(error.value)


def test_unknown_missing_and_several_at_once():
    given = QUICK | {"sed": 7, "p": 99}
    del given["sign"]
    with pytest.raises(ParameterError) as error:
        parameters.validate(RECORD, given)
    message = str(error.value)
    assert "sed = 7: a_paper has no such parameter; did you mean 'seed'?" in message
    assert "p = 99" in message
    assert "sign: missing" in message
    with pytest.raises(ParameterError, match="_hidden = 1: a_paper has no such parameter"):
        parameters.validate(RECORD, QUICK | {"_hidden": 1})


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.text(max_size=5),
    st.floats(),
    st.integers(),
    st.lists(st.integers() | st.text()),
)


@given(st.sampled_from(sorted(QUICK)), JUNK)
def test_any_value_is_either_kept_as_it_is_or_refused_by_name(name, value):
    try:
        kept = parameters.validate(RECORD, QUICK | {name: value})
    except ParameterError as error:
        assert f"{name} = " in str(error)  # noqa: PT017
    else:
        assert kept[name] is value


def test_parameters_cell():
    lines = parameters.cell(RECORD).splitlines()
    assert lines[0] == "p: int = 8  # side (2..32)"
    assert lines[6] == "gpu: float = None  # GPU time (0.1..9, or None)"
