"""GLMix is the network of its authors, and what the chapter measures fails where its slots are gone."""

import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score
from torch import nn
from torch.func import functional_call
from torch.nn.functional import adaptive_avg_pool2d, conv2d, cross_entropy, gelu

from fourfold import cost
from fourfold.data.probes import Images
from fourfold.hybrids.glmix import (
    HEIGHT,
    REACH,
    RELEASED,
    WIDTH,
    AloneAttention,
    Excitation,
    FarReadout,
    GLNet,
    LocalBranch,
    Mlp,
    PixelAttention,
    PooledMean,
    Shell,
    SlotBranch,
    Sum,
    dispatch,
    effective_tokens,
    far_readout,
    glmix_block,
    logits_of,
    mhsa_block,
    mutual_information,
    soft_cluster,
    two_means,
)
from fourfold.judging import parameters, records
from fourfold.training import Recipe, seeded, shuffled, train

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}


def on_meta(make):
    with torch.device("meta"):
        return make()


# --- oracles ----------------------------------------------------------------------------------------------


def torchs_attention(ours: nn.Module, dim: int, heads: int) -> nn.MultiheadAttention:
    theirs = nn.MultiheadAttention(dim, heads, batch_first=True).double()
    names = {"in_proj_": ours.qkv, "out_proj.": ours.projection}
    theirs.load_state_dict(
        {
            f"{name}{field}": value
            for name, layer in names.items()
            for field, value in layer.state_dict().items()
        }
    )
    return theirs


def test_cluster_and_dispatch_are_the_slow_loop_over_slots_and_tokens():
    queries, tokens, tau = normal(2, 3, 5), normal(2, 7, 5, seed=1), 1.7
    slots, logits = soft_cluster(queries, tokens, tau)
    spread = dispatch(logits, slots)
    for image in range(2):
        cosine = [[float(q @ t / (q.norm() * t.norm())) for t in tokens[image]] for q in queries[image]]
        weights = torch.tensor(cosine, dtype=torch.float64).mul(tau).exp()
        for m in range(3):
            mean = sum(weights[m, n] * tokens[image, n] for n in range(7)) / weights[m].sum()
            torch.testing.assert_close(slots[image, m], mean, **EXACT)
        for n in range(7):
            mean = sum(weights[m, n] * slots[image, m] for m in range(3)) / weights[:, n].sum()
            torch.testing.assert_close(spread[image, n], mean, **EXACT)


@pytest.mark.parametrize(("slots", "how"), [(4, "ada_avgpool"), (3, "param")])
@pytest.mark.parametrize("position_kernel", [0, 3])
def test_the_block_is_the_papers_written_down_with_torchs_attention(jolted, slots, how, position_kernel):
    dim, heads = 6, 2
    block = jolted(
        glmix_block, dim, heads, slots, how, kernel=3, mlp_ratio=2,
        position_kernel=position_kernel, mlp_depthwise=True, layer_scale=0.5,
    )  # fmt: skip
    branch, local = block.mixer.mixers
    x = normal(2, dim, 5, 7)
    out = block(x)

    queries = branch.slots0.expand(2, -1, -1) if how == "param" else adaptive_avg_pool2d(x, 2).flatten(2).mT
    if position_kernel:
        x = x + conv2d(x, block.position.weight, block.position.bias, padding=1, groups=dim)
    u = block.norm_mixer(x)
    tokens = u.flatten(2).mT
    cosine = (queries / queries.norm(dim=-1, keepdim=True)) @ (tokens / tokens.norm(dim=-1, keepdim=True)).mT
    grouped = (branch.tau * cosine).softmax(2) @ tokens
    mixed, _ = torchs_attention(branch.attention, dim, heads)(grouped, grouped, grouped)
    spread = ((branch.tau * cosine).softmax(1).mT @ mixed).mT.reshape(u.shape)
    convolved = local.leave(local.depthwise(local.enter(u)))
    x = x + block.scales[0] * (spread + convolved)
    hidden = block.mlp.up(block.norm_mlp(x))
    hidden = hidden + conv2d(
        hidden, block.mlp.depthwise.weight, block.mlp.depthwise.bias, padding=1, groups=2 * dim
    )
    torch.testing.assert_close(out, x + block.scales[1] * block.mlp.down(gelu(hidden)), **EXACT)


@pytest.mark.parametrize("plain", [False, True])
def test_the_block_beside_it_is_torchs_attention_between_all_tokens(jolted, plain):
    block = jolted(mhsa_block, 8, 2, plain, mlp_ratio=2)
    x = normal(2, 8, 3, 5)
    tokens = x.flatten(2).mT
    norm = nn.LayerNorm(8, eps=1e-6).double()
    norm.load_state_dict(block.norm_mixer.state_dict())
    normed = norm(tokens)
    attention = torchs_attention(block.mixer.attention, 8, 2)
    mixed = x + attention(normed, normed, normed)[0].mT.reshape(x.shape)
    if plain:
        norm.load_state_dict(block.norm_mlp.state_dict())
        second = norm(mixed.flatten(2).mT).mT.reshape(x.shape)
    else:
        second = block.norm_mlp(mixed)
    expected = mixed + block.mlp.down(gelu(block.mlp.up(second)))
    torch.testing.assert_close(block(x), expected, **EXACT)


def test_with_a_large_tau_and_a_slot_for_each_token_the_slots_are_attention_between_tokens():
    with seeded(0):
        branch = SlotBranch(8, 2, 16, tau0=1e4).double()
    u = normal(2, 8, 4, 4)
    tokens = u.flatten(2).mT
    expected = torchs_attention(branch.attention, 8, 2)(tokens, tokens, tokens)[0].mT.reshape(u.shape)
    torch.testing.assert_close(branch(u, u), expected, **EXACT)


def test_without_contrast_every_token_gets_the_mean_token(jolted):
    branch = jolted(SlotBranch, 8, 2, 4)
    branch.tau.data.zero_()
    u, x = normal(2, 8, 5, 5), normal(2, 8, 5, 5, seed=1)
    mean = u.mean((2, 3))
    layer = branch.attention.qkv
    expected = branch.attention.projection(mean @ layer.weight[16:].T + layer.bias[16:])
    torch.testing.assert_close(branch(u, x), expected[..., None, None].expand_as(u), **EXACT)


def test_published_parameters_and_costs():
    sizes = cost.table({name: lambda s=spec: GLNet(s) for name, spec in RELEASED.items()}, (1, 3, 224, 224))
    assert sizes.parameters.to_dict() == {
        "STL": 30_296_786,
        "STL, learned slots": 30_481_106,
        "4G": 27_001_593,
        "9G": 60_010_617,
        "16G": 106_055_161,
    }
    # Counted on the official classes.
    for name, giga in (("STL", 4.347), ("4G", 4.482), ("9G", 9.588), ("16G", 16.604)):
        assert abs(sizes.macs[name] / 1e9 - giga) < 1e-3


@pytest.mark.parametrize(("side", "dim", "slots", "ratio"), [(14, 96, 64, 4), (7, 32, 16, 2)])
def test_a_block_costs_its_closed_form(side, dim, slots, ratio):
    tokens, heads = side * side, dim // 32
    mlp = 2 * ratio * tokens * dim**2
    local = 2 * tokens * dim**2 + 25 * tokens * dim
    between = 4 * slots * dim**2 + 2 * slots**2 * dim
    block = glmix_block(dim, heads, slots, mlp_ratio=ratio)
    assert cost.macs(block, (1, dim, side, side)) == mlp + local + 3 * tokens * slots * dim + between
    dense = mhsa_block(dim, heads, mlp_ratio=ratio)
    assert cost.macs(dense, (1, dim, side, side)) == mlp + 4 * tokens * dim**2 + 2 * tokens**2 * dim


def test_the_share_that_is_quadratic_is_the_closed_form_of_attention():
    spec = RELEASED["4G"]
    small, middle, large = (
        cost.macs(on_meta(lambda: GLNet(spec)), (1, 3, side, side)) for side in (128, 256, 512)
    )
    quadratic = ((large - middle) / 0.75 - (middle - small) / 0.1875) / (1 - 0.0625)
    # Half of the third stage's 18 blocks on 32 x 32 tokens, and all 4 of the last on 16 x 16.
    assert quadratic == 9 * 2 * 1024**2 * 256 + 4 * 2 * 256**2 * 512


# --- the parts --------------------------------------------------------------------------------------------


def test_queries_are_the_input_before_position_and_norm(jolted):
    block = jolted(glmix_block, 4, 2, 4, position_kernel=3)
    seen = []
    block.mixer.mixers[0].register_forward_pre_hook(lambda _, given: seen.append(given))
    x = normal(1, 4, 6, 6)
    block(x)
    u, raw = seen[0]
    assert torch.equal(raw, x)
    torch.testing.assert_close(u, block.norm_mixer(x + block.position(x)), **EXACT)


@pytest.mark.parametrize("size", [(5, 7), (4, 16), (1, 3), (8, 8)])
def test_any_map_can_be_clustered(size):
    block = glmix_block(8, 2, 16)
    assert block(torch.randn(2, 8, *size)).shape == (2, 8, *size)


def test_tau_starts_as_released_unless_told_and_is_learned():
    assert SlotBranch(64, 2).tau.item() == 64**-0.5
    branch = SlotBranch(64, 2, tau0=8.0)
    assert branch.tau.item() == 8
    u = torch.randn(2, 64, 8, 8)
    branch(u, u).square().sum().backward()
    assert branch.tau.grad != 0


def test_gradients_are_right_in_float64():
    branch = SlotBranch(4, 2, 4).double()
    weights = dict(branch.named_parameters())

    def apply(u, x, *values):
        return functional_call(branch, dict(zip(weights, values, strict=True)), (u, x))

    u, x = normal(1, 4, 5, 5).requires_grad_(), normal(1, 4, 5, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(apply, (u, x, *weights.values()), eps=1e-6, atol=1e-5)


def test_a_released_network_starts_as_the_official_one():
    with seeded(0):
        net = GLNet(RELEASED["STL"]._replace(depths=(1, 1, 1, 1)))
    branch = net.stages[1][0].mixer.mixers[0]
    assert branch.attention.qkv.weight.abs().max() <= (1.5 / 192) ** 0.5
    assert branch.attention.qkv.weight.abs().max() > 0.9 * (1.5 / 192) ** 0.5
    assert abs(branch.attention.projection.weight.std().item() - 0.02) < 1e-3
    assert abs(net.stages[3][0].mlp.up.weight.std().item() - 0.02) < 1e-3
    assert net.stages[0][0].mlp.up.weight.std().item() > 0.05
    with torch.no_grad():
        assert net.eval()(torch.randn(1, 3, 64, 96)).shape == (1, 1000)


# --- what stands beside it ----------------------------------------------------------------------------------


def test_attention_alone_is_attention_on_a_map_of_one_token(jolted):
    alone = jolted(AloneAttention, 8, 2)
    dense = PixelAttention(8, 2).double()
    dense.load_state_dict(alone.state_dict())
    u = normal(2, 8, 3, 4)
    torch.testing.assert_close(alone(u, u)[..., 1:2, 2:3], dense(u[..., 1:2, 2:3], u), **EXACT)
    assert (alone(u, u) - dense(u, u)).abs().max() > 1e-2


def test_the_pooled_mean_is_the_same_everywhere_and_excitation_scales_the_convolution():
    u = normal(2, 8, 3, 4)
    pooled = PooledMean(8).double()
    torch.testing.assert_close(pooled(u, u)[:, :, 2, 1], pooled.linear(u.mean((2, 3))), **EXACT)
    assert (pooled(u, u).std((2, 3)) < 1e-12).all()
    excited, plain = Excitation(8, 3).double(), LocalBranch(8, 3).double()
    plain.load_state_dict(excited.state_dict(), strict=False)
    gates = excited(u, u) / plain(u, u)
    torch.testing.assert_close(gates, gates[..., :1, :1].expand_as(gates), rtol=1e-9, atol=0)
    assert 0 < gates.min() < gates.max() < 1


def test_two_means_are_scikit_learns():
    values = normal(5, 60)
    values[:, ::3] += 4
    for row, ours in zip(values, two_means(values), strict=True):
        start = [[float(row.min())], [float(row.max())]]
        theirs = KMeans(2, init=start, n_init=1, max_iter=100).fit_predict(row[:, None].numpy())
        assert ours.tolist() == theirs.tolist()


# --- what the chapter measures ----------------------------------------------------------------------------


def test_mutual_information_is_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    groups = torch.randint(5, (6, 40), generator=generator)
    truth = torch.randint(2, (6, 40), generator=generator)
    groups[1], truth[2], groups[3], truth[3], truth[4] = 0, 1, 2, 0, groups[4]
    ours = mutual_information(groups, truth)
    theirs = [
        normalized_mutual_info_score(t, g) for g, t in zip(groups.tolist(), truth.tolist(), strict=True)
    ]
    torch.testing.assert_close(ours, torch.tensor(theirs, dtype=torch.float64), rtol=0, atol=1e-10)


def test_effective_tokens_are_all_without_contrast_and_one_with_much():
    logits = torch.zeros(2, 3, 50)
    torch.testing.assert_close(effective_tokens(logits), torch.full((2, 3), 50.0))
    logits[..., 7] = 100
    torch.testing.assert_close(effective_tokens(logits), torch.ones(2, 3))
    # The released start: cosines lie in -1..1, so that no slot can be narrow.
    dim = 32
    queries, tokens = normal(1, 16, dim), normal(1, 64, dim, seed=1)
    assert effective_tokens(soft_cluster(queries, tokens, dim**-0.5)[1]).min() > 0.98 * 64


def test_logits_are_found_in_every_block_and_hooks_are_gone():
    net = FarReadout(8, [glmix_block(8, 2, 4, kernel=3, mlp_ratio=1) for _ in range(2)]).eval()
    found = logits_of(net, torch.randn(3, 1, HEIGHT, WIDTH))
    assert [tuple(logits.shape) for logits in found] == [(3, 4, HEIGHT * WIDTH // 4)] * 2
    assert not any(module._forward_hooks for module in net.modules())


def some_digits(n: int = 40, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    return Images(torch.rand(n, 8, 8, generator=generator) + 0.1, torch.arange(n) % 2)


def test_digits_lie_within_reach_and_are_whole():
    digits = some_digits(200)
    canvases = far_readout(digits, torch.Generator().manual_seed(0)).images
    assert canvases.shape == (200, 1, HEIGHT, WIDTH)
    torch.testing.assert_close(canvases.sum((1, 2, 3)), digits.images.sum((1, 2)))
    columns = canvases.sum((0, 1, 2)) > 0
    assert columns[:REACH].all()
    assert not columns[REACH:].any()
    again = far_readout(digits, torch.Generator().manual_seed(0)).images
    assert torch.equal(canvases, again)


@pytest.mark.parametrize("kernel", [3, 5])
def test_what_only_convolves_cannot_see_the_digit(jolted, kernel):
    def net(mixer):
        return FarReadout(8, [Shell(8, mixer(), mlp_ratio=1) for _ in range(2)])

    canvas = far_readout(some_digits(2), torch.Generator().manual_seed(0)).images.double()
    blind = jolted(net, lambda: Sum(LocalBranch(8, kernel)))
    torch.testing.assert_close(blind(canvas), blind(torch.zeros_like(canvas)), **EXACT)
    slots = jolted(net, lambda: Sum(SlotBranch(8, 2, 4), LocalBranch(8, kernel)))
    assert (slots(canvas) - slots(torch.zeros_like(canvas))).abs().max() > 1e-3


def bars(n: int, seed: int) -> Images:
    """Digits with a bright bar, upright (1) or lying (0), far from what is read."""
    digits = Images(torch.zeros(n, 8, 8), torch.arange(n) % 2)
    for image, label in zip(digits.images, digits.labels, strict=True):
        (image[:, 3:5] if label else image[3:5]).fill_(2)
    return far_readout(digits, torch.Generator().manual_seed(seed))


def learned(labels=None):
    given, test = bars(80, 0), bars(40, 1)
    return train(
        lambda: FarReadout(8, [glmix_block(8, 2, 4, tau0=8.0, kernel=3, mlp_ratio=1) for _ in range(2)], 2),
        (0,),
        shuffled(given.images, given.labels if labels is None else labels),
        (test.images[None], test.labels[None]),
        Recipe(epochs=6, batch=10, lr=1e-2),
        together=False,
    )


def test_it_learns_and_does_not_where_the_labels_say_nothing(learns_only_from_labels):
    learns_only_from_labels(learned)


# --- mutations --------------------------------------------------------------------------------------------


def every_token_a_slot(slots0, tokens, tau):
    """Nothing is clustered: every token is a slot of its own."""
    return tokens, tau * tokens @ tokens.mT


def one_convolution_less(self, dim, kernel=5):
    """The local branch ends with its depthwise convolution."""
    nn.Module.__init__(self)
    self.enter = nn.Conv2d(dim, dim, 1)
    self.depthwise = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)
    self.leave = nn.Identity()


def same_for_all_tokens(logits, slots):
    """Every token gets the mean of all slots, whatever it looks like."""
    return slots.mean(1, keepdim=True).expand(-1, logits.shape[-1], -1)


def uniform_clusters(slots0, tokens, tau):
    """Every slot is the mean of the whole map, and every token gets the mean of the slots."""
    logits = torch.zeros(len(tokens), slots0.shape[1], tokens.shape[1]).to(tokens)
    return logits.softmax(-1) @ tokens, logits


MUTATIONS = [
    ("soft_cluster", every_token_a_slot),
    ("LocalBranch.__init__", one_convolution_less),
    ("dispatch", same_for_all_tokens),
    ("soft_cluster", uniform_clusters),
]


@pytest.mark.parametrize(("target", "mutation"), MUTATIONS)
def test_what_is_mutated_still_trains(monkeypatch, target, mutation):
    monkeypatch.setattr(f"fourfold.hybrids.glmix.{target}", mutation)
    x, y = bars(10, 0)
    net = FarReadout(8, [glmix_block(8, 2, 4, kernel=3, mlp_ratio=1) for _ in range(2)], 2)
    cross_entropy(net(x), y).backward()
    for name, weight in net.named_parameters():
        # What a mutation takes out, tau, is asked for no more.
        assert weight.grad is None or weight.grad.isfinite().all(), name


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dim": 33}, "dim = 33: expected a multiple of heads, which is 2"),
        ({"num_slots": 8}, r"num_slots = 8: expected int, 4 \| 16 \| 64"),
        ({"n_train": 610}, "n_train = 610: expected a multiple of 25"),
        ({"n_grouped": 390, "n_test": 60}, "n_grouped = 390: expected at most n_test, which is 60"),
        ({"depth": 3}, r"depth = 3: expected int, 1\.\.2"),
        ({"local_kernel": 7}, r"local_kernel = 7: expected int, 3 \| 5"),
    ],
)
def test_parameters_that_no_network_can_have_are_refused_by_name(given, message):
    record = records.load("glmix")
    with pytest.raises(parameters.ParameterError, match=message):
        parameters.validate(record, record.values("quick") | given)


STL = RELEASED["STL"]
REFUSED = [
    (lambda: SlotBranch(8, 2, 6), "num_slots must be a square number if slots are pooled, got 6"),
    (lambda: SlotBranch(8, 2, 0), "num_slots must be >= 1, got 0"),
    (lambda: SlotBranch(8, 3), "heads must be >= 1 and divide channels, got 3 and 8"),
    (
        lambda: SlotBranch(8, 2, slot_init="conv"),
        "slot_init must be one of .*, got 'conv'",
    ),
    (lambda: SlotBranch(8, 2, tau0=0.0), "tau0 must be finite and > 0, got 0"),
    (lambda: LocalBranch(8, 4), "kernel must be odd and >= 1, got 4"),
    (lambda: Shell(8, nn.Identity(), position_kernel=2), "position_kernel must be odd and >= 1, got 2"),
    (lambda: Mlp(8, 0), "ratio must be >= 1, got 0"),
    (lambda: GLNet(STL, classes=0), "classes must be >= 1, got 0"),
    (
        lambda: GLNet(STL._replace(dims=(96, 192, 384, 760))),
        "HEAD_DIM must .* divide dim = 760",
    ),
    (lambda: GLNet(STL._replace(mixing=("conv",) * 4)), "mixing must be one of .*, got 'conv'"),
    (
        lambda: soft_cluster(torch.zeros(1, 4, 8), torch.zeros(1, 9, 6), 1.0),
        r"expected slots0 .* got \(1, 4, 8\) and \(1, 9, 6\)",
    ),
    (
        lambda: mutual_information(torch.zeros(1, 4).long(), torch.zeros(1, 5).long()),
        r"groups and truth must have one shape, got \(1, 4\) and \(1, 5\)",
    ),
    (
        lambda: far_readout(Images(torch.zeros(1, 9, 8), torch.zeros(1)), torch.Generator()),
        r"height must be in 1\.\.8, got 9",
    ),
    (
        lambda: far_readout(Images(torch.zeros(1, 8, 14), torch.zeros(1)), torch.Generator()),
        r"width must be in 1\.\.13, got 14",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
