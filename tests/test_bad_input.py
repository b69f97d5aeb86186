"""Bad input, generated: any value of any parameter of any chapter is used as it is or refused in words."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.judging import parameters, records
from fourfold.judging.parameters import ParameterError

PARAMETERS = [
    pytest.param(record, name, id=f"{record.slug}-{name}")
    for record in records.chapters()
    for name in record.parameters
]


def quick(record):
    return {name: spec.quick for name, spec in record.parameters.items()}


def wrong(spec):
    """Values that this parameter must refuse: wrong types, out of range, not a number, huge, empty."""
    kind = spec.type.removeprefix("list[").removesuffix("]")
    scalars = [st.just(value) for value in (math.nan, math.inf, -math.inf, "", b"8", {}, object(), 1j)]
    if kind != "str":
        scalars.append(st.text())
    if kind != "bool":
        scalars.append(st.booleans())
    if kind == "int":
        scalars.append(st.floats())
        scalars.append(st.integers(max_value=-1).map(lambda n: n * 10**30))
        if not spec.choices:
            scalars += [st.integers(min_value=int(spec.max) + 1), st.integers(max_value=int(spec.min) - 1)]
    if kind == "float":
        if spec.max is not None:
            scalars.append(st.floats(min_value=spec.max, exclude_min=True))
        if spec.min is not None:
            scalars.append(st.floats(max_value=spec.min, exclude_max=True))
    if spec.choices:
        scalars.append((st.text() | st.integers()).filter(lambda value: value not in spec.choices))
    scalar = st.one_of(scalars)
    if not spec.type.startswith("list"):
        empty = [] if spec.optional else [st.none()]
        return st.one_of(scalar, st.lists(scalar, max_size=3), *empty)
    good = st.just((spec.quick or spec.full)[0])
    twice = [] if spec.repeats else [good.map(lambda value: [value, value])]
    return st.one_of(
        scalar,
        good,
        st.just([]),
        st.lists(scalar, min_size=1, max_size=3),
        st.tuples(good, scalar).map(list),
        *twice,
        good.map(lambda value: [value] * 10**5),
    )


@pytest.mark.parametrize(("record", "name"), PARAMETERS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_wrong_value_is_refused_by_name_with_what_is_allowed(record, name, data):
    spec = record.parameters[name]
    value = data.draw(wrong(spec))
    with pytest.raises(ParameterError) as refused:
        parameters.validate(record, quick(record) | {name: value})
    (line,) = str(refused.value).split("\n") if "\n" not in repr(value) else [str(refused.value)]
    assert line.startswith(f"{name} = {repr(value)[:20]}")
    assert f"expected {spec.type}, {spec.allowed}" in line
    assert len(line) < 600, "a huge value must not flood the error"


@pytest.mark.parametrize("record", records.chapters(), ids=lambda record: record.slug)
def test_the_extremes_that_a_record_allows_are_accepted(record):
    rules = {
        name: {spec.multiple_of, spec.divides, spec.at_most, spec.long_as} - {None}
        for name, spec in record.parameters.items()
    }
    for name, spec in record.parameters.items():
        # What a rule ties to another parameter may be refused because of that one.
        tied = bool(rules[name]) or any(name in others for others in rules.values())
        for bound in (spec.min, spec.max):
            if bound is not None and not tied:
                value = int(bound) if "int" in spec.type else float(bound)
                inwards = 0 if spec.repeats else 1 if bound == spec.min else -1
                values = [value + inwards * place for place in range(spec.shortest)]
                given_value = values if spec.type.startswith("list") else value
                assert parameters.validate(record, quick(record) | {name: given_value})[name] == given_value
