"""How long networks over positions, positions with orientations, and rigid motions take for the same clouds.

One forward pass of two layers with 32 channels on four clouds of 20 points, all of them neighbours, on one
thread in float32. All contestants run once a round; a row keeps every round's time.
"""

import statistics

import torch
from scipy.spatial.transform import Rotation

from fourfold import training
from fourfold.recorded import benchmark
from fourfold.theory import ponita as paper

ROUNDS, BATCH, POINTS, HIDDEN, LAYERS = 12, 4, 20, 32, 2
BUNDLE, ROTATIONS = (16, 32), ((16, 1), (16, 2))
"""Orientations of R^3 x S^2; directions and in-plane angles of SE(3), beside the 24 rotations of the cube."""


def main() -> None:
    """Measure, print a table, keep the record."""
    training.deterministic()
    generator = training.stream(0, "clouds")
    pos, scalar = torch.randn(BATCH, POINTS, 3, generator=generator), torch.ones(BATCH, POINTS, 1)
    vector = torch.randn(BATCH, POINTS, 1, 3, generator=generator)
    grids = {n: paper.repelled(n, training.stream(n, "grid")) for n in BUNDLE}
    nets = {"R3": paper.Ponita("R3", 1, HIDDEN, 1, 0, LAYERS)}
    nets |= {f"R3xS2, {n}": paper.Ponita("R3xS2", 2, HIDDEN, 1, 1, LAYERS, grids[n]) for n in BUNDLE}
    nets |= {
        f"SE3, {n} x {k}": paper.Ponita("SE3", 2, HIDDEN, 1, 1, LAYERS, paper.frames(grids[n], k))
        for n, k in ROTATIONS
    }
    cube = torch.from_numpy(Rotation.create_group("O").as_matrix())
    nets["SE3, cube"] = paper.Ponita("SE3", 2, HIDDEN, 1, 1, LAYERS, cube)
    with torch.inference_mode():
        calls = {
            name: lambda net=net, vec=None if name == "R3" else vector: net(pos, scalar, vec)
            for name, net in nets.items()
        }
        times = benchmark.interleaved(calls, rounds=ROUNDS)
    rows = [{"network": name, "rounds": seconds} for name, seconds in times.items()]
    for name, seconds in times.items():
        print(f"{name:>14}: {1e3 * statistics.median(seconds):7.1f} ms")
    about = {"batch": BATCH, "points": POINTS, "hidden": HIDDEN, "layers": LAYERS}
    benchmark.keep("ponita", rows, rounds=ROUNDS, dtype="float32", **about)


if __name__ == "__main__":
    main()
