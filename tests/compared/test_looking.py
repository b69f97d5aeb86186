"""Where a token looks: every mechanism on one map, and measures of looks that are known."""

import pytest
import torch

from fourfold.compared import looking
from fourfold.judging import records

from ..draws import normal

DIM, SIDE = 16, 16
MAP = normal(DIM, SIDE, SIDE, seed=1).float()


@pytest.mark.parametrize("name", looking.MECHANISMS)
def test_every_mechanism_looks_somewhere_and_its_paper_has_a_chapter(name):
    found = looking.looks(name, MAP, range(2))
    assert found.shape == (2, DIM, SIDE, SIDE)
    picture = looking.strength(found)
    assert picture.sum() == pytest.approx(1, abs=1e-5)
    assert 0 <= looking.reach(picture) < SIDE
    paper = looking.MECHANISMS[name].paper
    assert not paper or paper in {record.slug for record in records.chapters()}


def test_a_look_is_repeated_by_its_seeds():
    assert torch.equal(looking.looks("attention", MAP, [3]), looking.looks("attention", MAP, [3]))


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("3 x 3 convolution", 3),
        ("Hi-Fi", 2),
        ("RRFormer", 8),
        ("SReT, sliced", SIDE // looking.GROUPS),
        ("CRAFT", SIDE),
    ],
)
def test_looks_end_where_the_mechanism_does(name, rows):
    picture = looking.strength(looking.looks(name, MAP, range(2)))
    assert int(picture.any(1).sum()) == rows


def test_a_fixed_filter_does_not_mind_the_map_and_attention_does():
    other = normal(DIM, SIDE, SIDE, seed=2).float()
    for name, minds in {"3 x 3 convolution": False, "static filter": False, "attention": True}.items():
        one, two = (looking.looks(name, x, range(2)) for x in (MAP, other))
        assert (looking.changed(one, two) > 0.01) == minds


def test_reach_is_the_mean_distance():
    picture = torch.zeros(8, 8)
    picture[4, 4] = picture[4, 7] = 0.5
    assert looking.reach(picture) == 1.5


def test_looks_with_nothing_in_common_change_by_one():
    one, other = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    one[0, 0], other[0, 1] = 1, 1
    assert looking.changed(one, other) == pytest.approx(1)
    assert looking.changed(one, one) == 0
