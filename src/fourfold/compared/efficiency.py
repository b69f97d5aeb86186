"""The methods of the part "efficiency" on one small vision transformer: what each stores, computes and keeps.

This room compares papers, so it imports their modules; no other room does, and no chapter imports it.

`ARMS` has an entry for each method and each lazy rival, at three strengths. An arm either trains a network of
its own from the start, or goes on from the trained dense transformer, as its paper does. `DENSE` is that
transformer: patches, class token, `DEPTH` blocks that compute all tokens.

What a network stores is counted in bytes, what it computes in multiply-accumulates, each by itself: a block
that runs twice is stored once. Weights that are stored small, as bits, as few values or as sums of Kronecker
products, are expanded once, before images come, so that such a network computes what the dense one does.

Images are (batch, 1, 16, 16), logits (batch, 10).
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from fourfold import checks, cost, training
from fourfold.data import probes
from fourfold.data.probes import Images
from fourfold.efficiency import evit, hawqv3, phnn, raptor, sit, sret

SIDE, PATCH, DIM, DEPTH, HEADS, CLASSES = 16, 4, 32, 4, 4, 10
"""Pixels of an image's and of a patch's side, features of a token, blocks, heads, digits."""

TOKENS = (SIDE // PATCH) ** 2
DROPS, SLIMS = (1, 2, 3), (0, 1)
"""Blocks in which tokens are dropped, a quarter, a half and three quarters in; after which SiT slims."""

FLOAT = 4
"""Bytes of a number that nothing has made smaller."""


# --- the task ---------------------------------------------------------------------------------------------

POOL, TEST = 1400, 397
"""Digits of scikit-learn to train on and to test on."""

HELD_OUT = 300
"""Digits of the pool that no network trains on; rates are chosen by images that are made of them."""

IMAGES, UNSEEN = 2400, 2000
"""Images of an epoch, drawn anew for each, and images that an accuracy is taken on."""


LIGHT = 0.05
"""By how much all pixels of the digit that decides are brighter, where a digit's own are in 0..1."""


def mosaic(source: Images, n: int, generator: torch.Generator) -> Images:
    """Images (n, 1, 16, 16) of four digits; the label is that of the one that stands in the light.

    `probes.content_selection` on a grid of 2 x 2, its flagged digit brighter by `LIGHT`, so that each of its
    four patches shows that it is the one; then near variance 1.
    """
    drawn = probes.content_selection(source, n, grid=2, generator=generator)
    drawn.tokens[torch.arange(n), drawn.target] += LIGHT
    tiles = rearrange(drawn.tokens, "n (r c) (y x) -> n 1 (r y) (c x)", r=2, y=SIDE // 2)
    return Images(tiles / 0.4, drawn.labels)


def drawn(seed: int, held_out: bool = False) -> tuple[Images, Images]:
    """The digits that one seed trains with, (digits, 8, 8), and the `UNSEEN` images that it is tested on.

    ``held_out``: test images are made of the pool's digits that no network trains on, in the test's place.
    """
    pool, test = probes.digits()
    order = torch.randperm(POOL, generator=training.stream(seed, "digits"))
    known, other = order[:-HELD_OUT], order[-HELD_OUT:]
    source = Images(pool.images[other], pool.labels[other]) if held_out else test
    return Images(pool.images[known], pool.labels[known]), mosaic(
        source, UNSEEN, training.stream(seed, "held out" if held_out else "test")
    )


# --- what stands in a linear layer's place ----------------------------------------------------------------


class Rounded(nn.Linear):
    """A layer whose weights have ``bits`` bits, with a scale for each output; gradients pass through.

    The float weights are what is trained; only codes and scales would be stored. Raises ``ValueError`` for
    bits outside 2..16.
    """

    def __init__(self, inputs: int, outputs: int, bits: int):
        super().__init__(inputs, outputs)
        checks.between(2, hawqv3.WIDE, bits=bits)
        self.bits = bits

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        rounded = hawqv3.rounded_weight(self.weight, self.bits)
        return linear(x, self.weight + (rounded - self.weight).detach(), self.bias)

    def stored(self) -> int:
        """Bytes of codes, scales and biases."""
        codes = math.ceil(hawqv3.stored_bytes(self.weight.numel(), self.bits))
        return codes + 2 * FLOAT * self.out_features


class Pruned(nn.Linear):
    """A layer some of whose weights are zero and stay so: the lazy rival of all that is stored small."""

    kept: Tensor

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs)
        self.register_buffer("kept", torch.ones(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return linear(x, self.weight * self.kept, self.bias)

    def stored(self) -> int:
        """Bytes of the weights that are kept, of a bit for each place, and of the biases."""
        places = math.ceil(self.kept.numel() / 8)
        return FLOAT * int(self.kept.sum()) + places + FLOAT * self.out_features


def layers(net: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of a network's blocks, by name: attention's four and the MLP's two."""
    return {
        name: part for name, part in net.named_modules() if "blocks." in name and isinstance(part, nn.Linear)
    }


def with_layers(net: nn.Module, make: Callable[[str, nn.Linear], nn.Module]) -> nn.Module:
    """The network itself with each of its `layers` replaced by what ``make`` gives for name and layer."""
    for name, layer in layers(net).items():
        net.set_submodule(name, make(name, layer))
    return net


def stored(net: nn.Module) -> int:
    """Bytes of all that a network must store: four a value, but for layers that say so themselves."""
    total = 0
    for part in net.modules():
        if isinstance(part, Rounded | Pruned):
            total += part.stored()
        else:
            total += FLOAT * sum(value.numel() for value in part.parameters(recurse=False))
    return total


# --- networks ---------------------------------------------------------------------------------------------


def dense(dim: int = DIM, depth: int = DEPTH) -> evit.DeiT:
    """The transformer that all methods make cheaper, or a smaller one."""
    return evit.DeiT(image=SIDE, patch=PATCH, dim=dim, depth=depth, heads=HEADS, classes=CLASSES, channels=1)


def fewer_tokens(keep_rate: float, select: Any = "top") -> evit.EViT:
    """EViT: the dense transformer that drops tokens in the blocks `DROPS`."""
    return evit.EViT(
        image=SIDE, patch=PATCH, dim=DIM, depth=DEPTH, heads=HEADS, classes=CLASSES, channels=1,
        keep_rate=keep_rate, locations=DROPS, select=select,
    )  # fmt: skip


def any_tokens(keep_rate: float) -> evit.EViT:
    """EViT that keeps patches by lot, drawn anew for each image."""
    lot = torch.Generator().manual_seed(0)
    return fewer_tokens(keep_rate, lambda images: torch.rand(len(images), TOKENS, generator=lot).to(images))


def slim(n_tokens: Sequence[int]) -> sit.SlimViT:
    """SiT: averages of the dense transformer's tokens after the blocks `SLIMS`."""
    return sit.SlimViT(dense(), SLIMS, n_tokens)


def recursive(slots: int, passes: int) -> sret.SReT:
    """SReT: ``slots`` blocks that run ``passes`` times each, with an NLL after every pass."""
    groups = ((1,) * passes,)
    return sret.SReT(sret.Spec((DIM,), (HEADS,), (slots,), groups, 4.0, patch=PATCH), SIDE, 1, CLASSES)


class Replayed(nn.Module):
    """The dense transformer's patches and read-out with Raptor's tied blocks between them."""

    def __init__(self, net: evit.DeiT, tied: raptor.Raptor):
        super().__init__()
        whole = copy.deepcopy(net)
        self.patches, self.vit, self.tied = whole.patches, whole.vit, tied
        self.vit.blocks = nn.ModuleList()

    def forward(self, images: Tensor) -> Tensor:
        """Images -> logits."""
        return self.vit.classify(self.tied.rollout(self.vit.embed(self.patches(images)))[:, -1])


class OneByOne(nn.Module):
    """The dense transformer as Raptor asks for one: from images to tokens, then blocks that return tokens."""

    def __init__(self, net: evit.DeiT):
        super().__init__()
        self.net = net
        self.blocks = [lambda x, block=block: block(x)[0] for block in net.vit.blocks]

    def embed(self, images: Tensor) -> Tensor:
        """Images -> tokens (batch, 17, dim), the class token first."""
        return self.net.vit.embed(self.net.patches(images))


def tied_blocks(k: int, ends: Sequence[int] | None = None) -> raptor.Raptor:
    """Raptor's k blocks for `DEPTH` layers, of equal phases unless their ends are given."""
    blocks = [raptor.RaptorBlock(DIM, HEADS, mlp="gelu", init=0.1) for _ in range(k)]
    return raptor.Raptor(blocks, raptor.equal_ends(DEPTH, k) if ends is None else ends)


def hypercomplex(n: int) -> nn.Module:
    """PHNN: the dense transformer with hypercomplex layers of n units in its blocks."""
    return with_layers(dense(), lambda _, layer: phnn.PHLinear(n, layer.in_features, layer.out_features))


def rounded(net: nn.Module, bits: Mapping[str, int] | int) -> nn.Module:
    """The network itself with its `layers` in so many bits, one number or one for each."""

    def make(name: str, layer: nn.Linear) -> Rounded:
        each = bits if isinstance(bits, int) else bits[name]
        return Rounded(layer.in_features, layer.out_features, each)

    return with_layers(net, make)


def pruned(net: nn.Module) -> nn.Module:
    """The network itself with layers that can be pruned."""
    return with_layers(net, lambda _, layer: Pruned(layer.in_features, layer.out_features))


def largest(net: nn.Module, share: float) -> dict[str, Tensor]:
    """Which weights of a network's `layers` are among the largest ``share`` of all, by name of the mask."""
    weights = {name: layer.weight.detach().abs() for name, layer in layers(net).items()}
    every = torch.cat([weight.flatten() for weight in weights.values()]).sort(descending=True).values
    least = every[math.ceil(share * len(every)) - 1]
    return {f"{name}.kept": (weight >= least).float() for name, weight in weights.items()}


def sensitivities(net: nn.Module, known: Images, generator: torch.Generator) -> NDArray:
    """Mean Hessian traces of a dense network's `layers`, of its mean cross-entropy at images ``known``."""
    weights = [layer.weight for layer in layers(net).values()]
    loss = lambda: cross_entropy(net(known.images), known.labels)  # noqa: E731
    return hawqv3.hutchinson_trace(loss, weights, PROBES, generator)[0]


def allocated(net: nn.Module, traces: NDArray, low: int, high: int) -> dict[str, int]:
    """HAWQ-V3's bits for each of a dense network's `layers`, by its integer program.

    Half of what all high bits would add in bytes may be spent. ``traces``: (layers,), of `sensitivities`.
    """
    found = layers(net)
    omegas, costs = {}, {}
    for bits in (low, high):
        moved = [
            hawqv3.rounded_weight(layer.weight, bits) - layer.weight.detach() for layer in found.values()
        ]
        omegas[bits] = hawqv3.perturbation(traces, [float(error.square().sum()) for error in moved])
        costs[bits] = hawqv3.stored_bytes([layer.weight.numel() for layer in found.values()], bits)
    limit = hawqv3.budget(costs[low], costs[high], 0.5)
    chosen = hawqv3.allocate_bits(omegas[low], omegas[high], costs[low], costs[high], limit)
    return {name: high if each else low for name, each in zip(found, chosen, strict=True)}


PROBES, LOOKED_AT = 16, 200
"""Random vectors, and training images, that Hessian traces are estimated from."""


# --- arms -------------------------------------------------------------------------------------------------

Way = Literal["from the start", "further", "taught", "replayed"]


@dataclass(frozen=True)
class Arm:
    """A method or a rival at three strengths.

    ``strengths``: name -> what ``build`` makes a network from. ``way``: how it is trained. ``note``: how it
    enters. ``stores``: whether only what is stored gets smaller, and the dense network is what computes.
    ``lazy``: whether it is a rival that no paper proposes.
    """

    way: Way
    strengths: Mapping[str, Any]
    build: Callable[[Any], nn.Module]
    note: str
    stores: bool = False
    lazy: bool = False


KEEPS = {"keeps 1/2": 0.5, "3/10": 0.3, "1/10": 0.1}
"""EViT's keep rates in each of the blocks `DROPS`."""


WIDTHS = {"2 or 6 bits": (2, 6), "2 or 4": (2, 4), "2 or 3": (2, 3)}
"""Low and high bits that HAWQ-V3 chooses between: 4, 3 and 2.5 on average."""


def _pair(bits: tuple[int, int]) -> nn.Module:
    """HAWQ-V3 before its program has chosen: all layers at the high bits."""
    return rounded(dense(), bits[1])


ARMS: dict[str, Arm] = {
    "narrower": Arm(
        "from the start",
        {"24 features": 24, "16": 16, "8": 8},
        lambda dim: dense(dim=dim),
        "the lazy rival of all: fewer features",
        lazy=True,
    ),
    "shallower": Arm(
        "from the start",
        {"3 blocks": 3, "2": 2, "1": 1},
        lambda depth: dense(depth=depth),
        "the same with fewer blocks",
        lazy=True,
    ),
    "EViT": Arm(
        "further",
        KEEPS,
        fewer_tokens,
        "blocks 2, 3 and 4 keep the patches that the class token looks at and melt the others into one",
    ),
    "by lot": Arm(
        "further",
        KEEPS,
        any_tokens,
        "EViT that draws the patches it keeps",
        lazy=True,
    ),
    "SiT": Arm(
        "taught",
        {"8, 4 tokens": (8, 4), "4, 2": (4, 2), "2, 1": (2, 1)},
        slim,
        "averages of tokens after blocks 1 and 2, taught by the dense network's tokens and logits",
    ),
    "SReT": Arm(
        "from the start",
        {"2 blocks x 2": (2, 2), "1 x 4": (1, 4), "1 x 2": (1, 2)},
        lambda size: recursive(*size),
        "blocks that run several times, an NLL of their own after each pass; the mean token is read",
    ),
    "Raptor": Arm(
        "replayed",
        {"3 blocks": 3, "2": 2, "1": 1},
        tied_blocks,
        "tied blocks fitted to what the dense network's blocks return, its patches and read-out kept",
    ),
    "PHNN": Arm(
        "from the start",
        {"n = 2": 2, "4": 4, "8": 8},
        hypercomplex,
        "all layers of the blocks are sums of n Kronecker products",
        stores=True,
    ),
    "HAWQ-V3": Arm(
        "further",
        WIDTHS,
        _pair,
        "weights of two widths, chosen by Hessian traces and an integer program; half of the span is spent",
        stores=True,
    ),
    "equal bits": Arm(
        "further",
        {"4 bits": 4, "3": 3, "2": 2},
        lambda bits: rounded(dense(), bits),
        "weights of one width, as many bits on average",
        stores=True,
        lazy=True,
    ),
    "pruned": Arm(
        "further",
        {"keeps 1/2": 0.5, "1/4": 0.25, "1/8": 0.125},
        lambda share: pruned(dense()),
        "only the largest weights of the blocks, a bit for each place says which",
        stores=True,
        lazy=True,
    ),
}
"""Name -> what it is. A new method is one more entry."""

DENSE, AGAIN, BOTH = "dense", "dense, further", "EViT + HAWQ-V3"
"""The network that is made cheaper, trained from the start; the one that others go on from, trained on as
long as they are; two methods at once."""

PAIRS = {f"{keep}, {bits}": (keep, bits) for keep in ("3/10", "1/10") for bits in ("2 or 4", "2 or 3")}
"""Strengths of EViT and of HAWQ-V3 that are combined, by name."""


def strengths(arm: str) -> list[str]:
    """The names of an arm's strengths, the mildest first; `DENSE` and `AGAIN` have one without a name.

    Raises ``ValueError`` for another arm.
    """
    checks.one_of((*ARMS, DENSE, AGAIN, BOTH), arm=arm)
    return list(PAIRS if arm == BOTH else ARMS[arm].strengths if arm in ARMS else ("",))


def middle(arm: str) -> str:
    """The strength that an arm's learning rate is chosen at: the second, where there are several."""
    return strengths(arm)[:2][-1]


def way_of(arm: str) -> Way:
    """How an arm is trained."""
    return ARMS[arm].way if arm in ARMS else "from the start" if arm == DENSE else "further"


def networks() -> list[tuple[str, str]]:
    """Every arm with each of its strengths."""
    return [(arm, strength) for arm in (DENSE, AGAIN, *ARMS, BOTH) for strength in strengths(arm)]


def crossed() -> list[tuple[str, str]]:
    """Neither method, each of the two alone, and both: the networks whose losses may add."""
    alone = {place for pair in PAIRS for place in parts_of(pair)}
    return [(AGAIN, ""), *sorted(alone), *((BOTH, pair) for pair in PAIRS)]


def parts_of(pair: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """The two networks with one method each that a pair combines."""
    keep, widths = PAIRS[pair]
    return ("EViT", keep), ("HAWQ-V3", widths)


def racing() -> list[tuple[str, str]]:
    """Arms and strengths that compute something of their own; the lot computes what EViT does."""
    own = (name for name, arm in ARMS.items() if not arm.stores and name != "by lot")
    return [(arm, strength) for arm in (DENSE, *own) for strength in strengths(arm)]


# --- training ---------------------------------------------------------------------------------------------

EPOCHS, FURTHER, BATCH, DECAY = 8, 3, 50, 0.05
"""Epochs of the dense network, and from it on; images of a step; weight decay.

What is trained from the start has as many epochs as both together.
"""

STATES = 1500
"""Images whose states Raptor is fitted to, every epoch the same."""

FASTER = 5.0
"""The factor on the rate of what SiT adds to a trained network, as in its chapter."""


@dataclass(frozen=True)
class Given:
    """What networks of one seed are trained with: its digits and, once there is one, the dense network."""

    seed: int
    digits: Images
    dense: evit.DeiT | None = None

    def draw(self, generator: torch.Generator) -> Images:
        """The images of an epoch."""
        return mosaic(self.digits, IMAGES, generator)

    def some(self, n: int, purpose: str) -> Images:
        """Images for a purpose besides training."""
        return mosaic(self.digits, n, training.stream(self.seed, purpose))

    @property
    def teacher(self) -> evit.DeiT:
        """The dense network. Raises ``ValueError`` where there is none yet."""
        if self.dense is None:
            raise ValueError("dense must be trained before what goes on from it, got None")
        return self.dense

    @cached_property
    def traces(self) -> NDArray:
        """How sensitive HAWQ-V3 finds the dense network's layers."""
        return sensitivities(
            self.teacher, self.some(LOOKED_AT, "traces"), training.stream(self.seed, "probes")
        )

    @cached_property
    def lessons(self) -> list[tuple[Tensor, Tensor]]:
        """What the dense network says of the images that SiT's students see."""
        return sit.lessons(self.draw, [self.teacher], (self.seed,), FURTHER)

    @cached_property
    def states(self) -> Tensor:
        """What the dense network's blocks make of images, which Raptor is fitted to."""
        return raptor.collect_states(OneByOne(self.teacher), self.some(STATES, "states").images)


def _fit(
    given: Given,
    make: Callable[[], nn.Module],
    epochs: int,
    lr: float,
    start: Mapping[str, Tensor] | None = None,
    draw: training.Draw | None = None,
    loss: training.Measure = cross_entropy,
    slower: Mapping[str, float] | None = None,
) -> nn.Module:
    # Scored after each epoch, which decides nothing: one image does.
    glance = given.some(1, "glance")
    labels = glance.labels.float() if loss is sit.distillation_loss else glance.labels
    recipe = training.Recipe(epochs, BATCH, lr, weight_decay=DECAY, slower=slower or {})
    run = training.train(
        make,
        (given.seed,),
        draw or given.draw,
        (glance.images[None], labels[None]),
        recipe,
        loss=loss,
        start=start,
        together=False,  # one seed, and masks that are no parameters
    )
    return run.member(0)


def first(given: Given, lr: float) -> evit.DeiT:
    """The dense network that others go on from, after `EPOCHS`."""
    net = _fit(given, dense, EPOCHS, lr)
    assert isinstance(net, evit.DeiT)
    return net


def further(given: Given, make: Callable[[], nn.Module], lr: float, **known: Tensor) -> nn.Module:
    """A network that starts with the dense network's weights, and what else is ``known``, and learns on."""
    weights = {name: value[None] for name, value in (given.teacher.state_dict() | known).items()}
    start = sit.with_weights(make, (given.seed,), {"": weights})
    return _fit(given, make, FURTHER, lr, start)


def bits_of(given: Given, strength: str) -> dict[str, int]:
    """What HAWQ-V3's program chooses for the dense network of a seed."""
    return allocated(given.teacher, given.traces, *WIDTHS[strength])


def trained(arm: str, strength: str, given: Given, lr: float) -> nn.Module:
    """A network of an arm at a strength, in evaluation mode.

    Raises ``ValueError`` for another arm or strength, and for one that needs a dense network without one.
    """
    checks.one_of(strengths(arm), strength=strength)
    if arm == DENSE:
        return _fit(given, dense, EPOCHS + FURTHER, lr)
    if arm == AGAIN:
        return further(given, dense, lr)
    if arm == BOTH:
        keep, width = PAIRS[strength]
        bits = bits_of(given, width)
        return further(given, lambda: rounded(fewer_tokens(KEEPS[keep]), bits), lr)
    entry, size = ARMS[arm], ARMS[arm].strengths[strength]
    if entry.way == "from the start":
        return _fit(given, partial(entry.build, size), EPOCHS + FURTHER, lr)
    if entry.way == "taught":
        return _taught(given, size, lr)
    if entry.way == "replayed":
        return _replayed(given, size, lr)
    if arm == "HAWQ-V3":
        bits = bits_of(given, strength)
        return further(given, lambda: rounded(dense(), bits), lr)
    masks = largest(given.teacher, size) if arm == "pruned" else {}
    return further(given, partial(entry.build, size), lr, **masks)


def _taught(given: Given, n_tokens: Sequence[int], lr: float) -> nn.Module:
    """SiT: from the dense network's weights on, taught by its tokens and its logits."""
    teacher = sit.SlimViT(given.teacher, (), ())

    def beside() -> sit.Recalibrated:
        return sit.Recalibrated(slim(n_tokens), sit.SlimViT(dense(), (), ()))

    weights = {name: value[None] for name, value in teacher.state_dict().items()}
    lessons = iter(given.lessons)
    start = sit.with_weights(beside, (given.seed,), {"student.": weights, "teacher.": weights})
    faster = {"student.slim": FASTER, "expand": FASTER}
    net = _fit(
        given, beside, FURTHER, lr, start, lambda _: next(lessons), loss=sit.distillation_loss, slower=faster
    )
    assert isinstance(net, sit.Recalibrated)
    return net.student


def _replayed(given: Given, k: int, lr: float) -> Replayed:
    """Raptor: phases by its search in the dense network's states, then its fit to them."""
    ends = raptor.contiguous_maxcut(raptor.layer_distance(raptor.features(given.states[:, 1:])), k)
    recipe = training.Recipe(EPOCHS + FURTHER, BATCH, lr, weight_decay=DECAY)
    tied = raptor.fit_raptor(partial(tied_blocks, k, ends), given.states, given.seed, recipe)
    return Replayed(given.teacher, tied)


# --- what is measured ---------------------------------------------------------------------------------------


@torch.no_grad()
def accuracy(net: nn.Module, test: Images) -> float:
    """Share of the test images that are read correctly."""
    return float(training.accuracy(net(test.images), test.labels))


def on_pixels(given: Given, test: Images) -> dict[str, float]:
    """Accuracy of what knows nothing of images, told the pixels of as many images as an epoch has."""
    known = given.some(IMAGES, "lines")
    return {name: phnn.lazy_accuracy(name, known, test) for name in LINES}


LINES = ("logistic regression", "SVM")


def untrained(arm: str, strength: str) -> nn.Module:
    """A network that computes what a trained one of this arm, or of `BOTH`, computes: for counts and times.

    What only stores less is the dense network, since its weights are expanded before images come.
    """
    if arm == BOTH:
        arm, strength = "EViT", PAIRS[strength][0]
    checks.one_of(strengths(arm), strength=strength)
    if arm in (DENSE, AGAIN) or ARMS[arm].stores:
        return dense()
    made = ARMS[arm].build(ARMS[arm].strengths[strength])
    return Replayed(dense(), made) if isinstance(made, raptor.Raptor) else made


def multiply_adds(arm: str, strength: str) -> int:
    """Multiply-accumulates for one image, as `cost.macs` counts."""
    return cost.macs(untrained(arm, strength), (1, 1, SIDE, SIDE))


def front(costs: Mapping[str, float], scores: Mapping[str, float]) -> list[str]:
    """The names on the Pareto front, cheapest first: whoever costs no more has a lower score.

    Of equals in both the first stands for all.
    """
    found: list[str] = []
    for name in sorted(costs, key=lambda name: (costs[name], -scores[name])):
        if not found or scores[name] > scores[found[-1]]:
            found.append(name)
    return found


def interaction(
    neither: Sequence[float], one: Sequence[float], other: Sequence[float], both: Sequence[float]
) -> list[float]:
    """What two methods at once lose beyond the sum of what each loses, a number a seed; 0 if losses add.

    Scores of the four networks, one a seed each. Above 0 they lose less together than their sum.
    """
    parts = zip(neither, one, other, both, strict=True)
    return [b - first - second + whole for whole, first, second, b in parts]


def log_odds(share: float, n: int = UNSEEN) -> float:
    """log(p / (1 - p)) of a share of n, half a case added to either side so that it is finite."""
    right = share * n
    return math.log((right + 0.5) / (n - right + 0.5))
