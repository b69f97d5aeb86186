"""PONITA: attributes tell pairs apart, grids are what they are called, layers are the authors'."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch.nn.functional import gelu, normalize

from fourfold import cost
from fourfold.level_sets import partner
from fourfold.theory.ponita import (
    BundleConv,
    PolyFeatures,
    Ponita,
    PonitaBlock,
    apart,
    attributes,
    calibrate,
    frames,
    icosahedral,
    icosahedron,
    pair,
    pair_attributes,
    place,
    repelled,
    turn,
    window,
)
from fourfold.training import seeded, stream

from ..draws import normal

NUMBERS = {"R2": 2, "R3": 3, "R2xS1": 4, "R3xS2": 6, "R3xS2+": 6, "SE3": 9}
TURN = torch.from_numpy(Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix())
SHIFT = torch.tensor([0.2, -1.0, 3.0], dtype=torch.float64)


def raw_pairs(space, n=20):
    return normal(n, 2, NUMBERS[space])


# --- attributes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", NUMBERS)
def test_a_motion_keeps_the_attributes_and_is_found(space):
    n = 2 if space.startswith("R2") else 3
    move = TURN if n == 3 else torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    raw = raw_pairs(space)
    vectors = raw.unflatten(-1, (-1, n)) @ move.T
    vectors[..., 0, :] += SHIFT[:n]
    moved = vectors.flatten(-2)
    torch.testing.assert_close(pair_attributes(space, moved), pair_attributes(space, raw), rtol=0, atol=1e-12)
    assert float(apart(space, raw, moved).max()) < 1e-12
    assert float(apart(space, raw, raw_pairs(space).flip(0)).min()) > 1e-3


def test_two_pairs_with_equal_attributes_are_not_joined():
    """The counterexample of the page: a sender that looks away, and one that looks past."""
    up, away, past = torch.eye(3, dtype=torch.float64)[[2, 0, 1]]
    first, second = (
        torch.stack([torch.cat([0 * up, up]), torch.cat([away, looks])]) for looks in (away, past)
    )
    wanted = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    for raw in (first, second):
        torch.testing.assert_close(pair_attributes("R3xS2", raw), wanted, rtol=0, atol=1e-9)
    assert float(apart("R3xS2", first, second, mirror=True)) > 0.1
    fourth = [float(pair_attributes("R3xS2+", raw)[-1]) for raw in (first, second)]
    assert fourth == pytest.approx([1, 0])


def test_turning_the_sender_about_the_receivers_axis_keeps_three_attributes():
    raw = raw_pairs("R3xS2")
    p, axes = pair("R3xS2", raw)
    about = Rotation.from_rotvec(axes[:, 0, 0].numpy()).as_matrix()
    turned = torch.cat([p, axes[:, :, 0]], -1)
    turned[:, 1, 3:] = (torch.from_numpy(about) @ axes[:, 1, 0, :, None])[..., 0]
    torch.testing.assert_close(pair_attributes("R3xS2", turned), pair_attributes("R3xS2", raw))
    assert float(apart("R3xS2", raw, turned, mirror=True).min()) > 1e-3


@pytest.mark.parametrize("space", NUMBERS)
def test_partners_of_complete_attributes_are_joined(space):
    raw = raw_pairs(space)
    found = partner(lambda one: pair_attributes(space, one), raw, stream(0, "x"))
    assert not found.isnan().any()
    joined = (apart(space, raw, found, mirror=space == "R3xS2+") < 1e-6).double().mean()
    assert float(joined) == (0 if space == "R3xS2" else 1)


def test_a_mirror_image_is_joined_only_if_it_may_be():
    raw = raw_pairs("R3xS2")
    mirrored = raw * torch.tensor([1.0, 1, -1, 1, 1, -1], dtype=torch.float64)
    assert float(apart("R3xS2", raw, mirrored, mirror=True).max()) < 1e-12
    assert float(apart("R3xS2", raw, mirrored).min()) > 1e-4


def test_frames_of_rigid_motions_are_rotations():
    axes = pair("SE3", raw_pairs("SE3"))[1]
    torch.testing.assert_close(axes @ axes.mT, torch.eye(3).double().expand_as(axes))
    torch.testing.assert_close(torch.linalg.det(axes), torch.ones(20, 2).double())


def test_the_length_of_nothing_has_a_gradient():
    r = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    place("R3xS2", r, torch.tensor([[0.0, 0, 1]], dtype=torch.float64)).sum().backward()
    assert r.grad is not None
    assert bool(r.grad.isfinite().all())


# --- grids ------------------------------------------------------------------------------------------------


def test_the_icosahedron_is_mapped_onto_itself_by_sixty_rotations():
    corners, sixty = icosahedron(), icosahedral()
    assert (corners.shape, sixty.shape) == ((12, 3), (60, 3, 3))
    moved = corners @ sixty.mT
    assert float((moved[:, :, None] - corners).norm(dim=-1).amin(-1).max()) < 1e-12
    assert float((corners @ TURN.T)[:, None].sub(corners).norm(dim=-1).amin(1).max()) > 0.1


@pytest.mark.parametrize("n", [4, 7, 16])
def test_directions_that_repel_each_other_are_further_apart_than_drawn_ones(n):
    def nearest(steps):
        o = repelled(n, stream(1, "x"), steps)
        torch.testing.assert_close(o.norm(dim=1), torch.ones(n).double())
        return float((o @ o.T - 2 * torch.eye(n)).amax(1).arccos().min())

    assert nearest(100) > 1.3 * nearest(0)
    assert torch.equal(repelled(n, stream(1, "x")), repelled(n, stream(1, "x")))


@pytest.mark.parametrize("k", [1, 3])
def test_frames_turn_about_their_direction(k):
    o = repelled(5, stream(0, "x"))
    r = frames(o, k)
    assert r.shape == (5 * k, 3, 3)
    torch.testing.assert_close(r @ r.mT, torch.eye(3).double().expand_as(r))
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(5 * k).double())
    torch.testing.assert_close(r[..., 2], o.repeat(k, 1))


# --- layers -----------------------------------------------------------------------------------------------


def sines(*shape, by):
    return torch.sin(by * torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)).view(shape)


def test_the_layer_is_the_authors():
    """Numbers that their convolution and attributes gave with these weights, four points, five directions."""
    pos, grid, x = sines(4, 3, by=0.7), normalize(sines(5, 3, by=1.3), dim=-1), sines(1, 4, 5, 3, by=0.9)

    def basis(seen, by):
        seen = PolyFeatures(3)(seen)
        hidden = gelu(seen @ sines(6, seen.shape[-1], by=by).T / 3 + sines(6, by=by))
        return gelu(hidden @ sines(4, 6, by=by + 0.1).T / 3 + sines(4, by=by + 0.1))

    edges = basis(place("R3xS2", (pos - pos[:, None])[:, :, None], grid), 0.8)[None]
    turns = basis(turn("R3xS2", grid[:, None], grid), 1.1)
    conv = BundleConv(3, 4, fibre=True).double()
    conv.kernel.weight.data, conv.fibre_kernel.weight.data = sines(3, 4, by=0.5), sines(3, 4, by=0.6)
    conv.bias.data = sines(3, by=0.4)
    found = conv(x, edges, turns).detach()[0]
    theirs = torch.tensor([27.129189362972, 11.700615800803, 11.795767096565, 27.159888382845]).double()
    torch.testing.assert_close(found.sum((1, 2)), theirs, rtol=0, atol=1e-6)
    theirs = torch.tensor([0.824921029286, 0.711003309309, 0.839768210724]).double()
    torch.testing.assert_close(found[1, 2], theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("fibre", [False, True])
def test_the_layer_is_its_formula(fibre, jolted):
    n, o, c, d = 3, 4, 2, 5
    conv = jolted(BundleConv, c, d, fibre=fibre)
    x, edges, turns = normal(2, n, o, c), normal(2, n, n, o, d, seed=1), normal(o, o, d, seed=2)
    found, wanted = conv(x, edges, turns if fibre else None), torch.zeros(2, n, o, c).double()
    for b in range(2):
        for i in range(n):
            spread = sum(conv.kernel(edges[b, i, j]) * x[b, j] for j in range(n))
            for p in range(o):
                mixed = (
                    sum(conv.fibre_kernel(turns[q, p]) * spread[q] for q in range(o)) / o
                    if fibre
                    else spread[p]
                )
                wanted[b, i, p] = mixed + conv.bias
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_polynomials_keep_repeated_products():
    x = torch.tensor([2.0, 3.0])
    assert PolyFeatures(2)(x).tolist() == [2, 3, 4, 6, 6, 9]
    assert PolyFeatures(3)(torch.zeros(5, 2)).shape == (5, 14)


def test_the_window_is_smooth_at_its_end():
    d = torch.tensor([0.0, 1.0, 1.5, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    seen = window(d, 2.0)
    assert seen.tolist() == pytest.approx([1, seen[1].item(), seen[2].item(), 0, 0])
    assert 1 > seen[1] > seen[2] > 0
    (slope,) = torch.autograd.grad(seen.sum(), d)
    assert float(slope[[0, 3, 4]].abs().max()) < 1e-12


def test_calibration_keeps_the_spread_of_features():
    with seeded(0):
        net = Ponita("R3xS2", 2, 8, 1, 1, 2, repelled(6, stream(0, "x")))
    seen = []
    calibrate(net, *cloud(torch.float32))
    for block in net.blocks:
        block.conv.register_forward_hook(
            lambda conv, given, out: seen.append(float((out.std() / given[0].std()).detach()))
        )
    net(*cloud(torch.float32))
    assert seen == pytest.approx([1, 1], abs=1e-4)


def test_a_block_adds_to_what_it_is_given():
    block = PonitaBlock(3, 4, fibre=False, layer_scale=0.0)
    x = torch.randn(1, 2, 1, 3)
    assert torch.equal(block(x, torch.randn(1, 2, 2, 1, 4), None), x)


# --- the network ------------------------------------------------------------------------------------------


def cloud(dtype=torch.float64, n=2):
    """Positions, charges, velocities."""
    return (
        normal(n, 4, 3, dtype=dtype),
        normal(n, 4, 1, seed=1, dtype=dtype),
        normal(n, 4, 1, 3, seed=2, dtype=dtype),
    )


def on(grid, jolted, *sizes, **how):
    """A jolted network whose grid was left alone."""
    net = jolted(Ponita, *sizes, grid.clone(), **how)
    net.grid.data.copy_(grid)
    return net


@torch.no_grad()
def off(net, move):
    """How far scalars and vectors are from turning with their cloud."""
    (pos, x, vec), (s, v) = cloud(), net(*cloud())
    moved_s, moved_v = net(pos @ move.T + SHIFT, x, vec @ move.T)
    return float((moved_s - s).abs().max()), float((moved_v - v @ move.T).abs().max())


def test_equivariant_on_the_grids_own_rotations_and_off_them_only_nearly(jolted):
    net = on(icosahedron(), jolted, "R3xS2", 2, 4, 1, 1, 2)
    assert max(off(net, icosahedral()[7])) < 1e-10
    assert min(off(net, TURN)) > 1e-5
    with seeded(0):
        drawn = Ponita("R3xS2", 2, 4, 1, 1, 2, repelled(12, stream(0, "x"))).double()
    assert min(off(drawn, icosahedral()[7])) > 1e-5


def test_a_finer_grid_is_more_equivariant(jolted):
    def coarse_or_fine(n, k=0):
        grid = repelled(n, stream(0, "x"))
        space, grid = ("SE3", frames(grid, k)) if k else ("R3xS2", grid)
        return max(off(on(grid, jolted, space, 2, 4, 1, 1, 1, by=0.1), TURN))

    assert coarse_or_fine(64) < 0.5 * coarse_or_fine(6)
    assert coarse_or_fine(32, 4) < 0.5 * coarse_or_fine(6, 1)


def test_distances_and_own_orientations_are_exact(jolted):
    pos, x, ori = normal(2, 5, 3), torch.ones(2, 5, 1).double(), normalize(normal(2, 5, 3, seed=3), dim=-1)
    for space in ("R3", "R3xS2", "R3xS2+"):
        net = jolted(Ponita, space, 1, 4, 2, 1, 2)
        (s, v), (moved_s, moved_v) = net(pos, x, ori=ori), net(pos @ TURN.T + SHIFT, x, ori=ori @ TURN.T)
        torch.testing.assert_close(moved_s, s, rtol=0, atol=1e-9)
        torch.testing.assert_close(moved_v, v @ TURN.T, rtol=0, atol=1e-9)


def star(angle):
    sides = [[0.0, 0, 0], [1, 0, 0], [math.cos(angle), math.sin(angle), 0]]
    return torch.tensor([sides], dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize(("radius", "sees"), [(1.2, False), (3.0, True)])
def test_distances_do_not_see_an_angle_within_one_hop(jolted, radius, sees):
    net, ones = jolted(Ponita, "R3", 1, 6, 1, 0, 3, radius=radius), torch.ones(1, 3, 1).double()
    one, other = (net(star(angle), ones)[0][0, 0, 0] for angle in (1.6, 2.8))
    assert (abs(float(one - other)) > 1e-6) == sees


@torch.no_grad()
def test_directions_see_an_angle_within_one_hop(jolted):
    net = on(icosahedron(), jolted, "R3xS2", 1, 6, 1, 0, 1, radius=1.2)
    one, other = (net(star(angle), torch.ones(1, 3, 1).double())[0][0, 0, 0] for angle in (1.6, 2.8))
    assert abs(float(one - other)) > 1e-6


def test_gradients_are_right(jolted):
    net = jolted(Ponita, "R3xS2", 2, 2, 1, 1, 1, repelled(4, stream(0, "x")), degree=2, radius=4.0)
    pos, x, vec = (part[:1, :2] for part in cloud())
    assert torch.autograd.gradcheck(lambda p, v: net(p, x, v), (pos.requires_grad_(), vec.requires_grad_()))


@pytest.mark.parametrize("n", [16, 5])
def test_the_size_is_the_codes_and_no_matter_of_the_grid(n):
    with torch.device("meta"):
        net = Ponita("R3xS2", 2, 128, 0, 1, 5, torch.zeros(n, 3), basis=256, layer_scale=1e-6)
    assert cost.parameters(net) == 1_058_181


# --- mutations --------------------------------------------------------------------------------------------


def north(space, r, o):
    """Every receiver looks along the z axis, whatever its orientation."""
    axis = torch.zeros_like(o)
    axis[..., 2] = 1
    return place(space, r, axis)


def cosine(space, o_i, o_j):
    """The angle between orientations in the plane loses its sign."""
    return turn(space, o_i, o_j).abs() if space == "R2xS1" else turn(space, o_i, o_j)


def blind(space, r, o):
    """What lies ahead and what aside are told by their distance alone."""
    seen = place(space, r, o)
    if space != "R3xS2":
        return seen
    return torch.cat([0 * seen[..., :1], seen.norm(dim=-1, keepdim=True)], -1)


MUTATIONS = [("place", north), ("turn", cosine), ("place", blind)]


def test_mutations_take_away_what_they_say():
    o, r = icosahedron(), normal(3, 1, 3)
    assert torch.equal(north("R3xS2", r, o)[:, 0], north("R3xS2", r, o)[:, 5])
    assert float((blind("R3xS2", r, o) - blind("R3xS2", r @ TURN.T, o)).abs().max()) < 1e-9
    a, b = normalize(normal(2, 3, 2), dim=-1)
    torch.testing.assert_close(cosine("R2xS1", a, b), cosine("R2xS1", b, a))
    assert float((turn("R2xS1", a, b) - turn("R2xS1", b, a)).abs().max()) > 0.1


# --- bad input --------------------------------------------------------------------------------------------

R = torch.zeros(1, 3)
REFUSED = [
    (lambda: attributes("R4", R), "space must be one of .*, got 'R4'"),
    (lambda: attributes("SE3", R), "space = 'SE3' needs orientations o_i and o_j, got None"),
    (lambda: repelled(3, stream(0, "x")), "n must be >= 4, got 3"),
    (lambda: repelled(4, stream(0, "x"), -1), "steps must be >= 0, got -1"),
    (lambda: frames(icosahedron(), 0), "k must be >= 1, got 0"),
    (lambda: PolyFeatures(5), r"degree must be in 1\.\.4, got 5"),
    (lambda: Ponita("R2", 1, 4, 1, 0, 1), "space must be one of .*, got 'R2'"),
    (lambda: Ponita("R3", 0, 4, 1, 0, 1), "inputs must be >= 1, got 0"),
    (lambda: Ponita("R3", 1, 4, 0, 0, 1), "outputs must be >= 1, got 0"),
    (lambda: Ponita("R3", 1, 4, 1, 0, 1, radius=0.0), "radius must be finite and > 0, got 0.0"),
    (lambda: Ponita("SE3", 1, 4, 1, 0, 1), "grid must have elements of SE3, got elements of shape None"),
    (
        lambda: Ponita("R3xS2", 1, 4, 1, 0, 1, torch.zeros(4, 3, 3)),
        r"grid must have elements of R3xS2, got elements of shape \(3, 3\)",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refused_with_name_value_and_range(call, message):
    with pytest.raises(ValueError, match=message):
        call()
