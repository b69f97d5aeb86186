"""muP for DiT: the paper's table of kinds, torch's AdamW for the ensemble, closed forms for what is fixed."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from fourfold import cost
from fourfold.efficiency import mup_dit
from fourfold.efficiency.mup_dit import (
    DIVERGED,
    MUP,
    STANDARD,
    Batch,
    Block,
    Budget,
    DiT,
    MuReadout,
    Rules,
    coord_check,
    coord_slopes,
    ddpm_levels,
    dit_param_count,
    gaussian_loss,
    grid_positions,
    initialize_as_published,
    modulate,
    mup_param_groups,
    noised,
    picked_rate,
    pixart_macs,
    pixart_param_count,
    rate_factor,
    regret,
    speed_up,
    steps_to,
    sweep,
    tensor_kind,
    time_code,
    train_ensemble,
    training_batches,
    transfer_cost,
)
from fourfold.judging import parameters, records
from fourfold.training import seeded, stream

SMALL = {"head_dim": 4, "depth": 1, "size": 4, "patch": 2, "channels": 1, "classes": 3, "base_width": 8}


def small(width: int = 8, seed: int = 0, **how) -> DiT:
    with seeded(seed):
        return DiT(width, **{**SMALL, **how})


@pytest.fixture(scope="module")
def batches() -> Batch:
    images = torch.rand(12, 1, 4, 4, generator=stream(0, "images")) * 2 - 1
    return training_batches(images, torch.arange(12) % 3, 20, 6, 3, stream(0, "batches"))


def one(batches: Batch, step: int = 0) -> Batch:
    return Batch(*(part[step] for part in batches))


# --- oracles ----------------------------------------------------------------------------------------------

KINDS = {
    "embed.weight": "input", "time1.weight": "input", "labels.weight": "input", "time2.weight": "hidden",
    "blocks.0.attention.qkv.weight": "hidden", "blocks.0.attention.proj.weight": "hidden",
    "blocks.0.fc1.weight": "hidden", "blocks.0.fc2.weight": "hidden", "blocks.0.adaln.weight": "hidden",
    "adaln.weight": "hidden", "readout.weight": "output",
}  # fmt: skip
"""The paper's closed table; all biases are input."""


@pytest.mark.parametrize("width", [4, 8, 32])
def test_kinds_are_those_of_the_papers_table(width):
    kinds = small(width).kinds()
    assert {name: kind for name, kind in kinds.items() if name.endswith(".weight")} == KINDS
    assert {kind for name, kind in kinds.items() if name.endswith(".bias")} == {"input"}


def test_hidden_tensors_alone_get_the_divided_rate():
    net = small(32)
    groups = {group["lr"]: group["params"] for group in mup_param_groups(net, 0.1)}
    hidden = [value for name, value in net.named_parameters() if KINDS.get(name) == "hidden"]
    assert set(groups) == {0.1, 0.1 / 4}
    assert {id(value) for value in groups[0.1 / 4]} == {id(value) for value in hidden}
    assert [
        set(small(32, rules=rules).rate_factors().values()) for rules in (STANDARD, Rules(False, True))
    ] == [
        {1.0},
        {1.0},
    ]


def test_an_ensemble_is_torchs_adamw_one_network_at_a_time(batches):
    how = [(1e-3, MUP), (1e-2, MUP), (3e-2, MUP), (1e-2, STANDARD), (1e-2, Rules(True, False))]
    # In double precision: the gradient of a key's bias is rounding alone, which Adam would blow up.
    batches = Batch(*(part.double() if part.is_floating_point() else part for part in batches))
    nets = [small(16, seed=i, rules=rules).double() for i, (_, rules) in enumerate(how)]
    run = train_ensemble(nets, [lr for lr, _ in how], batches, one(batches), 10)
    assert run.steps == [10, 20]
    for index, (lr, rules) in enumerate(how):
        net = small(16, seed=index, rules=rules).double()
        optimizer = torch.optim.AdamW(mup_param_groups(net, lr), weight_decay=0)
        average = torch.optim.swa_utils.AveragedModel(
            net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
        )
        average.update_parameters(net)
        for step in range(20):
            part = one(batches, step)
            optimizer.zero_grad()
            (net(part.noisy, part.t, part.labels) - part.noise).square().mean().backward()
            optimizer.step()
            average.update_parameters(net)
        for name, value in net.named_parameters():
            torch.testing.assert_close(run.weights[name][index], value.detach(), rtol=0, atol=1e-5)
        part = one(batches)
        loss = (average(part.noisy, part.t, part.labels) - part.noise).square().mean().detach()
        assert float(run.final[index]) == pytest.approx(float(loss), abs=1e-5)


def test_times_and_positions_are_the_closed_forms():
    t = torch.tensor([0, 1, 999])
    angles = np.array([0, 1, 999])[:, None] * 10000.0 ** (-np.arange(128) / 128)
    expected = np.concatenate([np.cos(angles), np.sin(angles)], 1)
    np.testing.assert_allclose(time_code(t).numpy(), expected, atol=1e-4)
    found = grid_positions(16, 3).numpy()
    for row in range(3):
        for column in range(3):
            angle = [place * 10000.0 ** (-np.arange(4) / 4) for place in (column, row)]
            rows = [f(part) for part in angle for f in (np.sin, np.cos)]
            np.testing.assert_allclose(found[3 * row + column], np.concatenate(rows), atol=1e-6)


def test_noise_levels_are_ddpms():
    signal, level = ddpm_levels()
    betas = [1e-4 + (0.02 - 1e-4) * step / 999 for step in range(1000)]
    kept = np.cumprod([1 - beta for beta in betas])
    np.testing.assert_allclose(signal.numpy(), np.sqrt(kept), rtol=1e-5)
    np.testing.assert_allclose(level.numpy(), np.sqrt(1 - kept), rtol=1e-5)
    images, labels = torch.ones(5, 1, 2, 2), torch.zeros(5, dtype=torch.int64)
    found = noised(images, labels, stream(0, "noise"))
    again = signal[found.t].view(-1, 1, 1, 1) + level[found.t].view(-1, 1, 1, 1) * found.noise
    torch.testing.assert_close(found.noisy, again)


def test_a_block_is_its_formula_with_torchs_attention():
    with seeded(0):
        block = Block(8, 4).double()
    x, c = torch.randn(2, 5, 8).double(), torch.randn(2, 8).double()
    s1, b1, g1, s2, b2, g2 = (part[:, None] for part in block.adaln(nn.functional.silu(c)).chunk(6, -1))
    norm = nn.LayerNorm(8, eps=1e-6, elementwise_affine=False)
    q, k, v = (
        part.unflatten(-1, (2, 4)).transpose(1, 2)
        for part in block.attention.qkv(norm(x) * (1 + b1) + s1).chunk(3, -1)
    )
    mixed = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
    y = x + g1 * block.attention.proj(mixed)
    y = y + g2 * block.fc2(nn.GELU(approximate="tanh")(block.fc1(norm(y) * (1 + b2) + s2)))
    torch.testing.assert_close(block(x, c), y, rtol=0, atol=1e-12)
    torch.testing.assert_close(modulate(x, s1[:, 0], b1[:, 0]), norm(x) * (1 + b1) + s1, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("heads", "millions"), [(2, 10.76), (4, 42.55), (8, 169.21), (16, 674.83)])
def test_sizes_of_dit_are_the_published_ones(heads, millions):
    with torch.device("meta"):
        net = DiT(
            72 * heads,
            head_dim=72,
            depth=28,
            size=32,
            patch=2,
            channels=4,
            classes=1000,
            base_width=288,
            out_channels=8,
        )
    count = dit_param_count(72 * heads, 28, patch=2, channels=4, outputs=8, classes=1000)
    assert cost.parameters(net) == count
    assert round(count / 1e6, 2) == millions


class PixArt(nn.Module):
    """The layers of PixArt-alpha in the order in which its authors apply them, for counting only."""

    def __init__(self, d: int):
        super().__init__()
        sizes = {
            "q": (d, 3 * d),
            "o": (d, d),
            "xq": (d, d),
            "xkv": (d, 2 * d),
            "xo": (d, d),
            "up": (d, 4 * d),
            "down": (4 * d, d),
        }
        self.blocks = nn.ModuleList(
            nn.ModuleDict({n: nn.Linear(*s) for n, s in sizes.items()}) for _ in range(28)
        )
        self.tables = nn.ParameterList(torch.empty(6, d) for _ in range(28))
        self.patch, self.t1, self.t2, self.t6 = (
            nn.Linear(16, d),
            nn.Linear(256, d),
            nn.Linear(d, d),
            nn.Linear(d, 6 * d),
        )
        self.y1, self.y2, self.out, self.last = (
            nn.Linear(4096, d),
            nn.Linear(d, d),
            nn.Linear(d, 32),
            nn.Parameter(torch.empty(2, d)),
        )

    def forward(self, patches, time, text):
        x, text, _ = self.patch(patches), self.y2(self.y1(text)), self.t6(self.t2(self.t1(time)))
        for block in self.blocks:
            q, k, v = block["q"](x).chunk(3, -1)
            x = block["o"]((q @ k.mT) @ v)
            k, v = block["xkv"](text).chunk(2, -1)
            x = block["down"](block["up"](block["xo"]((block["xq"](x) @ k.mT) @ v)))
        return self.out(x)


@pytest.mark.parametrize(("width", "billions"), [(288, 0.04), (1152, 0.61)])
def test_sizes_of_pixart_are_the_published_ones_and_its_operations_are_torchs(width, billions):
    with torch.device("meta"):
        net = PixArt(width)
    assert cost.parameters(net) == pixart_param_count(width)
    assert round(pixart_param_count(width) / 1e9, 2) == billions
    assert cost.macs(net, (1, 256, 16), (1, 256), (1, 120, 4096)) == pixart_macs(width)


# --- identities -------------------------------------------------------------------------------------------


def test_at_the_base_width_the_rules_change_no_bit_and_above_it_they_do(batches):
    def final(width):
        nets = [small(width, rules=rules) for rules in (MUP, STANDARD)]
        return train_ensemble(nets, [1e-2, 1e-2], batches, one(batches), 20).final

    assert final(8)[0] == final(8)[1]
    assert final(16)[0] != final(16)[1]


def test_dividing_all_rates_is_mup_but_for_the_rates_of_input_tensors(batches, monkeypatch):
    """What the lazy rival lacks: Adam makes a readout with a divided input learn at a divided rate."""
    monkeypatch.setattr(mup_dit, "EPS", 1e-30)
    lazy = train_ensemble([small(32, rules=STANDARD)], [1e-2 / 4], batches, one(batches), 20)
    whole = train_ensemble([small(32)], [1e-2], batches, one(batches), 20)
    monkeypatch.setattr(
        DiT, "rate_factors", lambda net: {n: 1.0 if n == "readout.weight" else 1 / 4 for n in net.kinds()}
    )
    slowed = train_ensemble([small(32)], [1e-2], batches, one(batches), 20)
    assert float(slowed.final[0]) == pytest.approx(float(lazy.final[0]), abs=1e-3)
    assert abs(float(whole.final[0] - lazy.final[0])) > 1e-2


def test_members_do_not_depend_on_their_company(batches):
    alone = train_ensemble([small(16)], [1e-2], batches, one(batches), 20)
    beside = train_ensemble([small(16), small(16, seed=1)], [1e-2, 1.0], batches, one(batches), 20)
    assert float(alone.final[0]) == pytest.approx(float(beside.final[0]), abs=1e-5)


def test_training_twice_is_the_same_and_divergence_counts_as_a_number(batches):
    first, again = (train_ensemble([small(16)] * 2, [1e-2, 1e30], batches, one(batches), 7) for _ in range(2))
    assert torch.equal(first.validation, again.validation)
    assert first.steps == [7, 14, 20]
    assert float(first.final[1]) == DIVERGED
    assert float(first.final[0]) < 1


def test_initial_weights_have_variance_one_over_fan_in_or_are_the_published_ones():
    net = small(64, classes=99)
    assert float(net.blocks[0].fc2.weight.detach().std()) == pytest.approx(1 / 16, rel=0.05)
    assert float(net.labels.weight.detach().std()) == pytest.approx(1, rel=0.05)
    assert float(net.blocks[0].adaln.weight.detach().std()) == pytest.approx(1 / 8, rel=0.05)
    assert not net.readout.weight.any()
    assert not net.adaln.bias.any()
    with seeded(0):
        initialize_as_published(net)
    assert not net.blocks[0].adaln.weight.any()
    assert not net.adaln.weight.any()
    assert float(net.labels.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert float(net.blocks[0].fc2.weight.detach().std()) == pytest.approx(math.sqrt(2 / 320), rel=0.05)


def test_the_readout_divides_its_input_and_not_its_bias():
    layer = MuReadout(4, 2, 0.25)
    with torch.no_grad():
        layer.weight.fill_(1)
        layer.bias.fill_(3)
    assert layer(torch.ones(1, 4)).tolist() == [[4, 4]]
    assert [float(small(32, rules=rules).readout.scale) for rules in (MUP, STANDARD)] == [0.25, 1]


def test_images_come_back_in_their_places(jolted):
    net = jolted(small(8, size=6, channels=2))
    x, t, y = torch.randn(3, 2, 6, 6), torch.tensor([0, 5, 999]), torch.tensor([0, 1, 3])
    assert net(x, t, y).shape == x.shape
    # A bias in the readout that marks channel and place within a patch shows where each ends up.
    with torch.no_grad():
        net.readout.weight.zero_()
        net.readout.bias.copy_(torch.arange(8.0))
    marked = net(x, t, y)[0]
    assert marked[:, :2, :2].flatten(1).tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert torch.equal(marked[:, 2:4, 4:6], marked[:, :2, :2])


def test_gradients_are_the_numerical_ones(jolted):
    net = jolted(small(4)).double()
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    t, y = torch.tensor([3, 700]), torch.tensor([0, 3])
    assert torch.autograd.gradcheck(lambda x: net(x, t, y), (x,))


def test_labels_are_dropped_a_tenth_of_the_time():
    images, labels = torch.zeros(10, 1, 2, 2), torch.arange(10)
    found = training_batches(images, labels, 100, 50, 10, stream(0, "drop")).labels
    assert 0.08 < float((found == 10).double().mean()) < 0.12
    assert set(found.unique().tolist()) == set(range(11))


@pytest.mark.parametrize(
    ("shape", "wider", "kind"),
    [
        ((6, 4), (12, 8), "hidden"),
        ((6, 4), (12, 4), "input"),
        ((6, 4), (6, 8), "output"),
        ((4,), (8,), "input"),
        ((3,), (3,), "input"),
    ],
)
def test_a_kind_counts_the_axes_that_grow(shape, wider, kind):
    assert tensor_kind(shape, wider) == kind
    assert tensor_kind((6, 4), (6, 8), table=True) == "input"


def test_a_picked_rate_is_the_smallest_that_is_nearly_best():
    losses = {-7: 0.3, -6: 0.2039, -5: 0.2, -4: 0.21}
    assert picked_rate(losses) == -6
    assert picked_rate(losses, 0.01) == -5
    assert regret(losses, -4) == pytest.approx(0.05)
    assert regret(losses, -5) == 0


def test_a_curve_reaches_a_level_between_its_points():
    assert steps_to(0.5, [10, 20, 30], [1, 0.6, 0.4]) == pytest.approx(25)
    assert steps_to(1, [10, 20], [0.9, 0.8]) == 10
    assert steps_to(0.1, [10, 20], [0.9, 0.8]) == math.inf
    assert speed_up([10, 20], [0.5, 0.3], [0.9, 0.5]) == pytest.approx(2)
    assert speed_up([10, 20], [0.9, 0.5], [0.5, 0.3]) == pytest.approx(0.5)
    assert speed_up([10, 20], [0.9, 0.5], [0.9, 0.5]) == 1


def test_the_lazy_line_is_the_conditional_mean_of_a_normal_distribution():
    images = (
        torch.randn(4000, 1, 2, 2, generator=stream(0, "normal")) * torch.tensor([0.5, 1, 2, 3]).view(2, 2)
        + 1
    )
    batch = noised(images, torch.zeros(4000, dtype=torch.int64), stream(0, "noise"))
    signal, level = (values[batch.t].double()[:, None] for values in ddpm_levels())
    power = signal**2 * torch.tensor([0.25, 1, 4, 9]).double()
    whole = gaussian_loss(images, batch)
    assert gaussian_loss(images, batch, "each pixel") == pytest.approx(whole, rel=0.01)
    square = images.double().square().mean()
    factor = (level / (signal**2 * square + level**2)).view(-1, 1, 1, 1)
    scaled = float((factor * batch.noisy - batch.noise).square().mean())
    assert gaussian_loss(images, batch, "one scale") == pytest.approx(scaled, rel=1e-5)
    assert scaled > 1.05 * whole
    assert gaussian_loss(images, batch) == pytest.approx(float((power / (power + level**2)).mean()), rel=0.03)


def test_a_sweep_sorts_its_curves_by_recipe_and_rate(batches):
    nets = {"mup": small(16), "sp": small(16, rules=STANDARD)}
    steps, curves = sweep(nets, {"mup": [-7, -6], "sp": [-6]}, batches, one(batches), 10)
    alone = train_ensemble([nets["mup"]], [2**-6], batches, one(batches), 10)
    assert steps == [10, 20]
    assert {recipe: list(found) for recipe, found in curves.items()} == {"mup": [-7, -6], "sp": [-6]}
    assert curves["mup"][-6] == pytest.approx(alone.validation[0].tolist(), abs=1e-5)


def slopes(rules, divided=False, measure="change"):
    images = torch.rand(8, 1, 4, 4, generator=stream(0, "images")) * 2 - 1
    batch = noised(images, torch.arange(8) % 3, stream(0, "noise"))
    found = []
    for width in (32, 64, 128):
        net = small(width, base_width=32, rules=rules)
        found += coord_check([net], batch, 2**-7 / (width / 32 if divided else 1), 4)
    return coord_slopes(found, 4, measure)


def test_a_coordinate_check_sees_the_initial_weights_first_and_measures_from_them(batches):
    part = one(batches)
    rows = list(coord_check([small(16)], part, 1e-2, 3))
    assert {row.step for row in rows} == {1, 2, 3}
    assert {row.change for row in rows if row.step == 1} == {0}
    patches = (
        part.noisy.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).permute(0, 2, 3, 1, 4).flatten(1, 2).flatten(2)
    )
    expected = float(small(16).embed(patches).detach().abs().mean())
    assert next(row.size for row in rows if row.module == "embed") == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("rules", [MUP, STANDARD, Rules(True, False)])
def test_the_readout_starts_at_zero_so_that_its_size_is_its_change(batches, rules):
    rows = list(coord_check([small(32, rules=rules)], one(batches), 1e-2, 4))
    readout = [row for row in rows if row.module == "readout"]
    assert [row.size for row in readout] == [row.change for row in readout]
    assert readout[0].size == 0 < readout[-1].size
    # Of no other layer: the initial weights have a size.
    assert {row.module for row in rows if row.size == row.change > 0} == {"readout"}


def test_without_its_multiplier_the_readout_is_the_steepest_layer_and_its_change_grows_with_the_width():
    found = {measure: slopes(Rules(True, False), measure=measure) for measure in ("size", "change")}
    for layers in found.values():
        assert max(layers, key=lambda module: abs(layers[module])) == "readout"
    assert found["size"]["readout"] == found["change"]["readout"] > 0.4


def test_the_coordinate_check_tells_mup_from_what_is_not():
    assert max(abs(slope) for slope in slopes(MUP).values()) < 0.35
    assert max(slopes(STANDARD).values()) > 0.5
    assert min(slopes(STANDARD, divided=True).values()) < -0.8
    # The size, at which the usual check looks, hardly sees the divided rates.
    assert max(abs(slope) for slope in slopes(STANDARD, divided=True, measure="size").values()) < 0.4


def test_transfer_costs_what_its_factors_say():
    assert transfer_cost(5, Budget(0.04, 176, 5), Budget(0.61, 176, 30)) == pytest.approx(0.0546, abs=5e-5)
    assert transfer_cost(1, Budget(2, 3, 5), Budget(2, 3, 5)) == 1
    assert transfer_cost(2, Budget(1, 1, 1), Budget(2, 4, 8)) == pytest.approx(1 / 32)


# --- mutations --------------------------------------------------------------------------------------------


def hidden_at_full_rate(kind, multiplier, rules=MUP):
    """Hidden tensors keep the base learning rate at every width."""
    return 1.0


def undivided_readout(inputs, outputs, scale):
    """The readout's input is not divided by the width's multiple."""
    return MuReadout(inputs, outputs, 1.0)


def one_length(trials, proxy, target):
    """Trials are as long as the run that they tune."""
    return trials * (proxy.cost / target.cost) * (proxy.batch / target.batch)


MUTATIONS = [
    ("rate_factor", hidden_at_full_rate),
    ("MuReadout", undivided_readout),
    ("transfer_cost", one_length),
]


@pytest.mark.parametrize(("target", "mutation"), MUTATIONS[:2])
def test_what_is_mutated_still_trains_and_is_another_network(monkeypatch, batches, target, mutation):
    def trained():
        return train_ensemble([small(32)], [1e-2], batches, one(batches), 20).final

    before = trained()
    monkeypatch.setattr(mup_dit, target, mutation)
    after = trained()
    assert after.isfinite().all()
    assert not torch.equal(before, after)


def test_the_mutated_cost_is_another():
    budgets = Budget(0.04, 176, 5), Budget(0.61, 176, 30)
    assert one_length(5, *budgets) > 5 * transfer_cost(5, *budgets)
    assert rate_factor("hidden", 4) == 1 / 4


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"base_width": 20}, "base_width = 20: expected a multiple of head_dim"),
        ({"width": 40}, "width = 40: expected a multiple of base_width"),
        ({"coord_widths": [16, 32]}, "coord_widths"),
        ({"log2_rates": []}, "log2_rates"),
    ],
)
def test_parameters_that_no_run_can_have_are_refused_by_name(given, message):
    record = records.load("mup_dit")
    with pytest.raises(parameters.ParameterError, match=message):
        parameters.validate(record, record.values("quick") | given)


REFUSED = [
    (lambda b: small(10), "head_dim must be >= 1 and divide width = 10, got 4"),
    (lambda b: small(6, head_dim=2), "width must be a multiple of 4, got 6"),
    (lambda b: small(patch=3), "patch must be >= 1 and divide size = 4, got 3"),
    (lambda b: small(depth=0), "depth must be >= 1, got 0"),
    (lambda b: small(output_mult=0), "output_mult must be finite and > 0, got 0"),
    (lambda b: tensor_kind((4,), (8, 8)), r"wider must be a shape of at most 2 axes.*\(4,\), got \(8, 8\)"),
    (lambda b: tensor_kind((4,), (2,)), r"no shorter than \(4,\), got \(2,\)"),
    (lambda b: mup_param_groups(small(), 0), "lr must be finite and > 0, got 0"),
    (
        lambda b: train_ensemble([small()], [0.1, 0.1], b, one(b), 5),
        "rates must be one > 0 for each of 1 networks",
    ),
    (lambda b: train_ensemble([small()], [0.0], b, one(b), 5), r"rates must be one > 0.*got \[0.0\]"),
    (lambda b: train_ensemble([], [], b, one(b), 5), "nets must be >= 1, got 0"),
    (lambda b: train_ensemble([small()], [0.1], b, one(b), 0), "every must be >= 1, got 0"),
    (lambda b: next(coord_check([small()], one(b), 0.1, 1)), "steps must be >= 2, got 1"),
    (lambda b: transfer_cost(0, Budget(1, 1, 1), Budget(1, 1, 1)), "trials must be >= 1, got 0"),
    (
        lambda b: training_batches(torch.zeros(1, 1, 2, 2), torch.zeros(1), 0, 1, 1, stream(0, "x")),
        "steps must be >= 1",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message, batches):
    with pytest.raises(ValueError, match=message):
        call(batches)
