"""Clouds: Coulomb's law, conserved quantities, SciPy's integrator and ridge regression, motions."""

import pytest
import torch
from scipy.integrate import solve_ivp
from sklearn.linear_model import Ridge

from fourfold.data.clouds import (
    coulomb,
    dipoles,
    forces,
    moved,
    nbody,
    ridge,
    rivals,
    rotations,
    stars,
    trajectories,
    turned,
    verlet,
)
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
    pos = pos.detach()
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


def test_rotations_are_uniform_and_a_generators_own():
    r = rotations(4000, stream(0, "x"))
    torch.testing.assert_close(r @ r.mT, torch.eye(3).double().expand_as(r))
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(4000).double())
    assert float(r.mean(0).abs().max()) < 0.05
    assert torch.equal(r, rotations(4000, stream(0, "x")))


@pytest.mark.parametrize("n", [2, 3])
def test_a_motion_keeps_distances_and_lengths(n):
    points = normal(6, 3, 2 * n)
    after = moved(points, n, stream(0, "x"))
    for one, other in ((0, 1), (1, 2)):
        before, now = (x[:, one, :n] - x[:, other, :n] for x in (points, after))
        torch.testing.assert_close(now.norm(dim=-1), before.norm(dim=-1))
        torch.testing.assert_close((now * after[:, one, n:]).sum(-1), (before * points[:, one, n:]).sum(-1))
    assert float((after - points).abs().min()) > 1e-6
    assert torch.equal(points, normal(6, 3, 2 * n))


def test_forces_turn_with_their_cloud_and_physics_is_near_the_truth():
    clouds, moves = trajectories(200, stream(0, "x"), 0, 300)
    turn = rotations(1, stream(1, "x"))[0].float()
    torch.testing.assert_close(
        forces(turned(clouds, turn, 2.0)),
        torch.einsum("ij,npjk->npik", turn.double(), forces(clouds)),
        atol=1e-2,
        rtol=1e-3,
    )
    errors = {
        name: float((found - moves).square().mean())
        for name, found in rivals((clouds, moves), clouds, 0.3).items()
    }
    assert errors["Verlet"] < 0.5 * errors["straight"]
    assert errors["ridge"] < errors["straight"]
    finer = float((verlet(clouds, 0.3, 300, 0.0) - moves).square().median())
    assert finer < 1e-6


def test_ridge_is_scikit_learns():
    known = trajectories(30, stream(0, "x"), 0, 50)
    fit = Ridge(1.0, fit_intercept=False).fit(forces(known[0]).flatten(0, 2), known[1].double().flatten())
    wanted = torch.from_numpy(fit.predict(forces(known[0]).flatten(0, 2))).view_as(known[1])
    torch.testing.assert_close(ridge(known, known[0]), wanted, rtol=0, atol=1e-8)


def test_stars_have_the_angle_that_they_tell():
    points, told = stars(2000, stream(0, "x"))
    one, other = points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]
    angle = torch.arccos((one * other).sum(-1) / one.norm(dim=-1) / other.norm(dim=-1))
    torch.testing.assert_close(angle, torch.pi / 2 * (1.5 + told / 12**0.5), rtol=0, atol=2e-2)
    assert float((points[:, 1] - points[:, 2]).norm(dim=-1).min()) > 3.6
    assert 0.95 < float(told.std()) < 1.05
    torch.testing.assert_close(stars(2000, stream(0, "x"), size=0.5)[0], points / 2)


@pytest.mark.parametrize("product", [True, False])
def test_the_energy_of_dipoles_is_a_sum_over_pairs(product):
    x, energy = dipoles(3000, stream(0, "x"), product=product)
    (p, o), wanted = x[0].double().split(3, -1), 0.0
    for i in range(4):
        for j in range(i):
            r = p[j] - p[i]
            rho = float((r @ r + 1) ** 0.5)
            ends = float(o[i] @ r), float(o[j] @ r)
            mixed = ends[0] * ends[1] if product else (ends[0] ** 2 + ends[1] ** 2) / 2
            wanted += float(o[i] @ o[j]) / rho**3 - 3 * mixed / rho**5
    assert float(energy[0]) == pytest.approx(wanted / 0.25, abs=1e-5)
    assert 0.4 < float(energy.std()) < 2.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rotations(0, stream(0, "x")), "n must be >= 1, got 0"),
        (lambda: stars(1, stream(0, "x"), size=0.0), "size must be finite and > 0, got 0.0"),
        (lambda: moved(normal(1, 1, 4), 4, stream(0, "x")), r"n must be in 2\.\.3, got 4"),
        (lambda: verlet(normal(1, 2, 7), 1.0, 0), "steps must be >= 1, got 0"),
        (lambda: verlet(normal(1, 2, 7), 1.0, 4, -1.0), "soften must be finite and >= 0, got -1.0"),
    ],
)
def test_bad_numbers_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
