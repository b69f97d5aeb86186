"""EGNN: equivariant to motions and mirrors, its formula by hand, gradients, bad input."""

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch.nn.functional import silu

from fourfold.egnn import EGNN, EGNNLayer

from .draws import normal


def cloud():
    return normal(2, 4, 3), normal(2, 4, 1, seed=1), normal(2, 4, 3, seed=2)


@torch.no_grad()
@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_displacements_turn_with_their_cloud(jolted, mirror):
    net, (pos, charge, velocity) = jolted(EGNN, 5, 2, by=0.1), cloud()
    move = mirror * torch.from_numpy(Rotation.from_rotvec([0.4, 1.0, -0.2]).as_matrix())
    (h, x), (same, moved) = net(pos, charge, velocity), net(pos @ move.T + 1.5, charge, velocity @ move.T)
    torch.testing.assert_close(moved, x @ move.T, rtol=0, atol=1e-10)
    torch.testing.assert_close(same, h, rtol=0, atol=1e-10)
    assert float((net(pos, charge, 0 * velocity)[1] - x).abs().max()) > 1e-3


def test_a_layer_is_its_formula(jolted):
    layer, (pos, charge, velocity), h = jolted(EGNNLayer, 3), cloud(), normal(2, 4, 3, seed=3)
    product = charge[:, :, None] * charge[:, None]
    everybody = (1 - torch.eye(4).double())[..., None]
    found_h, found_x = layer(h, pos, velocity, product, everybody)
    for b, i in ((0, 1), (1, 3)):
        heard, x = torch.zeros(3).double(), pos[b, i] + layer.keep(h[b, i]) * velocity[b, i]
        for j in set(range(4)) - {i}:
            away = pos[b, i] - pos[b, j]
            m = silu(layer.edge(torch.cat([h[b, i], h[b, j], (away @ away)[None], product[b, i, j]])))
            heard, x = heard + m, x + away * layer.move(m) / 3
        torch.testing.assert_close(found_x[b, i], x, rtol=0, atol=1e-12)
        kept = h[b, i] + layer.node(torch.cat([h[b, i], heard]))
        torch.testing.assert_close(found_h[b, i], kept, rtol=0, atol=1e-12)


def test_gradients_are_right(jolted):
    net, (pos, charge, velocity) = jolted(EGNN, 2, 1, by=0.1), cloud()
    inputs = pos[:1, :3].requires_grad_(), velocity[:1, :3].requires_grad_()
    assert torch.autograd.gradcheck(lambda p, v: net(p, charge[:1, :3], v), inputs)


@torch.no_grad()
def test_who_is_far_is_not_heard(jolted):
    net, (pos, charge, velocity) = jolted(EGNN, 3, 1, 5.0), cloud()
    away = torch.cat([pos, pos[:, :1] + 100], 1)
    more = torch.cat([charge, charge[:, :1]], 1), torch.cat([velocity, velocity[:, :1]], 1)
    torch.testing.assert_close(net(away, *more)[0][:, :4], net(pos, charge, velocity)[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 1), "hidden must be >= 1"),
        ((2, 0), "layers must be >= 1"),
        ((2, 1, 0.0), "radius must be > 0, got 0.0"),
    ],
)
def test_bad_sizes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        EGNN(*sizes)
