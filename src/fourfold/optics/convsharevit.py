"""ConvShareViT: a vision transformer whose linear layers are convolutions with kernels that all tokens share.

Ibadulla, Chen and Reyes-Aldasoro, arXiv 2504.11517, IEEE TNNLS 2026. A token is a p x p map, so dim = p^2.
A 4f bench convolves a whole plane of tokens with one kernel in a single pass of light; a layer that is a set
of shared kernels therefore costs one pass per kernel, for as many tokens as fit. Three kinds of layer:

- *valid*, k = p: ``Y[t, c] = <X_t, K_c> + b_c``, exactly ``Linear(p^2, d_out)`` with rows ``vec(K_c)``. With
  k < p, n kernels give ``n (p-k+1)^2`` outputs: a doubly block Toeplitz matrix with ``n k^2`` weights.
- *same*, odd k, zero padding k//2: one kernel per map, p x p in and out, nothing moves further than k//2.
- *unshared*: every token, CLS included, has kernels of its own (``groups=tokens``), as in the authors' FCSA.

Implemented: these layers, attention as two convolutions, and the models of ``ARMS``. A layer's forward pass
is one matrix product with the matrix of its convolution: the same map as ``conv2d`` and several times faster
on tiny maps. The convolution is torch's correlation (kernels are not flipped); a bench displays the flipped
kernel.

Departures. The paper's tables were not available: the grid below is ours. Heads are ViT's: the p^2 pixels are
cut in H equal stretches, so a head sees a stripe of p/H rows, and the scale is the stripe's
``1/sqrt(pixels)``, which is the paper's 1/p where a head is a whole map. FCSA instead adds H full-width heads
to the residual, without an output projection and with no bias in q, k, v; here both are as in ViT, so that
the arms differ in one thing only.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv1d, conv2d, cross_entropy, linear, pad

from fourfold.attention import MLP, Mixing, ViT
from fourfold.bench4f import light, throughput
from fourfold.data.probes import Probe

Padding = Literal["valid", "same"]


def _padded(p: int, k: int, padding: str) -> int:
    """Zeros on each side of a map. Raises ``ValueError`` for sizes that make no such convolution."""
    if not 1 <= p <= 32:
        raise ValueError(f"p, the side of a token, must be in 1..32, got {p}")
    if padding == "valid":
        if not 1 <= k <= p:
            raise ValueError(f"k must be in 1..{p} for valid convolution of {p} x {p} tokens, got {k}")
        return 0
    if padding == "same":
        if not 1 <= k < 2 * p or k % 2 == 0:
            raise ValueError(
                f"k must be odd and in 1..{2 * p - 1} for same convolution of {p} x {p} tokens, got {k}"
            )
        return k // 2
    raise ValueError(f"padding must be 'valid' or 'same', got {padding!r}")


@cache
def tap_table(p: int, k: int, padding: Padding) -> Tensor:
    """Which pixel of the kernel stands where in the matrix of its convolution: (outputs, p^2), 0 for none.

    The identity basis of the p x p maps, convolved with the kernel whose pixels are numbered 1 to k^2 row by
    row.
    """
    pixels = rearrange(torch.eye(p * p, dtype=torch.float64), "i (y x) -> i 1 y x", y=p)
    numbered = torch.arange(1.0, k * k + 1, dtype=torch.float64).reshape(1, 1, k, k)
    columns = conv2d(pixels, numbered, padding=_padded(p, k, padding))
    return rearrange(columns, "i 1 y x -> (y x) i").long()


def conv_scores(q: Tensor, k: Tensor) -> Tensor:
    """Attention scores by light: every query map correlated with every key map as kernel, over sqrt(pixels).

    ``q``, ``k``: (batch, tokens, height, width), a head counting as a batch entry. Returns (batch, tokens,
    tokens). For p x p maps the divisor is p and this is the scaled dot product of ViT.
    """
    batch, _, height, width = k.shape
    if (len(q), *q.shape[2:]) != (batch, height, width):
        raise ValueError(f"q and k must differ in tokens alone, got {tuple(q.shape)} and {tuple(k.shape)}")
    kernels = rearrange(k, "b j h w -> (b j) 1 h w")
    scores = conv2d(rearrange(q, "b i h w -> i b h w"), kernels, groups=batch)
    return rearrange(scores, "i (b j) 1 1 -> b i j", b=batch) / math.sqrt(height * width)


def conv_mix(attention: Tensor, v: Tensor) -> Tensor:
    """``O_i = sum_j A_ij v_j``: a 1 x 1 convolution over the token channels whose kernels are the attention.

    ``attention``: (batch, tokens, tokens). ``v``: (batch, tokens, height, width). Returns the shape of ``v``.
    """
    if (len(attention), attention.shape[2]) != v.shape[:2]:
        raise ValueError(
            "attention must be (batch, tokens, tokens) of v's batch and tokens, "
            f"got {tuple(attention.shape)} and {tuple(v.shape)}"
        )
    planes, kernels = rearrange(v, "b j h w -> 1 (b j) h w"), rearrange(attention, "b i j -> (b i) j 1 1")
    return rearrange(conv2d(planes, kernels, groups=len(v)), "1 (b i) h w -> b i h w", b=len(v))


def permutation_equivariance(blocks: Iterable[nn.Module], x: Tensor, generator: torch.Generator) -> float:
    """How much it matters in which order the tokens come: 0 where the blocks commute with a permutation.

    ``blocks`` map (batch, tokens, dim) to a tuple that starts with the same shape, as ``ViT.blocks`` do;
    positions are not among them. Returns the largest error over the largest output, for a random permutation
    of ``x``.
    """
    if x.shape[-2] < 2:
        raise ValueError(f"x must have at least 2 tokens to permute, got {tuple(x.shape)}")
    order = torch.randperm(x.shape[-2], generator=generator)
    straight, permuted = x, x[..., order, :]
    with torch.no_grad():
        for block in blocks:
            straight, permuted = block(straight)[0], block(permuted)[0]
    return float((straight[..., order, :] - permuted).abs().max() / straight.abs().max())


def _span_basis(p: int, k: int, padding: Padding) -> Tensor:
    """Orthonormal basis of the span of ``T_a^T T_c`` over one-dimensional taps a, c: (rank, p, p)."""
    pixels, taps = (torch.eye(size, dtype=torch.float64)[:, None] for size in (p, k))
    shifts = rearrange(conv1d(pixels, taps, padding=_padded(p, k, padding)), "i tap o -> tap o i")
    products = torch.einsum("aoi,coj->acij", shifts, shifts).reshape(-1, p * p)
    _, values, basis = torch.linalg.svd(products, full_matrices=False)
    rank = int((values > values[0] * max(products.shape) * torch.finfo(values.dtype).eps).sum())
    return basis[:rank].reshape(rank, p, p)


def projection_span_rank(p: int, k: int, padding: Padding) -> int:
    """Dimension of what query and key kernels can compare: the span of all ``T_q^T T_k``.

    A score is ``x_i^T T_q^T T_k x_j`` (summed over kernels), so attention sees a pair of tokens only through
    this subspace of the p^2 x p^2 matrices, of dimension p^4. It is an upper bound: one pair of kernels is
    one point. A two-dimensional tap is a product of two one-dimensional ones, so the rank is the square of
    the rank on a line, which is counted by SVD. Same padding, k <= p: ``(2 ((k+1)/2)^2 - 1)^2``.
    """
    return len(_span_basis(p, k, padding)) ** 2


def span_residual(target: Tensor, p: int, k: int, padding: Padding) -> float:
    """The part of ``target`` (p^2, p^2) outside the span of all ``T_q^T T_k``.

    ``|target - projection| / |target|`` in the Frobenius norm: 0 is inside, 1 is orthogonal to all of it.
    """
    basis = _span_basis(p, k, padding)
    if target.shape != (p * p, p * p) or not target.any():
        raise ValueError(f"target must be ({p * p}, {p * p}) and not zero, got {tuple(target.shape)}")
    matrix = rearrange(target.to(basis), "(y x) (i j) -> y x i j", y=p, i=p)
    inside = torch.einsum("ayi,bxj,yxij->ab", basis, basis, matrix)
    projection = torch.einsum("ayi,bxj,ab->yxij", basis, basis, inside)
    return float((matrix - projection).norm() / matrix.norm())


def transposition(p: int) -> Tensor:
    """The permutation matrix (p^2, p^2) that transposes a p x p map."""
    _padded(p, 1, "same")
    pixels = torch.arange(p * p).reshape(p, p)
    return torch.eye(p * p, dtype=torch.float64)[pixels.T.flatten()]


class SharedConv(nn.Module):
    """A linear layer made of k x k kernels that every token shares, or that each token owns.

    Acts on (..., tokens, d_in), d_in being some p x p maps, flattened. A kernel has one k x k face for each
    input map, sums over the maps, and makes (p-k+1)^2 outputs (valid) or one p x p map (same); d_out is
    these, flattened, kernel after kernel. An MLP of r maps in a same arm is r faces up, r faces down, summed.
    ``weight`` is (kernels, maps, k, k) with one ``bias`` per kernel, drawn as in ``nn.Conv2d``; for k = p
    these are also the numbers that ``nn.Linear`` draws. With ``tokens`` the kernels are unshared,
    (tokens * kernels, maps, k, k): what ``conv2d`` takes with ``groups=tokens``. The layer multiplies by
    ``dense_matrix``; ``by_conv2d`` makes it ``convolve``, the same map by its definition, slower.
    Raises ``ValueError`` if d_in is not whole maps or d_out not whole kernels.
    """

    table: Tensor

    def __init__(
        self,
        d_in: int,
        d_out: int,
        p: int,
        k: int,
        padding: Padding = "valid",
        tokens: int | None = None,
        by_conv2d: bool = False,
    ):
        super().__init__()
        self.p = p
        self.padded = _padded(p, k, padding)
        outputs = (p + 2 * self.padded - k + 1) ** 2
        if d_in < 1 or d_in % p**2:
            raise ValueError(f"d_in must be a multiple of p^2 = {p**2}, got {d_in}")
        if d_out < 1 or d_out % outputs:
            raise ValueError(
                f"d_out must be a multiple of {outputs}, what a {padding} {k} x {k} kernel makes of a "
                f"{p} x {p} token, got {d_out}"
            )
        if tokens is not None and tokens < 1:
            raise ValueError(f"tokens must be >= 1, or None to share the kernels, got {tokens}")
        self.tokens = tokens
        self.outputs = outputs
        self.by_conv2d = by_conv2d
        kernels, maps = (tokens or 1) * d_out // outputs, d_in // p**2
        self.weight = nn.Parameter(torch.empty(kernels, maps, k, k))
        self.bias = nn.Parameter(torch.empty(kernels))
        self.register_buffer("table", tap_table(p, k, padding).flatten(), persistent=False)
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        bound = 1 / math.sqrt(maps * k * k)
        nn.init.uniform_(self.bias, -bound, bound)

    def dense_matrix(self) -> Tensor:
        """The matrix of the convolution: (d_out, d_in), or (tokens, d_out, d_in) if kernels are unshared."""
        if self.outputs == 1:
            # A kernel as large as the token is a row of the matrix already.
            matrix = self.weight.flatten(1)
        else:
            taps = pad(self.weight.flatten(2), (1, 0))
            entries = taps.index_select(-1, self.table)
            matrix = rearrange(entries, "n m (o i) -> (n o) (m i)", o=self.outputs)
        return matrix if self.tokens is None else rearrange(matrix, "(t o) i -> t o i", t=self.tokens)

    def convolve(self, x: Tensor) -> Tensor:
        """The layer as the bench runs it: the kernels slide over every map. Shapes as in ``forward``."""
        tokens = x.shape[-2] if self.tokens else 1
        kernels = tokens * len(self.weight) // (self.tokens or 1)
        maps = x.reshape(-1, tokens * self.weight.shape[1], self.p, self.p)
        y = conv2d(maps, self.weight[:kernels], self.bias[:kernels], padding=self.padded, groups=tokens)
        return y.reshape(*x.shape[:-1], -1)

    def forward(self, x: Tensor) -> Tensor:
        """(..., tokens, d_in) -> (..., tokens, d_out). Unshared kernels also take the first tokens alone."""
        first = x.shape[-2]
        if self.tokens is not None and first > self.tokens:
            raise ValueError(f"x must have at most {self.tokens} tokens, got {tuple(x.shape)}")
        if self.by_conv2d:
            return self.convolve(x)
        bias = self.bias.repeat_interleave(self.outputs)
        if self.tokens is None:
            return linear(x, self.dense_matrix(), bias)
        matrices, biases = self.dense_matrix()[:first], bias.reshape(self.tokens, -1)[:first]
        return torch.einsum("...ti,toi->...to", x, matrices) + biases


class TokenNorm(nn.BatchNorm1d):
    """BatchNorm that normalises each token over batch and pixels, also when only the first tokens are given.

    Always with the statistics of the batch at hand, in evaluation too (FCSA: running averages): a running
    average is state that a mapped ensemble would have to share.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, p^2) -> the same shape."""
        first = x.shape[-2]
        return batch_norm(x, None, None, self.weight[:first], self.bias[:first], training=True, eps=self.eps)


class DepthwiseMLP(nn.Module):
    """FCSA's convolutional MLP: twice an unshared same 7 x 7 convolution, GELU, BatchNorm; it does not widen.

    ``ConvolutionalTransformer_dividing.py`` of riadibadulla/FCSA, whose "depthwise" is one kernel per token.
    """

    def __init__(self, p: int, tokens: int):
        super().__init__()
        self.layers = nn.Sequential()
        for _ in range(2):
            self.layers.append(SharedConv(p * p, p * p, p, 7, "same", tokens))
            self.layers.append(nn.GELU())
            self.layers.append(TokenNorm(tokens, track_running_stats=False))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, p^2) -> (batch, tokens, p^2), or the first few tokens alone."""
        return self.layers(x)


@dataclass(frozen=True)
class Arm:
    """One model of the comparison: how its linear layers are made. Everything else is ViT."""

    cell: int | None
    """Number in our 12-cell grid, since the paper's own is not known; None for additions to it."""
    padding: Padding | None = None
    """None: ``nn.Linear``."""
    kernel: int | None = None
    """Side of the kernels; None: as large as the token."""
    shared: bool = True
    mlp: Literal["as attention", "linear", "depthwise"] = "as attention"
    mixing: Mixing = "softmax"
    scale: float | None = None

    @property
    def words(self) -> str:
        """Its name in figures, such as ``"same, k = 3, unshared"``."""
        if self.mixing == "uniform":
            return "uniform attention"
        if self.padding is None:
            return "ViT"
        name = f"{self.padding}, k = {self.kernel or 'p'}"
        name += "" if self.scale is None else ", no 1/p"
        name += "" if self.mlp == "as attention" else f", {self.mlp} MLP"
        return name if self.shared else f"{name}, unshared"


ARMS = {
    "linear": Arm(1),
    "valid": Arm(2, "valid"),
    "valid5": Arm(3, "valid", 5),
    "unshared_valid": Arm(4, "valid", shared=False),
    "same3": Arm(5, "same", 3),
    "same5": Arm(None, "same", 5),
    "same7": Arm(6, "same", 7),
    "unshared_same3": Arm(7, "same", 3, shared=False),
    "unshared_same7": Arm(8, "same", 7, shared=False),
    "valid_unscaled": Arm(9, "valid", scale=1.0),
    "valid_linear_mlp": Arm(10, "valid", mlp="linear"),
    "valid_depthwise_mlp": Arm(11, "valid", mlp="depthwise"),
    "same7_linear_mlp": Arm(None, "same", 7, mlp="linear"),
    "uniform": Arm(12, mixing="uniform"),
}
"""The models by name; the MLP is made of the arm's own layers unless said otherwise.

A seed gives ``linear``, ``valid``, ``valid_linear_mlp``, ``valid_unscaled`` and ``uniform`` the same weights.
The first three are one function, so cells 1, 2 and 10 of the grid differ by rounding alone. ``uniform`` keeps
its query and key layers, unused, so that nothing but the mixing differs from ``linear``. ``same7_linear_mlp``
is cell 10's counterpart for a same arm, where it does differ."""


def convsharevit(
    arm: str,
    *,
    p: int,
    tokens: int,
    classes: int,
    depth: int = 2,
    heads: int = 4,
    mlp_ratio: int = 2,
    by_conv2d: bool = False,
) -> ViT:
    """The model named ``arm`` in ``ARMS`` over ``tokens`` cells of p x p pixels (CLS is added to them).

    ``by_conv2d`` runs every shared convolution as torch's ``conv2d`` and not as a matrix product.
    Raises ``ValueError`` for an unknown arm, for a p outside 2..32 or one that its kernels do not fit
    (``valid5`` needs (p-4)^2 to divide p^2), or if ``heads`` does not divide p^2.
    """
    if arm not in ARMS:
        raise ValueError(f"arm must be one of {', '.join(ARMS)}, got {arm!r}")
    if not 2 <= p <= 32:
        raise ValueError(f"p, the side of a token, must be in 2..32, got {p}")
    spec = ARMS[arm]

    def convolution(d_in: int, d_out: int) -> nn.Module:
        if spec.padding is None:
            return nn.Linear(d_in, d_out)
        owners = None if spec.shared else tokens + 1
        return SharedConv(d_in, d_out, p, spec.kernel or p, spec.padding, owners, by_conv2d)

    def mlp(dim: int, hidden: int) -> nn.Module:
        if spec.mlp == "depthwise":
            return DepthwiseMLP(p, tokens + 1)
        return MLP(dim, hidden, nn.Linear if spec.mlp == "linear" else convolution)

    return ViT(
        tokens=tokens,
        dim=p * p,
        depth=depth,
        heads=heads,
        mlp_ratio=mlp_ratio,
        classes=classes,
        linear=convolution,
        mlp=mlp,
        mixing=spec.mixing,
        scale=spec.scale,
    )


def twin_difference(vit: ViT, twin: ViT, probe: Probe) -> float:
    """Largest difference of two networks that should be one function, over the larger of what they compare.

    ``twin`` takes the weights of ``vit``, shape by shape. Compared are the logits of ``probe`` and the
    gradients of its cross-entropy, these as one vector: softmax does not see a key's bias, whose own gradient
    is rounding and nothing else. In the dtype of the networks.
    """
    shapes = {name: weight.shape for name, weight in twin.state_dict().items()}
    twin.load_state_dict({name: w.reshape(shapes[name]) for name, w in vit.state_dict().items()})

    def outputs_and_gradients(net: ViT) -> tuple[Tensor, Tensor]:
        logits, _ = net(probe.tokens.to(net.cls.dtype))
        gradients = torch.autograd.grad(cross_entropy(logits, probe.labels), tuple(net.parameters()))
        return logits.detach(), torch.cat([gradient.flatten() for gradient in gradients])

    pairs = zip(outputs_and_gradients(vit), outputs_and_gradients(twin), strict=True)
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


def light_error(
    x: Tensor,
    kernels: Tensor,
    padding: Padding,
    plane: int,
    pitch: int | None = None,
    shown: Tensor | None = None,
) -> float:
    """Largest difference between a layer made of light and torch's ``conv2d``.

    ``x``: (tokens, p, p), ``kernels``: (d_out, k, k), on a plane of so many pixels a side; ``shown`` is what
    the filter holds in place of the kernels. ``pitch`` and errors as in `light.optical_linear`.
    """
    filters = kernels if shown is None else shown
    made, _ = light.optical_linear(x, filters, plane, padding, mode="mix", pitch=pitch)
    truth = conv2d(x[:, None], kernels[:, None], padding=kernels.shape[-1] // 2 if padding == "same" else 0)
    return float((made - truth).abs().max())


def check_arms(parameter: str, arms: Iterable[str], p: int) -> None:
    """Refuse arms whose kernels do not fit tokens of p x p pixels.

    Raises ``ValueError`` naming the parameter that lists the arms, and each one that cannot be built.
    """
    problems = []
    for arm in arms:
        try:
            convsharevit(arm, p=p, tokens=1, classes=2, depth=1, heads=1)
        except ValueError as refused:
            problems.append(f"{parameter}: {arm!r} cannot be built with p = {p}: {refused}")
    if problems:
        raise ValueError("\n".join(problems))


def bench_passes(
    arm: str, shape: throughput.ViTShape, bench: throughput.Bench4f, batch: int | None = None
) -> tuple[int, dict[str, int]]:
    """Passes of light for one batch of an arm's network: (batch, {"static", "scores", "values"}).

    Counted as in `throughput.passes`, with the arm's own kernels. A layer is a pass for each pair of kernel
    and input map, for as many tokens as the plane holds. Valid kernels of side k make (p-k+1)^2 outputs each
    and their tiles abut, so a square layer of k = p takes p^2 passes. A same kernel makes a whole map, so
    the layer takes one, in tiles of side p + k//2. ``nn.Linear`` is valid with k = p. Unshared kernels take
    a pass for every token. The products of attention are the same for all arms, and counted for uniform
    mixing too, where a bench could do without. ``batch`` None fills the plane at the arm's widest tile, with
    one image at least.

    Raises ``ValueError`` for an unknown arm, a dim that is no square or that the arm's kernels do not divide,
    and for what `throughput.passes` refuses.
    """
    if arm not in ARMS:
        raise ValueError(f"arm must be one of {', '.join(ARMS)}, got {arm!r}")
    if shape.pitch**2 != shape.dim:
        raise ValueError(f"dim = {shape.dim}: expected a square, p x p pixels a token")
    layers = _bench_layers(ARMS[arm], shape)
    if batch is None:
        batch = max(1, light.capacity(bench.plane, max(pitch for _, pitch, _ in layers)) // shape.tokens)
    counted = throughput.passes(shape, bench, batch)
    counted["static"] = shape.depth * sum(
        light.linear_passes(shape.tokens * batch, products, bench.plane, pitch)
        if shared
        else shape.tokens * light.linear_passes(batch, products, bench.plane, pitch)
        for products, pitch, shared in layers
    )
    return batch, counted


def _bench_layers(arm: Arm, shape: throughput.ViTShape) -> list[tuple[int, int, bool]]:
    """The linear layers of a block, attention's and the MLP's: (kernels times maps, tile's side, shared)."""
    p = shape.pitch

    def layers(square: int, padding: Padding | None, k: int | None, shared: bool) -> tuple[int, int, bool]:
        """So many layers of dim -> dim; one that widens or narrows r times is r of them."""
        padding, k = padding or "valid", k or p
        pitch = p + _padded(p, k, padding)
        outputs = p * p if padding == "same" else (p - k + 1) ** 2
        if shape.dim % outputs:
            raise ValueError(f"dim = {shape.dim}: expected a multiple of the {outputs} outputs of a kernel")
        return square * (shape.dim // outputs), pitch, shared

    attention = layers(4, arm.padding, arm.kernel, arm.shared)
    if arm.mlp == "depthwise":
        return [attention, layers(2, "same", 7, False)]
    if arm.mlp == "linear":
        return [attention, layers(2 * shape.mlp_ratio, "valid", p, True)]
    return [attention, layers(2 * shape.mlp_ratio, arm.padding, arm.kernel, arm.shared)]


def matrix_macs(shape: throughput.ViTShape) -> int:
    """Multiply-accumulates of an image through all blocks, layers as matrices: L T d ((4 + 2r) d + 2T)."""
    return shape.depth * shape.tokens * shape.dim * ((4 + 2 * shape.mlp_ratio) * shape.dim + 2 * shape.tokens)
