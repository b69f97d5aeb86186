"""Small real tables: one row a sample, a few measured features, a class.

They ship with scikit-learn and need no network. Features are standardised with the training part's own mean
and deviation, so that networks without normalisation layers can be compared on them.
"""

from typing import NamedTuple

import torch
from torch import Tensor

NAMES = ("iris", "wine", "breast_cancer", "digits")


class Table(NamedTuple):
    """Rows (n, features) and their labels (n,)."""

    rows: Tensor
    labels: Tensor


def load(name: str, limit: int | None = None) -> tuple[Table, Table]:
    """Two thirds of a table for training and one third for testing, float32, standardised.

    Iris has 150 rows of 4 features in 3 classes, wine 178 of 13 in 3, breast_cancer 569 of 30 in 2, digits
    1797 of 64 in 10. Shuffled once, always the same way; ``limit`` keeps the first rows of that.
    Raises ``ValueError`` for an unknown name or a limit < 3.
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
    if limit is not None and limit < 3:
        raise ValueError(f"limit must be >= 3, or None for all rows, got {limit}")
    # Importing scikit-learn takes a second, which readers of other data should not wait.
    from sklearn import datasets as bundled

    features, classes = getattr(bundled, f"load_{name}")(return_X_y=True)
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))[:limit]
    rows = torch.tensor(features, dtype=torch.float32)[order]
    labels = torch.tensor(classes, dtype=torch.int64)[order]
    cut = round(2 * len(order) / 3)
    return standardised(Table(rows[:cut], labels[:cut]), Table(rows[cut:], labels[cut:]))


def standardised(train: Table, test: Table) -> tuple[Table, Table]:
    """Both tables with features shifted and scaled to mean 0 and variance 1 over the *training* rows.

    A feature that never changes in training becomes 0 there, and is only shifted in the test rows.
    """
    mean, deviation = train.rows.mean(0), train.rows.std(0, correction=0)
    scale = torch.where(deviation > 0, deviation, 1)
    return tuple(Table((part.rows - mean) / scale, part.labels) for part in (train, test))  # type: ignore[return-value]
