"""Images under affine maps: maps of the grid are exact, draws keep to their ranges."""

import math

import pytest
import torch

from fourfold.data.warps import affnist_maps, blurred, on_canvas, stretches, warped
from fourfold.matrices import rotation, shear
from fourfold.training import stream

from ..draws import normal

ONE = torch.eye(2, dtype=torch.float64)


def test_maps_of_the_grid_are_exact():
    x = normal(2, 1, 6, 6)
    torch.testing.assert_close(warped(x, ONE.expand(2, 2, 2)), x)
    turn = rotation(torch.tensor(-math.pi / 2, dtype=torch.float64)).expand(2, 2, 2)
    torch.testing.assert_close(warped(x, turn), torch.rot90(x, 1, (2, 3)))
    right = torch.tensor([[1 / 3, 0]], dtype=torch.float64).expand(2, 2)  # one of six pixels
    torch.testing.assert_close(warped(x, ONE.expand(2, 2, 2), right)[..., 1:], x[..., :-1])


def test_a_map_moves_what_is_there():
    """A linear image: f(x) = x becomes the first coordinate of A^-1 (p - t)."""
    line = (2 * torch.arange(40) + 1) / 40 - 1
    x, y = line.expand(40, 40).double(), line[:, None].expand(40, 40).double()
    a, t = (
        shear(0.3) @ rotation(torch.tensor(0.2, dtype=torch.float64)),
        torch.tensor([[0.1, -0.05]], dtype=torch.float64),
    )
    back = torch.linalg.inv(a)
    expected = back[0, 0] * (x - 0.1) + back[0, 1] * (y + 0.05)
    found = warped(x[None, None], a[None], t)[0, 0]
    torch.testing.assert_close(found[15:25, 15:25], expected[15:25, 15:25], rtol=0, atol=1e-6)


def test_draws_keep_to_their_ranges():
    maps, shifts = affnist_maps(500, stream(0, "x"))
    assert maps.dtype == torch.float64
    assert float(shifts.abs().max()) <= 0.2
    determinant = torch.linalg.det(maps)
    assert 0.64 <= float(determinant.min()) < 0.75
    assert 1.3 < float(determinant.max()) <= 1.44
    assert torch.equal(maps, affnist_maps(500, stream(0, "x"))[0])
    singular = torch.linalg.svdvals(stretches(500, 1.5, 2.0, stream(0, "x")))
    ratio = singular[:, 0] / singular[:, 1]
    torch.testing.assert_close(singular.prod(1), torch.ones(500).double())
    assert 1.5 <= float(ratio.min()) < 1.51
    assert 1.99 < float(ratio.max()) <= 2


def test_canvas_and_blur_keep_what_there_is():
    x = normal(3, 8, 8).abs()
    placed = on_canvas(x, 3)
    assert placed.shape == (3, 1, 10, 10)
    torch.testing.assert_close(placed.sum((1, 2, 3)), x.sum((1, 2)) / 4)
    torch.testing.assert_close(blurred(placed).sum((1, 2, 3)), placed.sum((1, 2, 3)))
    assert float(blurred(placed).amax()) < float(placed.amax())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: warped(normal(2, 1, 4, 4), ONE[None]), r"expected maps \(2, 2, 2\)"),
        (lambda: warped(normal(1, 1, 4, 4), ONE[None], normal(2, 2)), r"shifts \(1, 2\), got .* \(2, 2\)"),
        (lambda: affnist_maps(0, stream(0, "x")), "n must be >= 1, got 0"),
        (lambda: stretches(0, 1.5, 2.0, stream(0, "x")), "n must be >= 1, got 0"),
        (lambda: stretches(3, 0.5, 2.0, stream(0, "x")), "least must be finite and >= 1, got 0.5"),
    ],
)
def test_refused_with_name_value_and_range(call, message):
    with pytest.raises(ValueError, match=message):
        call()
