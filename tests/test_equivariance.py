"""Errors of equivariance: none for maps that turn, the right ones for maps that do not."""

import pytest
import torch

from fourfold.data.clouds import rotations
from fourfold.equivariance import Reads, errors, lifted, off, raw
from fourfold.training import stream

from .draws import normal

CLOUDS, TURNS = normal(5, 4, 7), rotations(5, stream(0, "x"))


def exact(x):
    """A scalar and a vector of charged clouds."""
    pos, velocity = x[..., :3] - x[..., :3].mean(1, keepdim=True), x[..., 4:]
    return pos.norm(dim=-1, keepdim=True), torch.linalg.cross(pos, velocity)[:, :, None]


def test_a_map_that_turns_has_no_error():
    assert float(errors(exact, CLOUDS, TURNS).max()) < 1e-12
    assert off(lambda x: exact(x)[1][:, :, 0], CLOUDS, TURNS) < 1e-12


def test_a_map_that_reads_one_axis_has_the_error_that_it_has():
    """Of vectors that never turn: twice the sine of half the angle, weighted by how they lie to the axis."""

    def fixed(x):
        s, v = exact(x)
        return s + x[..., :1], torch.zeros_like(v) + torch.tensor([0.0, 0, 1]).to(x)

    found = errors(fixed, CLOUDS, TURNS)
    wanted = (TURNS[:, :, 2] - torch.tensor([0.0, 0, 1]).double()).norm(dim=-1)
    torch.testing.assert_close(found[:, 0], wanted)
    assert float(found[:, 1].min()) > 0.1
    per_cloud = off(lambda x: fixed(x)[1][:, :, 0], CLOUDS, TURNS)
    assert per_cloud == pytest.approx(float(wanted.square().mean().sqrt()))


def test_clouds_are_read_as_they_say():
    pos, charge, velocity = Reads(lambda *parts: parts, lifted)(CLOUDS)
    assert (pos.shape, charge.shape, velocity.shape) == ((5, 4, 3), (5, 4, 1), (5, 4, 1, 3))
    assert torch.equal(torch.cat([pos, charge, velocity[:, :, 0]], -1), CLOUDS)
    assert torch.equal(torch.cat(Reads(lambda *parts: parts, raw)(CLOUDS), -1), CLOUDS)
