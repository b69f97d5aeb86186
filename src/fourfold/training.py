"""One seeded training loop, for several models of one architecture at once.

The members of an ensemble differ only in their seed: it makes the initial weights and the order of the data.
They are trained side by side, parameters stacked along a leading axis and the forward pass mapped over it
(``torch.func.stack_module_state``, ``vmap``). Nothing couples them: a member's numbers do not depend on the
company it trains in, except for the order in which a batched matrix product sums (rounding).
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

TEST_BATCH = 512
"""Test images per forward pass, which bounds the memory that attention maps take."""

Draw = Callable[[torch.Generator], tuple[Tensor, Tensor]]
"""Makes the training data of one epoch: inputs (n, ...) and targets (n, ...), such as labels (n,)."""

Measure = Callable[[Tensor, Tensor], Tensor]
"""Compares what a model returns with the targets; see ``train`` for the shapes."""


def deterministic() -> None:
    """Make torch give the same numbers on every run: one thread, deterministic algorithms only.

    One thread because the order of a parallel sum depends on the number of threads. An operation that has no
    deterministic algorithm raises ``RuntimeError`` from here on. Torch would also fill every fresh tensor
    with NaN; that guards against reading uninitialised memory, costs time at every step, and is turned off.
    Applies to the whole process: call it once, before computing.
    """
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within the block torch's global generator starts from ``seed``; afterwards it is as it was before.

    For what draws from the global generator and takes no other, such as the initial weights of ``torch.nn``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def stream(seed: int, purpose: str) -> torch.Generator:
    """A generator for one purpose of one seed: streams of different purposes or seeds are independent.

    Raises ``ValueError`` for a negative seed.
    """
    if seed < 0:
        raise ValueError(f"seed must be >= 0, got {seed}")
    state = np.random.SeedSequence([seed, *purpose.encode()]).generate_state(1)
    return torch.Generator().manual_seed(int(state[0]))


def shuffled(inputs: Tensor, targets: Tensor) -> Draw:
    """A fixed data set, (n, ...) and (n, ...), as ``train`` draws it: all of it, each epoch in a new order.

    Raises ``ValueError`` if there is not one target per input.
    """
    if len(inputs) != len(targets):
        raise ValueError(
            f"expected one target per input, got {tuple(inputs.shape)} and {tuple(targets.shape)}"
        )

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        order = torch.randperm(len(targets), generator=generator)
        return inputs[order], targets[order]

    return draw


def passes(inputs: Tensor, targets: Tensor, rows: int) -> Draw:
    """As ``shuffled``, but this many rows each epoch: pass after pass, each in a new order, cut where full.

    Raises ``ValueError`` for rows < 1 or if there is not one target per input.
    """
    if rows < 1:
        raise ValueError(f"rows must be >= 1, got {rows}")
    whole = shuffled(inputs, targets)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        drawn = [whole(generator) for _ in range(math.ceil(rows / len(targets)))]
        x, y = (torch.cat(parts)[:rows] for parts in zip(*drawn, strict=True))
        return x, y

    return draw


def sampled(sets: Mapping[int, tuple[Tensor, Tensor]], rows: int) -> Draw:
    """A data set for each member, by its seed, as ``train`` draws it: rows of its own, with replacement.

    Raises ``ValueError`` for rows < 1. A member without a set raises ``KeyError``.
    """
    if rows < 1:
        raise ValueError(f"rows must be >= 1, got {rows}")
    # A draw knows its member by the generator alone.
    known = {stream(seed, "train").initial_seed(): data for seed, data in sets.items()}

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        inputs, targets = known[generator.initial_seed()]
        chosen = torch.randint(len(targets), (rows,), generator=generator)
        return inputs[chosen], targets[chosen]

    return draw


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of correct classes: logits (..., n, classes), labels (..., n) -> (...), in float64.

    An image with a logit that is not finite counts as wrong: a model that diverged scores 0, not chance.
    Raises ``ValueError`` for shapes that do not fit.
    """
    if logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"expected logits (..., n, classes) and labels (..., n), "
            f"got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    correct = (logits.argmax(-1) == labels) & logits.isfinite().all(-1)
    return correct.double().mean(-1)


def epochs_to(accuracies: Tensor, level: float) -> Tensor:
    """The first epoch, counted from 1, that reaches ``level``; infinity where none does.

    ``accuracies``: (..., epochs). Returns (...) in float64.
    """
    reached = accuracies >= level
    before = (reached.cumsum(-1) == 0).sum(-1)
    return torch.where(reached.any(-1), before + 1.0, torch.inf).double()


@dataclass(frozen=True)
class Recipe:
    """AdamW; its learning rate runs one cycle (Smith and Topin, arXiv 1708.07120) that peaks at ``lr``.

    ``schedule="constant"`` stays at ``lr`` instead, and Adam's momentum, which a cycle moves, at 0.9. Without
    weight decay AdamW is Adam. ``optimizer="sgd"`` is plain gradient descent, without momentum.
    ``slower`` gives parameters their own rate: a part of the model, such as ``"last"`` or ``"blocks.0"``, and
    the factor, > 0, on the rate of all that is in it; the first name that fits counts.
    """

    epochs: int
    batch: int = 64
    lr: float = 2e-3
    weight_decay: float = 1e-4
    schedule: Literal["one-cycle", "constant"] = "one-cycle"
    optimizer: Literal["adamw", "sgd"] = "adamw"
    slower: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for what cannot be trained with."""
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be > 0, got {self.lr}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be >= 0, got {self.weight_decay}")
        if self.schedule not in ("one-cycle", "constant"):
            raise ValueError(f"schedule must be 'one-cycle' or 'constant', got {self.schedule!r}")
        if self.optimizer not in ("adamw", "sgd"):
            raise ValueError(f"optimizer must be 'adamw' or 'sgd', got {self.optimizer!r}")
        for part, factor in self.slower.items():
            if not 0 < factor < math.inf:
                raise ValueError(f"slower must hold factors > 0, got {factor} for {part!r}")

    def rate(self, parameter: str) -> float:
        """The learning rate of a parameter, by its dotted name."""
        fits = (factor for part, factor in self.slower.items() if f"{parameter}.".startswith(f"{part}."))
        return self.lr * next(fits, 1.0)


@dataclass(frozen=True)
class Trained:
    """What training leaves: the curves of every member, and the members themselves."""

    seeds: tuple[int, ...]
    loss: Tensor
    """Training loss of each step, (seeds, steps)."""
    score: Tensor
    """Score on the test set after each epoch, (seeds, epochs)."""
    parameters: dict[str, Tensor]
    """Final parameters, and running averages where the model keeps any, each (seeds, *shape)."""
    architecture: nn.Module
    """The module that the parameters belong to; its own values mean nothing."""

    @property
    def accuracy(self) -> Tensor:
        """``score`` by the name of what it is unless ``train`` was given another one."""
        return self.score

    def member(self, index: int) -> nn.Module:
        """The trained model of ``seeds[index]``, a module of its own, in evaluation mode."""
        model = copy.deepcopy(self.architecture).eval()
        model.load_state_dict({name: value[index] for name, value in self.parameters.items()})
        return model


def train(
    make: Callable[[], nn.Module],
    seeds: Sequence[int],
    draw: Draw,
    test: tuple[Tensor, Tensor],
    recipe: Recipe,
    *,
    loss: Measure = cross_entropy,
    score: Measure = accuracy,
    together: bool = True,
    start: Mapping[str, Tensor] | None = None,
    rates: Sequence[float] | None = None,
    each_step: Callable[[nn.Module, int], None] | None = None,
    label: str = "",
) -> Trained:
    """Train ``make()`` once per seed, all seeds together; by default a classifier on cross-entropy.

    ``draw`` makes the training data of one member and one epoch from that member's generator,
    ``stream(seed, "train")``: inputs (n, ...) and targets (n, ...), the same n each time, used once and in
    that order; the last batch may be smaller. ``shuffled`` makes one from a fixed data set. ``test`` holds
    inputs (seeds, m, ...) and targets (seeds, m, ...), one set per member; ``expand`` shares a set without a
    copy. Targets are labels (n,), label maps (n, height, width), or whatever ``loss`` and ``score`` take:

    - ``loss``: what the model returns for a batch of one member, (batch, ...), and the targets of that batch
      -> a scalar. Weighted classes: ``functools.partial(cross_entropy, weight=...)``.
    - ``score``: recorded after each epoch; what the models return for the whole test set, (seeds, m, ...),
      and its targets, (seeds, m, ...) -> (seeds,). It need not be differentiable.

    The dtypes of the test set are the dtypes of the training; initial weights are drawn in torch's default
    dtype, so that every precision starts from the same point. The model returns a tensor, such as logits, or
    a tuple that starts with it. Models are in training mode in training and in evaluation mode when scored.

    - ``together=False`` runs the members in turn, each in its own module, for what ``vmap`` cannot map, such
      as noise from a generator or BatchNorm's running averages.
    - ``start``: weights to go on from, such as ``Trained.parameters``, instead of ``make``'s own.
    - ``rates``: a learning rate for each member, in place of the recipe's; for a sweep, repeat the seeds.
    - ``each_step``: called on every module with the number of the step, from 0, before it: for what changes
      during training, such as a keep rate.

    A progress bar named ``label`` shows on a terminal.
    Raises ``ValueError`` for no seeds, for test data that are not one row per seed, for an empty set, for
    rates that are not one > 0 per seed, for a model trained together that keeps state besides its parameters,
    and for a ``loss`` or ``score`` that is not one number per member.
    """
    x_test, y_test = test
    if len(x_test) != len(seeds) or x_test.shape[:2] != y_test.shape[:2] or not y_test.numel():
        raise ValueError(
            f"expected test inputs (seeds, m >= 1, ...), targets (seeds, m, ...), "
            f"for {len(seeds)} seeds (>= 1), got {tuple(x_test.shape)} and {tuple(y_test.shape)}"
        )
    if rates is not None and (len(rates) != len(seeds) or not all(0 < rate < math.inf for rate in rates)):
        raise ValueError(f"rates must be one > 0 for each of {len(seeds)} seeds, got {list(rates)}")
    models = [_build(make, seed).to(x_test) for seed in seeds]
    if start is not None:
        for index, model in enumerate(models):
            model.load_state_dict({name: value[index] for name, value in start.items()})
    generators = [stream(seed, "train") for seed in seeds]
    architecture = models[0]
    parameters, _ = stack_module_state(models)
    state = sorted(architecture.state_dict().keys() - parameters.keys())
    if state and together:
        raise ValueError(
            f"a model must keep no state but parameters, got {', '.join(state)}; "
            f"together=False trains models that do"
        )

    def output(model: nn.Module, weights: dict[str, Tensor], x: Tensor) -> Tensor:
        returned = functional_call(model, weights, (x,))
        return returned if isinstance(returned, Tensor) else returned[0]

    def member_loss(model: nn.Module, weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss(output(model, weights, x), y)

    def each(function: Callable[..., Tensor], *batches: Tensor) -> Tensor:
        if together:
            return vmap(partial(function, architecture))(parameters, *batches)
        weights = ({name: value[i] for name, value in parameters.items()} for i in range(len(models)))
        return torch.stack([function(*member) for member in zip(models, weights, *batches, strict=True)])

    optimizer = _optimizer(parameters, recipe)
    # A step is proportional to the rate, so a member's own rate is a fraction of the recipe's step.
    fractions = None if rates is None else torch.tensor(rates, dtype=x_test.dtype) / recipe.lr
    schedule = None
    losses: list[Tensor] = []
    scores: list[Tensor] = []
    for _ in tqdm(range(recipe.epochs), desc=label, unit="epoch", disable=None):
        drawn = [draw(generator) for generator in generators]
        inputs = torch.stack([x for x, _ in drawn]).to(x_test)
        targets = torch.stack([y for _, y in drawn]).to(y_test)
        if not targets.numel():
            raise ValueError(f"draw must make at least one sample, got inputs {tuple(inputs.shape)}")
        batches = list(zip(inputs.split(recipe.batch, 1), targets.split(recipe.batch, 1), strict=True))
        if schedule is None and recipe.schedule == "one-cycle":
            schedule = OneCycleLR(
                optimizer,
                [group["lr"] for group in optimizer.param_groups],
                total_steps=recipe.epochs * len(batches),
                cycle_momentum=recipe.optimizer == "adamw",
            )
        for model in models:
            model.train()
        for x, y in batches:
            if each_step is not None:
                for model in models:
                    each_step(model, len(losses))
            step_loss = _one_per_member("loss", each(member_loss, x, y), seeds)
            optimizer.zero_grad()
            # The gradient of the sum is each member's own gradient: no weight is shared.
            step_loss.sum().backward()
            before = [] if fractions is None else [p.detach().clone() for p in parameters.values()]
            optimizer.step()
            if fractions is not None:
                with torch.no_grad():
                    for now, then in zip(parameters.values(), before, strict=True):
                        now.copy_(then + fractions.view(-1, *[1] * (now.ndim - 1)) * (now - then))
            if schedule is not None:
                schedule.step()
            losses.append(step_loss.detach())
        for model in models:
            model.eval()
        with torch.no_grad():
            outputs = torch.cat([each(output, x) for x in x_test.split(TEST_BATCH, 1)], 1)
            scores.append(_one_per_member("score", score(outputs, y_test), seeds))
    return Trained(
        seeds=tuple(seeds),
        loss=torch.stack(losses, dim=1),
        score=torch.stack(scores, dim=1),
        parameters={name: value.detach() for name, value in parameters.items()}
        | {name: torch.stack([model.state_dict()[name] for model in models]) for name in state},
        architecture=architecture,
    )


def regress(
    make: Callable[[], nn.Module],
    seeds: Sequence[int],
    draw: Draw,
    test: tuple[Tensor, Tensor],
    recipe: Recipe,
    **how: Any,
) -> Trained:
    """`train` on the mean squared error, which is the score as well; ``how`` is passed on."""

    def squared(made: Tensor, wanted: Tensor) -> Tensor:
        return (made - wanted).square().flatten(1).mean(1)

    return train(make, seeds, draw, test, recipe, loss=mse_loss, score=squared, **how)


def _one_per_member(name: str, values: Tensor, seeds: Sequence[int]) -> Tensor:
    if values.shape != (len(seeds),):
        raise ValueError(
            f"{name} must be one number per member, ({len(seeds)},), got shape {tuple(values.shape)}"
        )
    return values


def _optimizer(parameters: Mapping[str, Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    groups: dict[float, list[Tensor]] = {}
    for name, value in parameters.items():
        groups.setdefault(recipe.rate(name), []).append(value)
    given = [{"params": values, "lr": rate} for rate, values in groups.items()]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(given, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    return torch.optim.AdamW(given, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)


def _build(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    with seeded(seed):
        return make()
