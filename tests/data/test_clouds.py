"""Charged particles: Coulomb's law, conserved quantities, and SciPy's integrator as the oracle."""

import pytest
import torch
from scipy.integrate import solve_ivp

from fourfold.data.clouds import coulomb, nbody
from fourfold.training import stream

from ..draws import normal


def energy(pos, velocity, charge):
    """Kinetic and potential, (n,)."""
    i, j = torch.triu_indices(pos.shape[1], pos.shape[1], 1)
    far = (pos[:, i] - pos[:, j]).norm(dim=-1)
    return velocity.square().sum((1, 2)) / 2 + (charge[:, i] * charge[:, j] / far).sum(1)


def test_forces_are_slopes_of_the_energy():
    pos, charge = normal(3, 4, 3).requires_grad_(), normal(3, 4, seed=1)
    (slope,) = torch.autograd.grad(energy(pos, 0 * pos, charge).sum(), pos)
    torch.testing.assert_close(coulomb(pos, charge), -slope)
    assert float(coulomb(pos, charge).sum(1).abs().max()) < 1e-10
    assert float(coulomb(pos, charge, 0.5).abs().max()) < float(coulomb(pos, charge).abs().max())


def test_paths_are_scipys():
    pos, velocity, charge, later = nbody(3, stream(1, "x"), 0, 400)
    for i in range(3):

        def law(_, state, q=charge[i]):
            p, v = torch.from_numpy(state).view(2, 5, 3)
            return torch.cat([v, coulomb(p, q)]).flatten().numpy()

        start = torch.cat([pos[i], velocity[i]]).flatten().numpy()
        end = solve_ivp(law, (0, 0.4), start, rtol=1e-9, atol=1e-9).y[:15, -1]
        torch.testing.assert_close(later[i].flatten(), torch.from_numpy(end), rtol=0, atol=5e-3)


def test_speeds_charges_and_what_is_seen_later():
    pos, velocity, charge, later = nbody(20, stream(0, "x"), 0, 30)
    torch.testing.assert_close(velocity.norm(dim=-1), torch.full((20, 5), 0.5).double())
    assert set(charge.flatten().tolist()) == {-1, 1}
    seen, fast, same, latest = nbody(20, stream(0, "x"), 30, 1)
    torch.testing.assert_close(seen, later)
    assert torch.equal(same, charge)
    torch.testing.assert_close(latest - seen, 1e-3 * (fast + 1e-3 * coulomb(seen, charge).clamp(-100, 100)))
    assert float((pos - later).abs().max()) > 1e-3


def test_without_close_encounters_energy_stays():
    start, velocity, charge, _ = nbody(50, stream(2, "x"), 0, 1)
    near = (start[:, :, None] - start[:, None] + 9 * torch.eye(5)[..., None]).norm(dim=-1).amin((1, 2))
    later, speed, _, _ = nbody(50, stream(2, "x"), 200, 1)
    close = (later[:, :, None] - later[:, None] + 9 * torch.eye(5)[..., None]).norm(dim=-1).amin((1, 2))
    calm = (near > 0.5) & (close > 0.5)
    assert int(calm.sum()) > 10
    drift = energy(later, speed, charge) - energy(start, velocity, charge)
    assert float(drift[calm].abs().max()) < 1e-2


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ((0, 0, 1), "n must be >= 1, got 0"),
        ((1, -1, 1), "t0 must be >= 0, got -1"),
        ((1, 0, 0), "horizon must be >= 1, got 0"),
    ],
)
def test_bad_input_is_refused(how, message):
    with pytest.raises(ValueError, match=message):
        nbody(how[0], stream(0, "x"), *how[1:])
