"""Parameters: what papermill lets through stops here, before any compute, in words that help."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold import parameters
from fourfold.parameters import ParameterError
from fourfold.records import Parameter, Record

RECORD = Record(
    slug="a_paper",
    part="optics",
    title="A paper",
    authors=["A. Author"],
    year=2025,
    arxiv=None,
    idea="Light convolves for free.",
    claims=[{"id": "C1", "statement": "It works well."}],
    parameters={
        "p": Parameter(type="int", meaning="side", quick=8, full=16, min=2, max=32),
        "rate": Parameter(type="float", meaning="rate", quick=1e6, full=1e6, above=0),
        "flag": Parameter(type="bool", meaning="flag", quick=False, full=True),
        "sign": Parameter(type="str", meaning="sign", quick="pm", full="pm", choices=["pm", "offset"]),
        "plane": Parameter(type="list[int]", meaning="planes", quick=[256, 512], full=[256], min=8, max=1024),
        "arms": Parameter(type="list[str]", meaning="arms", quick=["a"], full=["a", "b"], choices=["a", "b"]),
        "gpu": Parameter(type="float", meaning="GPU time", quick=None, full=None, optional=True, above=0),
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
    assert parameters.profile(RECORD, QUICK | {"seed": 7}) == "custom"


def test_a_notebooks_own_names_are_no_parameters():
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
    notebook = dict.fromkeys(names, "IPython's own")
    assert parameters.validate(RECORD, QUICK | notebook) == QUICK


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
        ("rate", 0, ["rate = 0", "> 0"]),
        ("rate", math.nan, ["rate = nan", "float"]),
        ("rate", math.inf, ["rate = inf", "float"]),
        ("rate", "1e-3", ["rate = '1e-3'", "YAML reads 1e-3 as text", "write 1.0e-3"]),
        ("flag", "true", ["flag = 'true'", "bool", "write True"]),
        ("flag", 1, ["flag = 1", "bool"]),
        ("sign", "plus", ["sign = 'plus'", "pm | offset"]),
        ("plane", "[256, 512]", ["plane", "-y 'name: [a, b]'"]),
        ("plane", [], ["plane = []", "list[int]"]),
        ("plane", [256, 256], ["no repeats"]),
        ("plane", [256, 4], ["each 8..1024"]),
        ("plane", [[256]], ["list[int]"]),
        ("plane", list(range(8, 109)), ["at most 100 values, got 101"]),
        ("arms", ["a", "c"], ["arms", "a | b"]),
        ("gpu", 0.0, ["gpu = 0.0", "> 0, or None"]),
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
    assert lines[6] == "gpu: float = None  # GPU time (> 0, or None)"
