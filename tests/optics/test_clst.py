"""ClST: attention against torch's, projection against CvT's, distillation against its limit, counts."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.nn.functional import (
    cross_entropy,
    kl_div,
    log_softmax,
    multi_head_attention_forward,
    scaled_dot_product_attention,
    softmax,
)
from transformers.models.cvt.modeling_cvt import CvtSelfAttentionConvProjection

from fourfold import cost, training
from fourfold.data import signals
from fourfold.judging import parameters, records
from fourfold.optics.clst import (
    KDCNN,
    LSTM,
    PSCA,
    ClST,
    Config,
    ConvEmbed,
    ConvProjection,
    CrossCovariance,
    CTPBlock,
    KDMobileNet,
    PatchEmbed,
    PatchViT,
    kd_loss,
)

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}


def built(make, seed=0, dtype=torch.float64):
    with training.seeded(seed):
        return make().to(dtype)


# --- attention --------------------------------------------------------------------------------------------


def identity_psca(dim, heads, dtype, identity=True):
    psca = built(lambda: PSCA(dim, heads, "none"), dtype=dtype)
    for projection in (psca.query, psca.key, psca.value):
        projection.norm = nn.Identity()
        if identity:
            projection.depthwise.weight.data = torch.tensor([0, 1, 0], dtype=dtype).expand(dim, 1, 3).clone()
    return psca


def torch_attention(psca, u):
    projections = [layer.pointwise for layer in (psca.query, psca.key, psca.value)]
    by_time = u.transpose(0, 1)
    out, weights = multi_head_attention_forward(
        by_time, by_time, by_time, u.shape[-1], psca.heads,
        torch.cat([layer.weight for layer in projections]), torch.cat([layer.bias for layer in projections]),
        None, None, False, 0.0, psca.projection.weight, psca.projection.bias, average_attn_weights=False,
    )  # fmt: skip
    return out.transpose(0, 1), weights


@pytest.mark.parametrize(("dim", "heads", "tokens"), [(24, 2, 64), (48, 4, 32), (6, 1, 7), (9, 3, 1)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_with_identity_kernels_psca_is_multi_head_attention(dim, heads, tokens, dtype, tolerance):
    u = normal(3, tokens, dim, dtype=dtype)
    psca = identity_psca(dim, heads, dtype)
    for ours, theirs in zip(psca(u), torch_attention(psca, u), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def test_with_random_kernels_it_is_not():
    psca, u = identity_psca(24, 2, torch.float64, identity=False), normal(3, 16, 24)
    assert (psca(u)[0] - torch_attention(psca, u)[0]).abs().max() > 0.01


@pytest.mark.parametrize(("tokens", "stride", "kept"), [(32, 1, 32), (32, 2, 16), (7, 2, 4), (1, 2, 1)])
def test_attention_over_fewer_keys_is_scaled_dot_product(tokens, stride, kept):
    psca, u = built(lambda: PSCA(12, 3, "none", stride)).eval(), normal(2, tokens, 12)
    out, attention = psca(u)
    assert attention.shape == (2, 3, tokens, kept)
    q, k, v = (x.unflatten(-1, (3, 4)).transpose(1, 2) for x in (psca.query(u), psca.key(u), psca.value(u)))
    mixed = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(out, psca.projection(mixed), **EXACT)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("training_mode", [True, False])
def test_the_projection_is_cvts_on_a_map_of_one_row(stride, training_mode):
    ours = built(lambda: ConvProjection(6, stride)).train(training_mode)
    theirs = CvtSelfAttentionConvProjection(6, 3, 1, stride).double().train(training_mode)
    with torch.no_grad():
        theirs.convolution.weight[:, :, 1] = ours.depthwise.weight
        ours.norm.weight.copy_(normal(6))
        theirs.normalization.weight.copy_(ours.norm.weight)
    u = normal(4, 9, 6)
    expected = theirs(u.transpose(1, 2)[:, :, None])[:, :, 0].transpose(1, 2)
    torch.testing.assert_close(ours(u), ours.pointwise(expected), **EXACT)


@pytest.mark.parametrize("dim", [24, 5, 2])
def test_a_gate_of_ones_is_a_skip(dim):
    gated, u = built(lambda: PSCA(dim, 1, "se")).eval(), normal(3, 10, dim)
    plain = built(lambda: PSCA(dim, 1, "none")).eval()
    plain.load_state_dict({n: v for n, v in gated.state_dict().items() if not n.startswith("channel")})
    torch.testing.assert_close(gated(u)[0], plain(u)[0] + u * gated.channel.weights(u), **EXACT)
    assert (gated(u)[0] - plain(u)[0] - u).abs().max() > 0.1
    nn.init.zeros_(gated.channel.up.weight)
    nn.init.constant_(gated.channel.up.bias, 100)
    torch.testing.assert_close(gated(u)[0], plain(u)[0] + u, **EXACT)


def test_cross_covariance_mixes_channels_and_forgets_the_order_of_time():
    xca, (q, k, v) = CrossCovariance().double(), normal(3, 2, 11, 5)
    weights = xca.weights(q, k)
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 5, dtype=torch.float64))
    cosine = torch.nn.functional.cosine_similarity(k[:, :, :, None], q[:, :, None, :], dim=1)
    torch.testing.assert_close(weights, cosine.softmax(1), **EXACT)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    mixed, again = xca(q, q, k, v), xca(q, q[:, order], k[:, order], v[:, order])
    torch.testing.assert_close(mixed[:, order], again, **EXACT)


def test_convolutions_tell_left_from_right_and_linear_projections_do_not():
    u = normal(2, 12, 8)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    for projection, least, most in (("linear", 0, 1e-12), ("conv", 0.01, 10)):
        block = built(partial(CTPBlock, 8, 2, projection=projection)).eval()
        error = (block(u)[0][:, order] - block(u[:, order])[0]).abs().max()
        assert least <= error <= most, projection


# --- models -----------------------------------------------------------------------------------------------


def test_sizes_are_the_prototypes():
    """Counts of the networks with which the thresholds were set."""
    models = {"ClST": ClST, "CNN": partial(KDCNN, 24), "student": partial(KDCNN, 8)}
    assert cost.table(models, (1, 2, 128)).parameters.tolist() == [31_082, 13_760, 1_776]


def clst_macs(config: Config, length: int = 128) -> int:
    total, before, n = 0, 2, length
    for c, k, t, h, d in zip(
        config.dims, config.kernels, config.strides, config.heads, config.depths, strict=True
    ):
        n = -(-n // t)
        total += n * k * before * c
        kv = -(-n // config.kv_stride)
        projections = (n + 2 * kv) * (3 * c + c * c) + n * c * c
        gate = 2 * c * (c // 4) if config.channel == "se" else 0
        total += d * (projections + 2 * n * kv * c + gate + 2 * n * c * 2 * c)
        before = c
        assert c % h == 0
    return total + before * config.classes


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(channel="none", kv_stride=2),
        Config((64, 128, 256), (7, 3, 3), (2, 2, 2), (2, 4, 8), (1, 2, 4)),
    ],
)
def test_multiply_accumulates_by_formula(config):
    assert cost.macs(ClST(config), (1, 2, 128)) == clst_macs(config)


def test_students_multiply_accumulates_by_formula():
    w = 8
    cnn = 64 * 14 * w + 32 * 5 * 2 * w**2 + 16 * 3 * 4 * w**2 + 16 * w
    mobile = 64 * 14 * w + 32 * (3 * w + 2 * w**2) + 16 * (6 * w + 4 * w**2) + 16 * w
    assert cost.macs(KDCNN(w), (1, 2, 128)) == cnn
    assert cost.macs(KDMobileNet(w), (1, 2, 128)) == mobile


KINDS = {
    "clst": ClST,
    "kv": partial(ClST, Config(kv_stride=2)),
    "xca": partial(ClST, Config(channel="xca")),
    "none": partial(ClST, Config(channel="none")),
    "patches": partial(ClST, Config(embedding="patches")),
    "linear": partial(ClST, Config(projection="linear")),
    "three": partial(ClST, Config((8, 8, 16), (7, 3, 3), (2, 2, 2), (2, 2, 4), (1, 2, 1))),
    "vit": partial(PatchViT, 24, 4, 2),
    "lstm": partial(LSTM, 24),
    "cnn": KDCNN,
    "mobilenet": partial(KDMobileNet, 2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_network_trains_all_it_has_and_repeats_itself(kind):
    data = signals.make_frames(64, [10], training.stream(0, "frames"))
    runs = [
        training.train(
            KINDS[kind], [3], training.shuffled(data.frames, data.labels),
            (data.frames[None], data.labels[None]), training.Recipe(epochs=2, batch=32, lr=5e-3),
            together=False,
        )
        for _ in range(2)
    ]  # fmt: skip
    assert torch.equal(runs[0].loss, runs[1].loss)
    with training.seeded(3):
        start = dict(KINDS[kind]().named_parameters())
    for name, value in runs[0].parameters.items():
        assert value.isfinite().all()
        # A key's bias shifts all scores alike; only rounding and weight decay move it.
        if name in start and not name.endswith("key.pointwise.bias"):
            assert not torch.equal(value[0], start[name]), name


@pytest.mark.parametrize("length", [128, 64, 30, 17])
@pytest.mark.parametrize("kind", ["clst", "kv", "xca", "none", "linear", "cnn", "mobilenet"])
def test_frames_of_other_and_odd_lengths(kind, length):
    net = built(KINDS[kind]).eval()
    out = net(normal(2, 2, length))
    logits = out if isinstance(out, torch.Tensor) else out[0]
    assert logits.shape == (2, 8)
    if not isinstance(out, torch.Tensor):
        first = -(-length // 2)
        assert [a.shape[2] for a in out[1]] == [first, -(-first // 2)]
        for attention in out[1]:
            torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]).double())


def test_patches_do_not_overlap_and_convolutions_do():
    for embed, reached in ((PatchEmbed(2, 4, 2), 1), (ConvEmbed(2, 4, 7, 2).eval(), 4)):
        x = torch.zeros(1, 2, 32)
        touched = x.clone()
        touched[..., 16] = 1
        changed = (embed(x) - embed(touched)).abs().amax(-1)[0] > 1e-6
        assert changed.sum() <= reached
        assert changed.sum() >= reached - 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConvEmbed(2, 3, 3, 2),
        lambda: CTPBlock(4, 2),
        lambda: CTPBlock(4, 2, channel="xca"),
        lambda: CTPBlock(4, 2, kv_stride=2),
    ],
)
def test_gradients(make):
    net = built(make)
    shape = (3, 2, 7) if isinstance(net, ConvEmbed) else (3, 5, 4)
    x = normal(*shape).requires_grad_()

    def forward(x):
        out = net(x)
        return out if isinstance(out, torch.Tensor) else out[0]

    assert gradcheck(forward, (x,), atol=1e-6)


# --- distillation -----------------------------------------------------------------------------------------


def test_loss_is_cross_entropy_and_kl_in_torchs_words():
    zs, zt, y = normal(9, 8, seed=1), normal(9, 8, seed=2), torch.arange(9) % 8
    soft = kl_div(log_softmax(zs / 3, -1), log_softmax(zt / 3, -1), log_target=True, reduction="sum") / 9
    torch.testing.assert_close(kd_loss(zs, zt, y), 0.3 * cross_entropy(zs, y) + 0.7 * 9 * soft, **EXACT)
    torch.testing.assert_close(kd_loss(zs, zs, y, 2.0, 1.0), torch.tensor(0.0).double(), **EXACT)
    assert torch.equal(kd_loss(zs, zt, y, 5.0, 0.0), cross_entropy(zs, y))
    assert gradcheck(lambda z: kd_loss(z, zt, y), (zs.requires_grad_(),))


def test_a_hot_teacher_is_matched_in_its_logits():
    zs, zt = normal(2, 64, 8)
    zs = zs.clone().requires_grad_()
    centred = ((zs - zt) - (zs - zt).mean(1, keepdim=True)).detach() / 8 / 64
    errors = []
    for T in (1.0, 10.0, 100.0, 1000.0):
        (gradient,) = torch.autograd.grad(kd_loss(zs, zt, torch.zeros(64).long(), T, 1.0), zs)
        errors.append(float((gradient - centred).norm() / centred.norm()))
        exact = T * (softmax(zs.detach() / T, -1) - softmax(zt / T, -1)) / 64
        torch.testing.assert_close(gradient, exact, rtol=0, atol=1e-12)
    assert errors[0] > 0.1
    assert errors[2] < 0.01
    assert errors[2] / errors[3] == pytest.approx(10, rel=0.05)


def taught(loss):
    """KD-CNN trained on 320 frames; the teacher's logits travel with the labels."""
    data = signals.make_frames(320, [10, 14], training.stream(1, "frames"))
    answers = 6 * torch.eye(8)[data.labels]  # a teacher that is right and says so
    targets = torch.cat([data.labels[:, None].float(), answers], 1)
    return training.train(
        KDCNN, [5], training.shuffled(data.frames, targets), (data.frames[None], targets[None]),
        training.Recipe(epochs=12, batch=64, lr=0.02), loss=loss, together=False,
        score=lambda out, y: training.accuracy(out, y[..., 0].long()),
    )  # fmt: skip


def test_distillation_without_weight_is_plain_training_and_a_wrong_teacher_does_harm():
    plain = taught(lambda z, t: cross_entropy(z, t[:, 0].long()))
    off = taught(lambda z, t: kd_loss(z, t[:, 1:], t[:, 0].long(), 3.0, 0.0))
    good = taught(lambda z, t: kd_loss(z, t[:, 1:], t[:, 0].long()))
    wrong = taught(lambda z, t: kd_loss(z, t[:, 1:].roll(1, -1), t[:, 0].long()))
    assert all(torch.equal(plain.parameters[name], off.parameters[name]) for name in plain.parameters)
    assert not torch.equal(plain.parameters["0.weight"], good.parameters["0.weight"])
    assert plain.accuracy[0, -1] > 0.4
    assert good.accuracy[0, -1] > 0.4
    assert wrong.accuracy[0, -1] < plain.accuracy[0, -1] - 0.2


def test_with_shuffled_labels_there_is_nothing_to_learn():
    """The same training, labels dealt at random."""
    learnt, unseen = (signals.make_frames(n, [10, 14], training.stream(n, "f")) for n in (640, 800))
    results = {}
    for name, deal in (
        ("true", torch.arange),
        ("dealt", partial(torch.randperm, generator=training.stream(0, "deal"))),
    ):
        labels = [part.labels[deal(len(part.labels))] for part in (learnt, unseen)]
        trained = training.train(
            KDCNN, [5], training.shuffled(learnt.frames, labels[0]), (unseen.frames[None], labels[1][None]),
            training.Recipe(epochs=5, lr=0.04), together=False,
        )  # fmt: skip
        results[name] = float(trained.accuracy[0, -1])
    assert results["true"] > 0.4
    assert abs(results["dealt"] - 1 / 8) < 0.05


# --- mutations --------------------------------------------------------------------------------------------

SCATTERED = torch.randperm(128, generator=torch.Generator().manual_seed(0))
FORWARD = ClST.forward


def no_neighbours(self, x):
    """Samples come in a fixed random order, so that no convolution sees neighbours."""
    return FORWARD(self, x[..., SCATTERED])


def wrong_classes(zs, zt, y, T=3.0, a=0.7):
    """What the teacher says of a class it says of the next one."""
    return kd_loss(zs, zt.roll(1, -1), y, T, a)


MUTATIONS = [("ClST.forward", no_neighbours), ("kd_loss", wrong_classes)]


# --- bad input --------------------------------------------------------------------------------------------

Z = torch.zeros(4, 8)
REFUSED = [
    (lambda: Config(heads=(2,)), "dims, kernels, strides, heads and depths need a value per stage, got"),
    (lambda: Config((), (), (), (), ()), "need a value per stage"),
    (lambda: Config(dims=(24, 0)), "dims must be >= 1, got 0"),
    (lambda: Config(depths=(0, 1)), "depths must be >= 1, got 0"),
    (lambda: Config(classes=0), "classes must be >= 1, got 0"),
    (lambda: Config(embedding="conv2d"), "embedding must be one of conv, patches, got 'conv2d'"),
    (lambda: Config(projection="none"), "projection must be one of conv, linear, got 'none'"),
    (lambda: ConvEmbed(2, 4, 4, 2), "kernel must be odd and stride >= 1, got 4 and 2"),
    (lambda: ConvEmbed(2, 4, 3, 0), "kernel must be odd and stride >= 1, got 3 and 0"),
    (lambda: PSCA(24, 5), "heads must be >= 1 and divide dim, got heads=5, dim=24"),
    (lambda: PSCA(24, 2, "both"), "channel must be one of se, xca, none, got 'both'"),
    (lambda: PSCA(24, 2, kv_stride=3), "kv_stride must be 1, or 2 for convolutions without 'xca', got 3"),
    (lambda: PSCA(24, 2, "xca", 2), "kv_stride must be 1, or 2 .*channel='xca'"),
    (lambda: PSCA(24, 2, "se", 2, "linear"), "kv_stride must be 1, or 2 .*projection='linear'"),
    (lambda: KDCNN(1), "w must be >= 2 and classes >= 1, got 1 and 8"),
    (lambda: KDMobileNet(8, 0), "w must be >= 2 and classes >= 1, got 8 and 0"),
    (lambda: PatchViT(24, 2, 1, patch=7), "patch must be >= 1 and divide the length, got 7 and 128"),
    (lambda: kd_loss(Z, Z, Z[:, 0].long(), 0.0), "T must be > 0 and finite, got 0.0"),
    (lambda: kd_loss(Z, Z, Z[:, 0].long(), 3.0, 1.5), r"a must be in 0..1, got 1.5"),
    (lambda: kd_loss(Z, Z[:, :4], Z[:, 0].long()), r"logits of one shape, got \(4, 8\) and \(4, 4\)"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dims": [24, 36]}, r"dims = \[24, 36\]: expected a multiple of 8"),
        ({"dims": [8, 8, 16, 16]}, "at most 3 values, got 4"),
        ({"n_few": 4000}, "n_few = 4000: expected at most n_train, which is 3000"),
        ({"n_test": 64}, "n_test = 64: expected int, 128..50000"),
    ],
)
def test_parameters_that_cannot_be_built_or_tested_are_refused(given, message):
    record = records.load("clst")
    with pytest.raises(parameters.ParameterError, match=message):
        parameters.validate(record, record.values("quick") | given)


def test_the_mutation_takes_neighbours_and_nothing_else():
    frames = normal(2, 2, 128).float()
    net = built(ClST, dtype=torch.float32).eval()
    out, attentions = no_neighbours(net, frames)
    torch.testing.assert_close(out, net(frames[..., SCATTERED])[0])
    assert (out.shape, len(attentions)) == ((2, 8), 2)
    assert SCATTERED.sort().values.tolist() == list(range(128))
    assert int((SCATTERED.diff().abs() == 1).sum()) < 10


def test_the_smallest_test_set_has_every_modulation_at_every_snr():
    allowed = records.load("clst").parameters
    levels = list(range(allowed["snrs"].longest))
    tested = signals.make_frames(int(allowed["n_test"].min), levels, training.stream(0, "test"))
    assert len(set(zip(tested.labels.tolist(), tested.snr.tolist(), strict=True))) == 8 * len(levels)
