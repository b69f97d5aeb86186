"""Tables: known sizes, a fixed split, and features standardised with what training may see."""

import pytest
import torch
from sklearn.datasets import load_wine

from fourfold.data import tables
from fourfold.data.tables import Table


@pytest.mark.parametrize(
    ("name", "rows", "features", "classes"),
    [("iris", 150, 4, 3), ("wine", 178, 13, 3), ("breast_cancer", 569, 30, 2), ("digits", 1797, 64, 10)],
)
def test_sizes_classes_and_moments(name, rows, features, classes):
    train, test = tables.load(name)
    assert len(train.labels) == round(2 * rows / 3)
    assert len(train.labels) + len(test.labels) == rows
    for part in (train, test):
        assert part.rows.shape == (len(part.labels), features)
        assert part.rows.dtype == torch.float32
        assert part.rows.isfinite().all()
        assert part.labels.unique().tolist() == list(range(classes))
    varies = train.rows.std(0) > 0
    assert varies.all() == (name != "digits")
    torch.testing.assert_close(train.rows.mean(0), torch.zeros(features), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        train.rows[:, varies].var(0, correction=0), torch.ones(int(varies.sum())), rtol=0, atol=1e-4
    )
    assert test.rows.mean(0).abs().max() > 0.01  # test rows do not see their own mean


def test_the_split_is_always_the_same_and_a_limit_keeps_its_first_rows():
    one, again = tables.load("wine"), tables.load("wine")
    assert all(torch.equal(a, b) for a, b in zip(one[0] + one[1], again[0] + again[1], strict=True))
    train, test = tables.load("wine", limit=31)
    assert (len(train.labels), len(test.labels)) == (21, 10)
    assert torch.equal(torch.cat([train.labels, test.labels]), one[0].labels[:31])
    assert len(tables.load("wine", limit=10_000)[0].labels) == len(one[0].labels)


def test_rows_keep_their_labels():
    features, classes = load_wine(return_X_y=True)
    train, _ = tables.load("wine")
    order = torch.randperm(178, generator=torch.Generator().manual_seed(0))[:119]
    raw = torch.tensor(features)[order]
    expected = (raw - raw.mean(0)) / raw.std(0, correction=0)
    torch.testing.assert_close(train.rows.double(), expected, rtol=0, atol=1e-5)
    assert torch.equal(train.labels, torch.tensor(classes)[order])


def test_a_feature_that_never_changes_is_only_shifted():
    train = Table(torch.tensor([[5.0, 0.0], [5.0, 2.0]]), torch.tensor([0, 1]))
    test = Table(torch.tensor([[6.0, 3.0]]), torch.tensor([1]))
    learn, check = tables.standardised(train, test)
    assert learn.rows.tolist() == [[0, -1], [0, 1]]
    assert check.rows.tolist() == [[1, 2]]
    assert check.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tables.load("boston"), "name must be one of iris, wine, .*, got 'boston'"),
        (lambda: tables.load("iris", limit=2), "limit must be >= 3, or None .*, got 2"),
    ],
)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
