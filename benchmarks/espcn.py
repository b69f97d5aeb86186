"""How long one luminance frame takes, and one training step: ESPCN beside SRCNN on one thread.

A contestant makes a frame from one that is r times smaller, without gradients; the contestants of one frame
take turns. ``rounds`` are how many times longer it takes than ESPCN at r = 3, round by round. The SRCNNs
marked small run on the small image without enlarging it. Training steps have the chapter's crops.
"""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from fourfold import training
from fourfold.data.image_pairs import enlarge
from fourfold.recorded import benchmark
from fourfold.restoration import espcn

Calls = dict[str, Callable[[], Any]]

R, BATCH, CROP = 3, 8, 12
FRAMES = {"360x639": (360, 639), "1080x1920": (1080, 1920)}
LARGE = "1080x1920"
"""Its sides are multiples of all r, so ESPCN is timed at each."""
ROUNDS = {"step": 15, "360x639": 15, LARGE: 10}
"""A round of large frames takes a dozen seconds."""


def contestants() -> dict[str, espcn.Interpolated]:
    """What works on all pixels of the large image."""
    return {"srcnn_915": espcn.srcnn(R, 1), "srcnn_955": espcn.srcnn(R, 5), "twin": espcn.Interpolated(R)}


def frame_calls(frame: str) -> Calls:
    """Name -> the call that makes one frame."""
    height, width = FRAMES[frame]

    def small(r: int) -> Tensor:
        return torch.rand(1, 1, height // r, width // r, generator=training.stream(r, "frame"))

    x, models = small(R), contestants()
    calls: Calls = {
        "espcn_3": partial(espcn.ESPCN(R), x),
        "espcn_3_relu": partial(espcn.ESPCN(R, "relu"), x),
        "bicubic": partial(enlarge, x, R),
    }
    for name, model in models.items():
        calls[name] = partial(model, x)
    for name in ("srcnn_915", "srcnn_955"):
        calls[f"{name}_small"] = partial(models[name].refine, x)
    if frame == LARGE:
        for r in (2, 4):
            calls[f"espcn_{r}"] = partial(espcn.ESPCN(r), small(r))
    return calls


def step_calls() -> Calls:
    """Name -> the call that makes one training step."""
    generator = training.stream(0, "step")
    x = torch.rand(BATCH, 1, CROP, CROP, generator=generator)
    y = torch.rand(BATCH, 1, R * CROP, R * CROP, generator=generator)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        mse_loss(model(x), y).backward()
        optimizer.step()

    models = {"espcn_3": espcn.ESPCN(R), **contestants()}
    optimizers = {name: torch.optim.AdamW(model.parameters(), fused=True) for name, model in models.items()}
    return {name: partial(step, model, optimizers[name]) for name, model in models.items()}


def rows(work: str, calls: Calls, at_least: float) -> list[dict[str, Any]]:
    """Time the contestants of one piece of work, ``"step"`` or a frame."""
    samples = benchmark.interleaved(calls, rounds=ROUNDS[work], at_least=at_least)
    table = []
    for name, times in samples.items():
        over = benchmark.ratio(samples, name, "espcn_3")
        seconds = statistics.median(times)
        table.append({"work": work, "model": name, "seconds": seconds, "rounds": over.rounds})
        print(f"{work:>10} {name:>16}: {1e3 * seconds:9.2f} ms, {over} times ESPCN")
    return table


def main() -> None:
    """Measure, print and keep."""
    training.deterministic()
    with training.seeded(0):
        table = rows("step", step_calls(), 0.5)
        with torch.inference_mode():
            for frame in FRAMES:
                table += rows(frame, frame_calls(frame), 0.05)
    print(benchmark.keep("espcn", table, batch=BATCH, crop=CROP).name)


if __name__ == "__main__":
    main()
