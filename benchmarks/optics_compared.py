"""Simulators of the 4f bench side by side: ours, optnn, torchoptics, SVETlANNa, Chromatix, and plain FFTs.

Two tasks, one picture and one mask or kernel each, on planes of 64 to 2048 pixels a side, in float32 and
float64, by each simulator's own call (`fourfold.compared.optics_peers`). First the answers: each is compared
with the ideal bench in closed form, its gradient too, and who is off by more than a tenth is not timed. Then
the times: every simulator has a process of its own, with the interpreter that it needs, on one thread; the
processes take turns. Last the peak of memory, each in a fresh process.

A simulator that cannot be installed here is a row that says why.
"""

import statistics
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fourfold.bench4f.propagation import Bench
from fourfold.compared import optics_peers as peers
from fourfold.recorded import benchmark
from fourfold.recorded.contestants import WEIGHED, Absent, Worker, environment

SIDES = (64, 128, 256, 512, 1024, 2048)
PRECISIONS: tuple[peers.Precision, ...] = ("float32", "float64")
KINDS = ("forward", "backward")
MEMORY_AT = 1024
"""Pixels of the plane whose peak is measured, or the most of a contestant; in double, where it has that."""
ROUNDS, AT_LEAST = 5, 0.05
FEW_ROUNDS = 3
"""On the largest plane, where a call takes seconds."""
AGREES = 0.1
"""Relative error up to which two simulators do the same: a different pixel or lens is far beyond."""
WORKER = "fourfold.compared.optics_peers"


def interpreters(names: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Name -> interpreter of the contestants that can take part here, and name -> reason of the others."""
    found: dict[str, str] = {}
    absent: dict[str, str] = {}
    for name in names:
        try:
            found[name] = environment(peers.CONTESTANTS[name].environment)
        except Absent as reason:
            absent[name] = str(reason)
            print(f"{name}: {reason}", flush=True)
    return found, absent


def by_exact_waves(arrays: peers.Arrays) -> np.ndarray:
    """The field of the scene through our bench with exact free space, upright: a second opinion."""
    image, phase = (torch.from_numpy(arrays[name]) for name in ("image", "phase"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bench = Bench(len(image), peers.WAVELENGTH, peers.focal(len(image)), exact=True)
    light = bench.lens_ft(bench.lens_ft(image) * torch.polar(torch.ones_like(phase), phase), 1)
    return peers.turned(light.numpy())


@lru_cache(maxsize=3)
def ideal(task: str, side: int, axis: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """`fourfold.compared.optics_peers.truth` of a scene."""
    return peers.truth(task, peers.scene(task, side, axis), axis)


def judged(name: str, side: int, precision: peers.Precision, folder: Path) -> dict[str, Any]:
    """The errors of what a contestant left in a folder."""
    one = peers.CONTESTANTS[name]
    answer, gradients = ideal(one.task, side, one.axis)
    found = np.load(folder / "answer.npy")
    errors: dict[str, Any] = {
        "error": peers.error(found, answer),
        "gradient_errors": [
            peers.error(np.load(folder / f"gradient{i}.npy"), gradient)
            for i, gradient in enumerate(gradients)
        ],
    }
    if one.exact_waves:
        errors["error_to_exact_waves"] = peers.error(found, by_exact_waves(peers.scene(one.task, side)))
    return errors


def race(
    workers: Mapping[str, Worker], side: int, precision: peers.Precision, rounds: int
) -> dict[str, dict[str, Any]]:
    """Contestant -> errors, first calls and seconds a round on one plane; who is wrong or fails says so."""
    rows: dict[str, dict[str, Any]] = {}
    ready: list[str] = []
    for name, worker in workers.items():
        about = {"contestant": name, "task": peers.CONTESTANTS[name].task}
        rows[name] = row = about | {"side": side, "precision": precision}
        with tempfile.TemporaryDirectory() as folder:
            try:
                row |= worker.ask(
                    "prepare", name=name, side=side, precision=precision, folder=folder, at_least=AT_LEAST
                )
            except Absent as reason:
                row["untimed"] = str(reason)
                continue
            row |= judged(name, side, precision, Path(folder))
        worst = max(row["error"], *row["gradient_errors"])
        if worst <= AGREES:
            ready.append(name)
        else:
            row["untimed"] = f"it is off by {100 * worst:.2g} %"
    for kind in KINDS:
        seconds: dict[str, list[float]] = {name: [] for name in ready}
        for _ in range(rounds):
            for name in list(seconds):
                try:
                    seconds[name].append(workers[name].ask("round", kind=kind)["seconds"])
                except Absent as reason:
                    rows[name]["untimed"] = str(reason)
                    del seconds[name]
        for name, times in seconds.items():
            rows[name][f"rounds_{kind}"] = times
    for name, row in rows.items():
        times = [f"{1e3 * statistics.median(row[f'rounds_{k}']):9.2f}" for k in KINDS if f"rounds_{k}" in row]
        print(f"{name:>24} {side:>5} {precision}:", *times, row.get("untimed", ""), flush=True)
    return rows


def memory(pythons: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Contestant -> bytes at the peak of a forward, and of a forward and backward pass."""
    rows: dict[str, dict[str, Any]] = {}
    for name, python in pythons.items():
        one = peers.CONTESTANTS[name]
        side, precision = min(MEMORY_AT, one.largest), one.precisions[-1]
        rows[name] = row = {"contestant": name, "side": side, "precision": precision}
        for kind in KINDS:
            with Worker(python, WORKER, settings=WEIGHED) as fresh:
                try:
                    row[kind] = fresh.ask("memory", name=name, side=side, precision=precision, kind=kind)[
                        "bytes"
                    ]
                except Absent as reason:
                    row["unmeasured"] = str(reason)
        print(f"{name:>24} {side:>5} {precision}:", *(row.get(kind) for kind in KINDS), "bytes", flush=True)
    return rows


def main() -> None:
    """Make the environments, compare the answers, race, and keep the rows."""
    pythons, absent = interpreters(peers.CONTESTANTS)
    times: dict[str, Any] = {}
    held = memory(pythons)
    with ExitStack() as running:
        workers: dict[str, Worker] = {}
        for side in SIDES:
            for precision in PRECISIONS:
                for name, python in pythons.items():
                    if name not in workers or not workers[name].alive:
                        workers[name] = running.enter_context(Worker(python, WORKER))
                able = {
                    name: worker
                    for name, worker in workers.items()
                    if precision in peers.CONTESTANTS[name].precisions
                    and side <= peers.CONTESTANTS[name].largest
                }
                rounds = FEW_ROUNDS if side == SIDES[-1] else ROUNDS
                for name, row in race(able, side, precision, rounds).items():
                    times[f"{name}, {side}, {precision}"] = row
    rows = {"times": times, "memory": held, "absent": absent}
    print(benchmark.keep("optics_compared", rows, threads=1, rounds=[ROUNDS, FEW_ROUNDS]).name)


if __name__ == "__main__":
    main()
