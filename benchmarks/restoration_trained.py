"""What methods of restoration restore and invent, over the seeds that the page shows.

Each arm has the setting that served it best in ``restoration_rates``. Rows are of one arm, task, seed and
photograph; a part of one photograph is kept as it looks, of the first seed.
"""

from base64 import b64encode
from functools import partial
from typing import Any

from torch import Tensor

from fourfold import super_resolution, training
from fourfold.compared import restoration as compared
from fourfold.compared import restoration_task as given
from fourfold.recorded import arms, benchmark

NAME = "restoration_trained"
SEEDS = range(1000, 1005)


def best_settings() -> dict[tuple[Any, ...], Any]:
    """(task, arm) -> the setting that served it best. Raises ``ValueError`` without a sweep."""
    kept = benchmark.load("restoration_rates")
    if kept is None:
        raise ValueError("there is no record of settings: run benchmarks/restoration_rates.py first")
    found = arms.best(kept["rows"], "gain", "task", "arm")
    for name, arm in compared.ARMS.items():
        if isinstance(arm.settings, str):
            found |= {(task, name): found[task, arm.settings] for task in arm.tasks}
    return found


def looks(image: Tensor) -> str:
    """The part that is shown, a byte a pixel."""
    top, left, side = compared.SHOWN
    part = image[0, top : top + side, left : left + side]
    return b64encode(bytes((255 * part).round().byte().flatten().tolist())).decode()


def of_seed(settings: dict[tuple[Any, ...], Any], seed: int) -> list[dict[str, Any]]:
    """A row for each task, arm and photograph."""
    rows: list[dict[str, Any]] = []
    for task in given.TASKS:
        pairs = given.seen(task, super_resolution.JUDGE, seed, compared.SIDE)
        for arm in compared.of_task(task):
            restore = compared.ARMS[arm].make(given.Given(task, seed), settings[task, arm])
            made = compared.restored(restore, pairs.degraded)
            for name, image, small, clean in zip(super_resolution.JUDGE, made, *pairs, strict=True):
                row = {"seed": seed, "task": task, "arm": arm, "photograph": name}
                row |= compared.measured(image, clean[:1], given.bicubic(small)[:1])
                if seed == SEEDS[0] and name == compared.LOOKED_AT:
                    row["looks"] = looks(image)
                rows.append(row)
    return rows


def main() -> None:
    """Train, print and keep."""
    training.deterministic()
    settings = best_settings()
    about = [{"task": task, "arm": arm, "setting": value} for (task, arm), value in settings.items()]
    arms.seed_by_seed(NAME, SEEDS, partial(of_seed, settings), settings=about)


if __name__ == "__main__":
    main()
