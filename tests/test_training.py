"""Training: an ensemble is its members trained alone, a run repeats bit for bit, and divergence scores 0."""

from dataclasses import replace
from functools import partial
from math import inf, nan

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim.lr_scheduler import OneCycleLR

from fourfold.attention import ViT
from fourfold.training import (
    Recipe,
    Trained,
    accuracy,
    deterministic,
    epochs_to,
    passes,
    regress,
    sampled,
    seeded,
    shuffled,
    stream,
    train,
)

RECIPE = Recipe(epochs=3, batch=16, lr=1e-2, weight_decay=0.1)  # 40 samples: two batches of 16 and one of 8
SEEDS = (5, 0, 7, 11)
PRECISION = {torch.float64: {"rtol": 0, "atol": 1e-10}, torch.float32: {"rtol": 0, "atol": 1e-4}}


def make() -> ViT:
    return ViT(tokens=3, dim=6, depth=2, heads=2, mlp_ratio=1, classes=3)


def problem(n: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of three features is largest on average over the tokens."""
    x = torch.randn(n, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x.to(dtype), x.mean(1)[:, :3].argmax(-1)


def repeated(data: tuple[torch.Tensor, torch.Tensor], members: int) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(part.expand(members, *part.shape) for part in data)


def trained(seeds=SEEDS, recipe: Recipe = RECIPE, dtype: torch.dtype = torch.float64, **kwargs) -> Trained:
    draw = shuffled(*problem(40, 0, dtype))
    test = repeated(problem(30, 1, dtype), len(seeds))
    return train(**{"make": make, "seeds": seeds, "draw": draw, "test": test, "recipe": recipe} | kwargs)


def assert_same(one: Trained, other: Trained, rows=slice(None), **tolerance) -> None:
    """``one`` has the curves and parameters of ``other``'s members ``rows``, bit for bit by default.

    A key's bias moves all scores of a token alike and softmax does not see it: its gradient is rounding,
    which Adam magnifies. A tolerance therefore leaves it out.
    """
    theirs = {name: value[rows] for name, value in other.parameters.items()}
    ours = {name: value for name, value in one.parameters.items() if not tolerance or "key.bias" not in name}
    tolerance = tolerance or {"rtol": 0, "atol": 0}
    torch.testing.assert_close(one.loss, other.loss[rows], **tolerance)
    torch.testing.assert_close(one.accuracy, other.accuracy[rows], **tolerance)
    torch.testing.assert_close(ours, {name: theirs[name] for name in ours}, **tolerance)
    assert one.parameters.keys() == theirs.keys()


# --- an ensemble and its members --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", PRECISION)
def test_an_ensemble_is_each_member_trained_alone(dtype):
    together = trained(dtype=dtype)
    assert together.loss.shape == (4, 9)
    assert together.accuracy.shape == (4, 3)
    assert together.loss.dtype == dtype == next(iter(together.parameters.values())).dtype
    assert together.seeds == SEEDS
    for index, seed in enumerate(SEEDS):
        assert_same(trained((seed,), dtype=dtype), together, slice(index, index + 1), **PRECISION[dtype])


class Noisy(torch.nn.Linear):
    """A model with a generator of its own, which ``vmap`` cannot map."""

    def __init__(self):
        super().__init__(6, 3)
        self.generator = torch.Generator().manual_seed(torch.initial_seed())

    def forward(self, x):
        return super().forward(x.mean(1)) + torch.randn((), generator=self.generator, dtype=x.dtype)


def test_members_may_run_in_turn_each_with_its_own_noise():
    assert_same(trained(together=False), trained(), **PRECISION[torch.float64])
    both = trained(make=Noisy, together=False)
    assert not torch.equal(both.loss[0], both.loss[1])
    assert_same(trained((7,), make=Noisy, together=False), both, slice(2, 3))


@pytest.mark.parametrize(("batch", "epochs"), [(16, 3), (40, 1), (64, 2), (1, 1)])
def test_training_is_the_plain_loop(batch, epochs):
    """AdamW and OneCycleLR on one model, un-mapped and un-fused."""
    recipe = Recipe(epochs, batch, lr=1e-2, weight_decay=0.1)
    ours = trained((7,), recipe)
    with seeded(7):
        model = make().double()
    draw, generator, (x_test, y_test) = shuffled(*problem(40, 0)), stream(7, "train"), problem(30, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    schedule = OneCycleLR(optimizer, 1e-2, total_steps=epochs * -(-40 // batch))
    losses, accuracies = [], []
    for _ in range(epochs):
        x_epoch, y_epoch = draw(generator)
        for x, y in zip(x_epoch.split(batch), y_epoch.split(batch), strict=True):
            loss = cross_entropy(model(x)[0], y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        accuracies.append((model(x_test)[0].argmax(-1) == y_test).double().mean())
    torch.testing.assert_close(ours.loss[0], torch.stack(losses), **PRECISION[torch.float64])
    torch.testing.assert_close(ours.accuracy[0], torch.stack(accuracies), rtol=0, atol=0)
    expected = {name: value.detach() for name, value in model.named_parameters() if "key.bias" not in name}
    got = {name: ours.parameters[name][0] for name in expected}
    torch.testing.assert_close(got, expected, **PRECISION[torch.float64])


def test_a_member_is_a_model_of_its_own_with_the_recorded_accuracy():
    result, (x, y) = trained(recipe=Recipe(8, 16, lr=1e-2)), problem(30, 1)
    members = [result.member(index) for index in range(4)]
    for index, member in enumerate(members):
        assert accuracy(member(x)[0], y) == result.accuracy[index, -1]
    assert result.accuracy[:, -1].min() > 0.5  # it learned something: chance is 1/3
    with torch.no_grad():
        members[0].head.weight.fill_(nan)
    assert torch.equal(result.member(0).head.weight, result.parameters["head.weight"][0])
    assert not any(value.requires_grad for value in result.parameters.values())
    assert all(parameter.requires_grad for parameter in members[1].parameters())


@pytest.mark.parametrize("chunk", [1, 7, 30])
def test_the_test_set_may_be_read_in_chunks(chunk, monkeypatch):
    once = trained()
    monkeypatch.setattr("fourfold.training.TEST_BATCH", chunk)
    assert_same(trained(), once)


def test_a_model_may_return_logits_alone_and_test_sets_may_differ():
    def logits_alone():
        return torch.nn.Sequential(torch.nn.Flatten(-2), torch.nn.Linear(18, 3))

    tests = [problem(30, seed) for seed in (1, 2)]
    both = tuple(torch.stack(parts) for parts in zip(*tests, strict=True))
    result = trained((0, 1), make=logits_alone, test=both)
    for index, (x, y) in enumerate(tests):
        assert accuracy(result.member(index)(x), y) == result.accuracy[index, -1]


# --- repetition -------------------------------------------------------------------------------------------


def test_same_seed_same_bits_and_different_seeds_differ():
    once = trained()
    assert_same(trained(), once)
    assert_same(trained(SEEDS[::-1]), once, torch.tensor([3, 2, 1, 0]), **PRECISION[torch.float64])
    assert_same(trained((7, 7)), trained((7, 7)), torch.tensor([1, 0]))
    for values in (once.loss[:, -1], once.loss[:, 0]):
        assert values.unique().numel() == 4
    assert trained(recipe=Recipe(3, 16, lr=2e-2)).loss[0, -1] != once.loss[0, -1]


def test_the_global_generator_is_left_as_it_was_and_does_not_matter(capsys):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = trained(label="quiet off a terminal")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert_same(trained(), first)
    with pytest.raises(RuntimeError), seeded(3):
        torch.rand(2) @ torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert capsys.readouterr() == ("", "")


def test_both_precisions_start_from_the_weights_of_the_seed():
    still = Recipe(1, 64, lr=1e-30, weight_decay=0)
    single, double = (trained(recipe=still, dtype=dtype) for dtype in (torch.float32, torch.float64))
    for index, seed in enumerate(SEEDS):
        with seeded(seed):
            fresh = dict(make().named_parameters())
        for name, value in fresh.items():
            for run in (single, double):
                torch.testing.assert_close(
                    run.parameters[name][index].float(), value.detach(), rtol=0, atol=1e-30
                )


def test_sampled_gives_each_member_rows_of_its_own_set():
    sets = {seed: (torch.arange(10) + 10 * seed, -torch.arange(10) - 10 * seed) for seed in (3, 4)}
    draw = sampled(sets, 40)
    for seed in sets:
        inputs, targets = draw(stream(seed, "train"))
        assert torch.equal(targets, -inputs)
        assert set(inputs.tolist()) <= set(range(10 * seed, 10 * seed + 10))
        assert len(inputs) == 40 > len(inputs.unique()) > 5
    with pytest.raises(KeyError):
        draw(stream(5, "train"))


def test_passes_go_through_the_set_as_often_as_rows_ask():
    data = torch.arange(10.0)[:, None], torch.arange(10)
    x, y = passes(*data, 25)(stream(0, "train"))
    assert torch.equal(x[:, 0].long(), y)
    assert sorted(y[:10].tolist()) == sorted(y[10:20].tolist()) == list(range(10))
    assert y[:10].tolist() != y[10:20].tolist()
    assert len(set(y[20:].tolist())) == 5
    assert torch.equal(passes(*data, 10)(stream(0, "train"))[1], shuffled(*data)(stream(0, "train"))[1])


def test_shuffled_visits_every_sample_once_in_a_new_order():
    draw, generator = shuffled(torch.arange(50), torch.arange(50) + 100), torch.Generator().manual_seed(0)
    epochs = [draw(generator) for _ in range(3)]
    for inputs, labels in epochs:
        assert torch.equal(inputs + 100, labels)
        assert torch.equal(inputs.sort().values, torch.arange(50))
    assert not torch.equal(epochs[0][0], epochs[1][0])
    again = draw(torch.Generator().manual_seed(0))
    torch.testing.assert_close(again, epochs[0])


def test_draw_is_asked_once_per_epoch_and_member_and_its_order_is_kept():
    asked = []

    def draw(generator):
        asked.append(generator.initial_seed())
        return problem(8, int(torch.randint(2**30, (1,), generator=generator)))

    fresh = trained((4, 9), Recipe(3, 8), draw=draw)
    streams = [stream(seed, "train").initial_seed() for seed in (4, 9)]
    assert asked == streams * 3
    with seeded(9):
        model = make().double()
    x, y = problem(8, int(torch.randint(2**30, (1,), generator=stream(9, "train"))))
    torch.testing.assert_close(
        fresh.loss[1, 0], cross_entropy(model(x)[0], y).detach(), **PRECISION[torch.float64]
    )


def test_streams_of_other_seeds_or_purposes_differ():
    names = [(seed, purpose) for seed in (0, 1, 256, 10**12) for purpose in ("", "train", "test", "nia")]
    numbers = {name: tuple(torch.rand(4, generator=stream(*name)).tolist()) for name in names}
    assert len(set(numbers.values())) == len(names)
    assert numbers == {name: tuple(torch.rand(4, generator=stream(*name)).tolist()) for name in names}


@pytest.fixture
def restored():
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)
    torch.utils.deterministic.fill_uninitialized_memory = filled


@pytest.mark.usefixtures("restored")
def test_deterministic_sets_the_whole_process():
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True
    free = trained()
    deterministic()
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert_same(trained(), free)  # training needs nothing that determinism forbids
    with pytest.raises(RuntimeError, match="deterministic"):
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))


# --- divergence and scores --------------------------------------------------------------------------------


def test_nan_inputs_score_zero_and_do_not_crash_or_spread():
    diverging = stream(0, "train").initial_seed()

    def draw(generator):
        x, y = shuffled(*problem(40, 0))(generator)
        return (x * nan if generator.initial_seed() == diverging else x), y

    result = trained(draw=draw)
    assert result.accuracy[1].eq(0).all()
    assert result.loss[1].isnan().all()
    healthy = torch.tensor([0, 2, 3])
    assert_same(trained((5, 7, 11)), result, healthy, **PRECISION[torch.float64])
    x, y = problem(30, 1)
    assert trained(test=repeated((x * nan, y), 4)).accuracy.eq(0).all()


def test_accuracy_counts_finite_correct_rows():
    logits = torch.tensor([[2.0, 1], [0, 3], [5, 4], [nan, 1], [inf, 0], [-inf, 2]])
    labels = torch.tensor([0, 1, 1, 1, 0, 1])
    assert accuracy(logits, labels).item() == pytest.approx(2 / 6)
    assert accuracy(logits, labels).dtype == torch.float64
    stacked = accuracy(torch.stack([logits, -logits])[:, :3], labels[:3].expand(2, 3))
    torch.testing.assert_close(stacked, torch.tensor([2 / 3, 1 / 3], dtype=torch.float64))


@pytest.mark.parametrize(
    ("curve", "level", "epoch"),
    [
        ([0.1, 0.9, 0.2, 0.95], 0.9, 2), ([0.9, 0.1], 0.9, 1), ([0.1, 0.2, 0.9], 0.9, 3),
        ([0.1, 0.2], 0.9, inf), ([0.5], 0.5, 1), ([0.5], 0.6, inf), ([0.3, 0.3], 0.0, 1),
        ([nan, 0.95], 0.9, 2), ([nan, nan], 0.0, inf), ([], 0.9, inf),
    ],
)  # fmt: skip
def test_epochs_to(curve, level, epoch):
    accuracies = torch.tensor(curve)
    assert epochs_to(accuracies, level).item() == epoch
    assert epochs_to(accuracies, level).dtype == torch.float64
    batched = epochs_to(torch.stack([accuracies, accuracies * 0 - 1])[:, None], level)
    assert batched.tolist() == [[epoch], [inf]]


# --- bad input --------------------------------------------------------------------------------------------

X, Y = repeated(problem(30, 1), 4)
REFUSED = [
    (lambda: Recipe(0), "epochs must be >= 1, got 0"),
    (lambda: Recipe(1, batch=0), "batch must be >= 1, got 0"),
    (lambda: Recipe(1, lr=0), "lr must be > 0, got 0"),
    (lambda: Recipe(1, lr=-1e-3), r"lr must be > 0, got -0\.001"),
    (lambda: Recipe(1, lr=nan), "lr must be .*> 0, got nan"),
    (lambda: Recipe(1, lr=inf), "lr must be .*> 0, got inf"),
    (lambda: Recipe(1, weight_decay=-1.0), r"weight_decay must be >= 0, got -1\.0"),
    (lambda: Recipe(1, weight_decay=nan), "weight_decay must be .*>= 0, got nan"),
    (lambda: trained(()), r"for 0 seeds \(>= 1\)"),
    (lambda: trained(test=(X[:3], Y[:3])), r"for 4 seeds \(>= 1\), got \(3, 30, 3, 6\) and \(3, 30\)"),
    (lambda: trained(test=(X, Y[:, :29])), r"for 4 seeds \(>= 1\), got \(4, 30, 3, 6\) and \(4, 29\)"),
    (lambda: trained(test=(X, Y[0])), r"for 4 seeds \(>= 1\), got \(4, 30, 3, 6\) and \(30,\)"),
    (lambda: trained(test=(X[:, :0], Y[:, :0])), r"test .*got \(4, 0, 3, 6\) and \(4, 0\)"),
    (lambda: trained(draw=shuffled(X[0, :0], Y[0, :0])), r"draw .*got .*0"),
    (lambda: trained(make=lambda: torch.nn.Sequential(make(), torch.nn.BatchNorm1d(3))), "running_mean"),
    (lambda: sampled({}, 0), "rows must be >= 1, got 0"),
    (lambda: passes(torch.ones(2, 1), torch.ones(2), 0), "rows must be >= 1, got 0"),
    (lambda: shuffled(X[0], Y[0, :29]), r"\(30, 3, 6\).*\(29,\)"),
    (lambda: stream(-1, "train"), "seed must be >= 0, got -1"),
    (lambda: trained((0, 1, 2, -1)), "seed must be >= 0, got -1"),
    (lambda: accuracy(torch.zeros(4, 3), torch.zeros(1).long()), r"\(4, 3\).*\(1,\)"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- other losses and targets -----------------------------------------------------------------------------


class Spectral(torch.nn.Module):
    """Grouped convolutions, norms, an FFT gate, and a buffer that is no state."""

    def __init__(self, out: int):
        super().__init__()
        self.lift = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.norm = torch.nn.GroupNorm(1, 4)
        self.depthwise = torch.nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.gate = torch.nn.Parameter(torch.randn(4, 6, 4, 2) * 0.1 + 1)
        self.rows = torch.nn.LayerNorm(6)
        self.head = torch.nn.Conv2d(4, out, 1)
        self.register_buffer("gain", torch.ones(()), persistent=False)

    def forward(self, x):
        z = self.depthwise(self.norm(self.lift(x))) * self.gain
        z = torch.fft.irfft2(torch.fft.rfft2(z) * torch.view_as_complex(self.gate), s=z.shape[-2:])
        return self.head(self.rows(z).relu())


def squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).square().flatten(1).mean(1)


def pixels_right(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs.argmax(2) == targets).double().flatten(1).mean(1)


WEIGHTS = torch.tensor([1.0, 4.0], dtype=torch.float64)
TASKS = {
    "regression": (1, lambda x: x.roll(1, -1) + x, mse_loss, squared_error),
    "segmentation": (
        2,
        lambda x: (x[:, 0] > 0.5).long(),
        partial(cross_entropy, weight=WEIGHTS),
        pixels_right,
    ),
}


@pytest.mark.parametrize("schedule", ["one-cycle", "constant"])
@pytest.mark.parametrize("task", TASKS)
def test_regression_and_segmentation_are_the_plain_loop_too(task, schedule):
    out, target, loss, score = TASKS[task]
    train_x, test_x = (
        torch.randn(n, 1, 6, 6, dtype=torch.float64, generator=stream(0, purpose))
        for n, purpose in ((20, "train images"), (30, "test images"))
    )
    draw = shuffled(train_x, target(train_x))
    test = repeated((test_x, target(test_x)), 2)
    recipe = Recipe(25, 8, lr=1e-2, weight_decay=0, schedule=schedule)
    ours = train(lambda: Spectral(out), (3, 4), draw, test, recipe, loss=loss, score=score)
    assert ours.score.shape == (2, 25)
    for index, seed in enumerate((3, 4)):
        with seeded(seed):
            model = Spectral(out).double()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        cycle = OneCycleLR(optimizer, 1e-2, total_steps=75) if schedule == "one-cycle" else None
        generator, losses = stream(seed, "train"), []
        for _ in range(25):
            for x, y in zip(*(part.split(8) for part in draw(generator)), strict=True):
                losses.append(loss(model(x), y))
                optimizer.zero_grad()
                losses[-1].backward()
                optimizer.step()
                if cycle:
                    cycle.step()
        torch.testing.assert_close(ours.loss[index], torch.stack(losses).detach(), rtol=0, atol=1e-8)
        last = score(model(test_x)[None], target(test_x)[None])
        torch.testing.assert_close(ours.score[index, -1:], last.detach(), rtol=0, atol=1e-8)
    gain = ours.score[:, -1] - ours.score[:, 0]
    assert (gain > 0.1).all() if task == "segmentation" else (gain < -0.3).all()


def test_regression_has_the_squared_error_as_its_loss_and_score():
    x = torch.randn(20, 1, 6, 6, generator=stream(0, "images"))
    draw, test, recipe = shuffled(x, x.roll(1, -1)), repeated((x, x.roll(1, -1)), 2), Recipe(2, 8)
    ours = regress(lambda: Spectral(1), (3, 4), draw, test, recipe)
    plain = train(lambda: Spectral(1), (3, 4), draw, test, recipe, loss=mse_loss, score=squared_error)
    assert torch.equal(ours.loss, plain.loss)
    torch.testing.assert_close(ours.score, plain.score)


class Quadratic(nn.Module):
    """One weight per part, so that steps can be followed by hand."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)

    def forward(self, x):
        return self.first(x) + self.last(x)


def quadratic(recipe, seeds=(1, 1), **options):
    ones = torch.ones(4, 1)
    test = repeated((ones, ones), len(seeds))
    negative = lambda outputs, y: -((outputs - y) ** 2).mean((1, 2))  # noqa: E731
    return train(
        Quadratic, seeds, shuffled(ones, ones), test, recipe, loss=mse_loss, score=negative, **options
    )


def test_gradient_descent_a_slower_part_and_a_rate_for_each_member_are_steps_by_hand():
    recipe = Recipe(1, 4, lr=0.1, weight_decay=0, schedule="constant", optimizer="sgd", slower={"last": 0.5})
    ours = quadratic(recipe, rates=(0.1, 0.02))
    with seeded(1):
        model = Quadratic()
    first, last = float(model.first.weight.detach()), float(model.last.weight.detach())
    gradient = 2 * (first + last - 1)
    for index, rate in enumerate((0.1, 0.02)):
        assert float(ours.parameters["first.weight"][index]) == pytest.approx(
            first - rate * gradient, abs=1e-6
        )
        assert float(ours.parameters["last.weight"][index]) == pytest.approx(
            last - rate / 2 * gradient, abs=1e-6
        )


@pytest.mark.parametrize("schedule", ["one-cycle", "constant"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_members_own_rate_is_that_rate_alone(optimizer, schedule):
    recipe = Recipe(5, 2, lr=0.1, weight_decay=0.01, schedule=schedule, optimizer=optimizer)
    both = quadratic(recipe, rates=(0.1, 0.03))
    alone = quadratic(replace(recipe, lr=0.03), seeds=(1,))
    torch.testing.assert_close(both.loss[1], alone.loss[0], rtol=0, atol=1e-5)
    assert not torch.allclose(both.loss[0], alone.loss[0], atol=1e-2)


def test_training_goes_on_from_given_weights_and_counts_its_steps():
    recipe = Recipe(2, 2, lr=0.1, weight_decay=0, schedule="constant", optimizer="sgd")
    once = quadratic(recipe)
    steps = []
    again = quadratic(recipe, start=once.parameters, each_step=lambda model, step: steps.append(step))
    assert steps == [step for step in range(4) for _ in range(2)]
    longer = quadratic(replace(recipe, epochs=4))
    torch.testing.assert_close(torch.cat([once.loss, again.loss], 1), longer.loss, rtol=0, atol=1e-6)


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.norm(x))


def test_running_averages_are_kept_by_members_trained_in_turn_and_used_when_scored():
    x, y = torch.randn(32, 6, generator=stream(0, "x")) + 3, torch.arange(32) % 3
    test = repeated((x, y), 2)
    ours = train(Normed, (1, 2), shuffled(x, y), test, Recipe(20, 8, lr=1e-2), together=False)
    assert ours.parameters["norm.running_mean"].shape == (2, 6)
    assert (ours.parameters["norm.running_mean"] > 2).all()
    member = ours.member(1)
    assert not member.training
    assert float(accuracy(member(x), y)) == float(ours.score[1, -1])
    with pytest.raises(
        ValueError, match=r"no state but parameters, got norm.num_batches_tracked.*together=False"
    ):
        train(Normed, (1, 2), shuffled(x, y), test, Recipe(1, 8))


OTHER_MEASURES = [
    (lambda: Recipe(1, optimizer="adam"), "optimizer must be 'adamw' or 'sgd', got 'adam'"),
    (lambda: Recipe(1, slower={"last": 0}), "slower must hold factors > 0, got 0 for 'last'"),
    (lambda: quadratic(Recipe(1), rates=(0.1,)), r"rates must be one > 0 for each of 2 seeds, got \[0.1\]"),
    (lambda: quadratic(Recipe(1), rates=(0.1, nan)), "rates must be one > 0 .* nan"),
    (
        lambda: trained(loss=partial(cross_entropy, reduction="none")),
        r"loss must be .*\(4,\), got .*\(4, 16\)",
    ),
    (
        lambda: trained(score=lambda outputs, y: accuracy(outputs, y).mean()),
        r"score must be .*\(4,\), got .*\(\)",
    ),
    (lambda: Recipe(1, schedule="cosine"), "schedule must be 'one-cycle' or 'constant', got 'cosine'"),
    (
        lambda: shuffled(torch.zeros(4, 2), torch.zeros(3, 2)),
        r"one target per input, got \(4, 2\) and \(3, 2\)",
    ),
]


@pytest.mark.parametrize(("call", "message"), OTHER_MEASURES)
def test_measures_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
