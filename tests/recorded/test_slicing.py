"""Slicing: what a verdict needs is kept, the rest of the page is not."""

import pytest

from fourfold.recorded.slicing import slice_for

PAGE = """
import math
from fourfold import training
chapter = open_chapter("a", globals())
members = range(seeds)
def helper(x):
    return scale * x
scale = 2
first, second = [], {}
for member in members:
    first.append(helper(member))
for member in members:
    second[member] = math.nan
training.train(second)
chapter.judge("C1", criteria={"a": first})
third = sum(second.values())
chapter.keep("third", third)
chapter.judge("C2", criteria={"a": third})
fourth = first + [0]
"""


def test_the_first_claim_needs_its_list_and_what_fills_it():
    sliced = slice_for(PAGE, ["C1"])
    assert sliced.splitlines() == [
        "import math",
        "from fourfold import training",
        "chapter = open_chapter('a', globals())",
        "members = range(seeds)",
        "def helper(x):",
        "    return scale * x",
        "scale = 2",
        "first, second = ([], {})",
        "for member in members:",
        "    first.append(helper(member))",
        "chapter.judge('C1', criteria={'a': first})",
    ]


def test_what_a_call_may_have_changed_is_kept_and_later_statements_are_not():
    sliced = slice_for(PAGE, ["C2"])
    assert "training.train(second)" in sliced
    assert "third = " in sliced
    assert "fourth" not in sliced
    assert "keep" not in sliced
    assert "'C1'" not in sliced


def test_a_part_of_what_is_needed_may_be_changed():
    page = "errors = {'a': []}\nfor n in range(3):\n    errors['a'].append(n)\nchapter.judge('C1', x=errors)"
    assert slice_for(page, ["C1"]) == page


def test_a_claim_that_nobody_judges_is_refused():
    with pytest.raises(ValueError, match="no statement judges C9"):
        slice_for(PAGE, ["C9"])
