"""CvT is the network of its authors, and what the chapter measures fails where its convolutions are gone."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CvtConfig,
    CvtForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from fourfold import attention, cost
from fourfold.hybrids.cvt import (
    PEERS,
    SIZES,
    ConvEmbed,
    ConvProjection,
    CvT,
    CvtAttention,
    CvtBlock,
    Spec,
    Stage,
    attention_macs,
    cvt_spec,
    map_sides,
    small_spec,
    warp,
)
from fourfold.judging import parameters, records
from fourfold.training import Recipe, seeded, shuffled, train

from ..draws import normal

EXACT = {"rtol": 0, "atol": 1e-12}


def small(seed: int = 0, positions=None, embedding=None, **how) -> CvT:
    spec = small_spec([8, 16], [1, 2], **(embedding or {}))._replace(**how)
    with seeded(seed):
        return CvT(spec, 1, 3, positions=positions).double().eval()


# --- oracles ----------------------------------------------------------------------------------------------


def to_hugging_face(state: dict[str, torch.Tensor], depths: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Our weights by the names of transformers."""
    names = {"norm": "layernorm", "head": "classifier"}
    for i, depth in enumerate(depths):
        theirs = f"cvt.encoder.stages.{i}"
        names[f"stages.{i}.embed.conv"] = f"{theirs}.embedding.convolution_embeddings.projection"
        names[f"stages.{i}.embed.norm"] = f"{theirs}.embedding.convolution_embeddings.normalization"
        for j in range(depth):
            block, layer = f"stages.{i}.blocks.{j}", f"{theirs}.layers.{j}"
            for index, which in enumerate(("query", "key", "value")):
                made = f"{layer}.attention.attention.convolution_projection_{which}.convolution_projection"
                names[f"{block}.attention.spatial.{index}.spatial.0"] = f"{made}.convolution"
                names[f"{block}.attention.spatial.{index}.spatial.1"] = f"{made}.normalization"
                linear = f"{layer}.attention.attention.projection_{which}"
                names[f"{block}.attention.pointwise.{index}"] = linear
            names[f"{block}.attention.projection"] = f"{layer}.attention.output.dense"
            names[f"{block}.norm_attention"] = f"{layer}.layernorm_before"
            names[f"{block}.norm_mlp"] = f"{layer}.layernorm_after"
            names[f"{block}.up"] = f"{layer}.intermediate.dense"
            names[f"{block}.down"] = f"{layer}.output.dense"
    cls = f"stages.{len(depths) - 1}.cls"
    renamed = {}
    for name, value in state.items():
        module, _, field = name.rpartition(".")
        theirs = f"cvt.encoder.{cls}_token" if name == cls else f"{names[module]}.{field}"
        renamed[theirs] = value
    return renamed


def test_it_is_the_network_of_transformers(jolted):
    ours = jolted(CvT, cvt_spec("CvT-13")._replace(act="gelu"), 3, 1000, by=0.05).float()
    theirs = CvtForImageClassification(CvtConfig(num_labels=1000)).eval()
    theirs.load_state_dict(to_hugging_face(ours.state_dict(), (1, 2, 10)))
    x = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = theirs(x).logits
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-5)
        quick = CvT(cvt_spec("CvT-13"), 3, 1000).eval()  # the official activation is another function
        quick.load_state_dict(ours.state_dict())
        assert (quick(x) - expected).abs().max() > 1e-3


def on_meta(make):
    with torch.device("meta"):
        return make()


@pytest.mark.parametrize(
    ("name", "make"),
    [
        (
            "DeiT-S",
            lambda: ViTForImageClassification(
                ViTConfig(
                    hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536,
                    num_labels=1000, attn_implementation="eager",
                )
            ),
        ),
        ("ResNet-50", lambda: ResNetForImageClassification(ResNetConfig(num_labels=1000))),
    ],
)  # fmt: skip
def test_the_peers_are_counted_on_other_peoples_networks(name, make):
    net = on_meta(make)
    assert (cost.parameters(net), cost.macs(net, (1, 3, 224, 224))) == PEERS[name]


def test_published_parameters_and_costs():
    sizes = cost.table({name: lambda n=name: CvT(cvt_spec(n), 3, 1000) for name in SIZES}, (1, 3, 384, 384))
    assert sizes.parameters.tolist() == [19_997_480, 31_622_696, 277_196_392]
    for counted, published in zip(sizes.macs / 1e9, (16.3, 24.9, 193.2), strict=True):
        assert abs(counted / published - 1) < 0.02


def test_a_class_token_in_every_stage_or_dense_convolutions_miss_the_published_number():
    spec = cvt_spec("CvT-13")
    with_cls = spec._replace(stages=tuple(stage._replace(cls=True) for stage in spec.stages))
    everywhere = on_meta(lambda: CvT(with_cls, 3, 1000))
    assert cost.parameters(everywhere) == 19_997_480 + 64 + 192
    net = on_meta(lambda: CvT(spec, 3, 1000))
    depthwise = sum(m.weight.numel() for m in net.modules() if isinstance(m, nn.Conv2d) and m.groups > 1)
    assert depthwise == sum(3 * 9 * stage.dim * stage.depth for stage in spec.stages)


@pytest.mark.parametrize("size", [(224, 224), (75, 101)])
@pytest.mark.parametrize("stride", [1, 2])
def test_attention_costs_its_closed_form(size, stride):
    spec = cvt_spec("CvT-13")._replace(stride_kv=stride)
    net = on_meta(lambda: CvT(spec, 3, 1000))
    with FlopCounterMode(display=False) as counter:
        net(torch.empty(1, 3, *size, device="meta"))
    products = counter.get_flop_counts()["Global"][torch.ops.aten.bmm]
    assert products // 2 == attention_macs(spec, *size)


# --- the parts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(28, 28), (31, 45), (16, 9)])
def test_sides_of_the_maps_are_what_the_embeddings_make(size):
    net, x = small(), normal(1, 1, *size)
    sides = []
    for stage in net.stages:
        x = stage.embed(x)
        sides.append(tuple(x.shape[-2:]))
    assert sides == map_sides(small_spec([8, 16], [1, 2]), *size)


def test_embedding_is_a_strided_convolution_and_a_norm_of_each_token():
    embed, x = ConvEmbed(3, 5, 5, 4, 2).double(), normal(2, 3, 13, 17)
    out = embed(x)
    # The token in row 1, column 2 sees pixels 2..6 by 6..10.
    patch = torch.einsum("bcyx,ocyx->bo", x[:, :, 2:7, 6:11], embed.conv.weight) + embed.conv.bias
    torch.testing.assert_close(out[:, :, 1, 2], nn.functional.layer_norm(patch, (5,)), **EXACT)


@pytest.mark.parametrize(("side", "asked"), [((7, 7), 16), ((5, 8), 12), ((1, 1), 1), ((4, 4), 4)])
def test_keys_are_a_quarter_rounded_up(side, asked):
    projection, x = ConvProjection(4, 3, 2), torch.randn(2, 4, *side)
    assert projection(x).shape == (2, asked, 4)
    assert torch.equal(ConvProjection(4, 3, 2, "linear")(x), x.flatten(2).mT)


def test_average_projection_is_a_box_filter():
    x = normal(1, 3, 7, 7)
    box = torch.full((3, 1, 3, 3), 1 / 9, dtype=torch.float64)
    expected = nn.functional.conv2d(x, box, stride=2, padding=1, groups=3).flatten(2).mT
    torch.testing.assert_close(ConvProjection(3, 3, 2, "avg")(x), expected, **EXACT)


def plain_twin(layer: CvtAttention, dim: int, heads: int) -> attention.Attention:
    twin = attention.Attention(dim, heads, scale=dim**-0.5).double()
    for mine, theirs in zip((*layer.pointwise, layer.projection), twin.children(), strict=True):
        theirs.load_state_dict(mine.state_dict())
    return twin


@pytest.mark.parametrize("with_cls", [False, True])
def test_with_linear_projections_it_is_a_vits_attention_and_with_convolutions_it_is_not(with_cls):
    x = normal(2, 4 * 5 + with_cls, 12)
    for method, same in (("linear", True), ("dw_bn", False), ("avg", False)):
        layer = CvtAttention(12, 3, method=method, with_cls=with_cls).double().eval()
        difference = (layer(x, 4, 5) - plain_twin(layer, 12, 3)(x)[0]).abs().max()
        assert (difference < 1e-12) == same, method


def test_cls_is_not_convolved():
    layer = CvtAttention(8, 2, with_cls=True).double().eval()
    x = normal(1, 10, 8)
    seen = []
    for linear in layer.pointwise:
        linear.register_forward_pre_hook(lambda _, given: seen.append(given[0][:, 0]))
    layer(x, 3, 3)
    assert all(torch.equal(cls, x[:, 0]) for cls in seen)


def test_the_last_query_convolution_does_nothing():
    """Only CLS is read, and CLS is not convolved."""
    net = small()
    net(normal(2, 1, 28, 28)).square().sum().backward()
    for name, weight in net.named_parameters():
        idle = "stages.1.blocks.1.attention.spatial.0" in name
        assert weight.grad is not None
        assert bool(weight.grad.eq(0).all()) == idle, name


def test_a_strided_query_gives_back_fewer_tokens_which_cannot_be_added():
    layer, x = CvtAttention(8, 2, stride_q=2).double().eval(), normal(1, 36, 8)
    assert layer(x, 6, 6).shape == (1, 9, 8)
    with pytest.raises(RuntimeError, match="must match"):
        x + layer(x, 6, 6)


def test_without_a_class_token_the_mean_is_read():
    net = CvT(Spec((Stage(3, 2, 1, 8, 2, 1),)), 2, 4).double().eval()
    x = normal(3, 2, 9, 12)
    tokens = net.stages[0](x)[0].flatten(2).mT
    torch.testing.assert_close(net(x), net.head(net.norm(tokens).mean(1)), **EXACT)


def test_positions_are_added_to_the_first_map():
    net, x = small(positions=(7, 7)), normal(1, 1, 28, 28)
    with torch.no_grad():
        before = net(x)
        net.stages[0].positions.zero_()
        bare = small()
        bare.load_state_dict({n: v for n, v in net.state_dict().items() if "positions" not in n})
        assert torch.equal(net(x), bare(x))
        assert not torch.equal(before, net(x))


# --- what the chapter measures ----------------------------------------------------------------------------


def order_change(net, x, patch: int = 4) -> float:
    """The verdict's number of V3c: how far logits move when patches are permuted, over their spread."""
    n, c, side, _ = x.shape
    cut = x.reshape(n, c, side // patch, patch, side // patch, patch).transpose(3, 4).flatten(2, 3)
    cut = cut[:, :, torch.randperm(cut.shape[2], generator=torch.Generator().manual_seed(0))]
    moved = cut.unflatten(2, (side // patch, -1)).transpose(3, 4).reshape(x.shape)
    with torch.no_grad():
        return float(((net(x) - net(moved)).abs() / net(x).std(0)).max())


def bag_of_tokens(positions: bool) -> nn.Module:
    with seeded(0):
        vit = attention.ViT(tokens=49, dim=8, depth=2, heads=2, mlp_ratio=2, classes=3)
        if not positions:
            nn.init.zeros_(vit.positions)
        patches = attention.PatchEmbedding(1, 8, 4)
    return nn.Sequential(patches, vit).double()


def test_only_a_network_that_is_told_or_convolves_knows_the_order_of_patches():
    x = normal(4, 1, 28, 28)
    assert order_change(small(), x) > 1e-2
    plain, told = bag_of_tokens(False), bag_of_tokens(True)
    assert order_change(lambda x: plain(x)[0], x) < 1e-12
    assert order_change(lambda x: told(x)[0], x) > 1e-2
    # Without overlap and with linear projections CvT of one stage is a bag of tokens too.
    bag = CvT(Spec((Stage(4, 4, 0, 8, 2, 2, cls=True),), method="linear"), 1, 3).double().eval()
    assert order_change(bag, x) < 1e-12


def learned(bars, labels=None, seeds=(0,), **how):
    x, y = bars(128, 0)
    test = bars(100, 1)
    return train(
        lambda: CvT(small_spec([8, 16], [1, 1])._replace(**how), 1, 2),
        seeds,
        shuffled(x, y if labels is None else labels),
        tuple(part.expand(len(seeds), *part.shape) for part in test),
        Recipe(epochs=16, batch=16, lr=1e-2),
        together=False,
    )


def test_it_learns_and_does_not_where_the_labels_say_nothing(bars):
    first, again = learned(bars), learned(bars)
    assert torch.equal(first.loss, again.loss)
    assert float(first.accuracy[0, -1]) > 0.85
    nothing = learned(bars, torch.arange(128) // 2 % 2)
    assert abs(float(nothing.accuracy[0, -1]) - 0.5) < 0.25


def test_running_averages_are_used_in_evaluation(bars):
    net = learned(bars).member(0)
    x = bars(8, 2)[0]
    with torch.no_grad():
        torch.testing.assert_close(net(x)[:1], net(x[:1]), rtol=0, atol=1e-5)


def test_warps_are_the_moves_that_need_no_interpolation():
    x, square = normal(2, 2, 6, 9), normal(2, 1, 7, 7)
    torch.testing.assert_close(warp(x), x, **EXACT)
    torch.testing.assert_close(warp(square, angle=90.0), square.rot90(1, (2, 3)), **EXACT)
    torch.testing.assert_close(warp(x, angle=180.0), x.flip(2, 3), **EXACT)
    moved = warp(x, shift=torch.tensor([[2.0, 0.0], [0.0, -1.0]]))
    torch.testing.assert_close(moved[0, :, :, 2:], x[0, :, :, :-2], **EXACT)
    torch.testing.assert_close(moved[1, :, :-1], x[1, :, 1:], **EXACT)
    assert moved[0, :, :, :2].abs().max() < 1e-12


def test_a_warp_turns_its_images_each_by_its_own_angle_and_scales_about_the_centre():
    square = normal(2, 1, 7, 7)
    both = warp(square, angle=torch.tensor([0.0, 90.0]))
    torch.testing.assert_close(both[0], square[0], **EXACT)
    torch.testing.assert_close(both[1], square[1].rot90(1, (1, 2)), **EXACT)
    point = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    point[0, 0, 4, 4] = 1
    assert warp(point, scale=3.0)[0, 0, 3:6, 3:6].min() > 0.4
    # A wide image turned and turned back by a quarter comes back where it was not cut.
    wide = normal(1, 1, 5, 9)
    back = warp(warp(wide, angle=90.0), angle=-90.0)
    torch.testing.assert_close(back[..., 2:7], wide[..., 2:7], **EXACT)


@pytest.mark.parametrize("method", ["dw_bn", "avg", "linear", ("dw_bn", "linear", "avg")])
def test_gradients_are_right_in_float64(method):
    stride = 1 if isinstance(method, tuple) else 2
    layer = CvtAttention(4, 2, 1, stride, method, with_cls=True).double().train()
    weights = dict(layer.named_parameters())

    def apply(x, *values):
        return functional_call(layer, dict(zip(weights, values, strict=True)), (x, 3, 4))

    x = normal(2, 13, 4).requires_grad_()
    assert torch.autograd.gradcheck(apply, (x, *weights.values()), eps=1e-6, atol=1e-5)


def test_every_arm_runs_and_learns_in_training_mode(bars):
    x, y = bars(16, 0)
    for how in ({"method": "avg"}, {"method": "linear"}, {"kernel": 1}, {"stride_kv": 1},
                {"stride_kv": 1, "method": ("linear", "dw_bn", "linear")}):  # fmt: skip
        net = CvT(small_spec([8, 16], [1, 2])._replace(**how), 1, 2).train()
        cross_entropy(net(x), y).backward()
        gradients = [weight.grad for weight in net.parameters()]
        assert all(g is not None and g.isfinite().all() for g in gradients), how


# --- mutations --------------------------------------------------------------------------------------------

PROJECTION, PROJECT = ConvProjection.__init__, ConvProjection.forward
ATTENTION, BLOCK = CvtAttention.__init__, CvtBlock.forward
PLAIN = attention.ViT.__init__
ORDERS = torch.Generator().manual_seed(0)


def dense_projection(self, dim, kernel=3, stride=1, method="dw_bn"):
    """Convolutions run over all channels instead of one each."""
    PROJECTION(self, dim, kernel, stride, method)
    if method == "dw_bn":
        self.spatial[0] = nn.Conv2d(dim, dim, kernel, stride, (kernel - 1) // 2, bias=False)


def unstrided(self, dim, heads, stride_q=1, stride_kv=2, method="dw_bn", with_cls=False, kernel=3):
    """Keys and values have stride 1, whatever was asked for."""
    ATTENTION(self, dim, heads, stride_q, 1, method, with_cls, kernel)


def order_forgotten(self, x, height, width):
    """Each block gets its tokens in a new order at every pass, as from a bag."""
    first = int(self.attention.with_cls)
    order = torch.randperm(height * width, generator=ORDERS) + first
    return BLOCK(self, torch.cat([x[:, :first], x[:, order]], 1), height, width)


def tokens_scattered(self, x):
    """A window of more than one token holds tokens from anywhere in the map, others at every pass."""
    if isinstance(self.spatial, nn.Sequential) and self.spatial[0].kernel_size != (1, 1):
        places = torch.randperm(x[0, 0].numel(), generator=ORDERS)
        x = x.flatten(2)[..., places].unflatten(2, x.shape[-2:])
    return PROJECT(self, x)


def overlap_cut(self, x):
    """Kernels are cut to their stride, so that no two tokens share a pixel."""
    beyond = self.conv.kernel_size[0] - self.conv.stride[0]
    kept = torch.zeros_like(self.conv.weight)
    kept[:, :, beyond:, beyond:] = 1
    out = nn.functional.conv2d(
        x, self.conv.weight * kept, self.conv.bias, self.conv.stride, self.conv.padding
    )
    return self.norm(out.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def no_positions(self, **sizes):
    """The plain transformer's positions are zero and stay so."""
    PLAIN(self, **sizes)
    nn.init.zeros_(self.positions).requires_grad_(False)


MUTATIONS = [
    ("ConvProjection.__init__", dense_projection),
    ("CvtAttention.__init__", unstrided),
    ("CvtBlock.forward", order_forgotten),
    ("ConvProjection.forward", tokens_scattered),
    ("ConvEmbed.forward", overlap_cut),
    ("fourfold.attention.ViT.__init__", no_positions),
]


@pytest.mark.parametrize(("target", "mutation"), MUTATIONS)
def test_what_is_mutated_still_trains(monkeypatch, target, mutation, bars):
    monkeypatch.setattr(
        target if target.startswith("fourfold.") else f"fourfold.hybrids.cvt.{target}", mutation
    )
    x, y = bars(16, 0)
    vit = attention.ViT(tokens=16, dim=8, depth=1, heads=2, mlp_ratio=2, classes=2)
    plain = nn.Sequential(attention.PatchEmbedding(1, 8, 4), vit)
    for net in (CvT(small_spec([8, 16], [1, 2]), 1, 2), plain):
        out = net(x)
        cross_entropy(out if isinstance(out, torch.Tensor) else out[0], y).backward()
        gradients = [weight.grad for weight in net.parameters() if weight.requires_grad]
        assert all(g is not None and g.isfinite().all() for g in gradients)


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dims": [32]}, r"depths = \[1, 2\]: expected as many values as dims, which has 1"),
        ({"dims": [8, 10, 12], "depths": [1, 2, 3]}, r"dims = \[8, 10, 12\]: .*at most 2 values"),
        ({"dims": [9, 8]}, r"dims = \[9, 8\]: expected a multiple of 2"),
        ({"n_train": 101}, "n_train = 101: expected a multiple of 50"),
        ({"n_train": 5000}, r"n_train = 5000: expected int, 100\.\.4000"),
    ],
)
def test_parameters_that_no_network_can_have_are_refused_by_name(given, message):
    record = records.load("cvt")
    with pytest.raises(parameters.ParameterError, match=message):
        parameters.validate(record, record.values("quick") | given)


def test_stages_may_be_alike_and_every_allowed_size_fits_every_embedding():
    record = records.load("cvt")
    assert parameters.validate(record, record.values("quick") | {"dims": [8, 8], "depths": [2, 2]})
    for side in (28, 32):
        for first, later in (((5, 4, 2), (3, 2, 1)), ((4, 4, 0), (2, 2, 1)), ((5, 5, 1), (3, 3, 0))):
            sides = map_sides(small_spec([8, 8], [1, 1], first, later), side, side)
            assert min(sides[-1]) >= 2


ONE = Stage(3, 2, 1, 8, 2, 1)
REFUSED = [
    (lambda: cvt_spec("CvT-14"), "name must be one of CvT-13, CvT-21, CvT-W24, got 'CvT-14'"),
    (lambda: small_spec([8, 16], [1]), r"depths must be one for each of dims = \[8, 16\], got \[1\]"),
    (
        lambda: CvT(small_spec([8, 15], [1, 1]), 1, 2),
        "heads must be >= 1 and divide dim, got heads=2, dim=15",
    ),
    (lambda: CvT(Spec(()), 1, 2), "spec must have at least one stage"),
    (lambda: CvT(Spec((ONE._replace(depth=0),)), 1, 2), "depth of stage 0 must be >= 1, got 0"),
    (lambda: CvT(Spec((ONE,)), 0, 2), "in_chans must be >= 1, got 0"),
    (lambda: CvT(Spec((ONE,), mlp_ratio=0), 1, 2), "mlp_ratio must be >= 1, got 0"),
    (lambda: CvT(Spec((ONE,), act="relu"), 1, 2), "act must be one of quickgelu, gelu, got 'relu'"),
    (lambda: CvT(Spec((ONE,), stride_kv=3), 1, 2), "stride must be 1 or 2, got 3"),
    (
        lambda: CvT(Spec((ONE,), method="dense"), 1, 2),
        "method must be one of dw_bn, avg, linear, got 'dense'",
    ),
    (lambda: ConvProjection(4, 2), "kernel must be odd and >= 1, got 2"),
    (lambda: CvtAttention(8, 0), "heads must be >= 1 and divide dim, got heads=0, dim=8"),
    (
        lambda: CvtAttention(8, 2, with_cls=True)(torch.zeros(1, 9, 8), 3, 3),
        r"expected CLS and 3 x 3 tokens, got \(1, 9, 8\)",
    ),
    (lambda: CvtAttention(8, 2)(torch.zeros(1, 8, 8), 3, 3), r"expected 3 x 3 tokens, got \(1, 8, 8\)"),
    (
        lambda: map_sides(Spec((Stage(7, 4, 0, 8, 2, 1),)), 6, 9),
        "stage 0: a map of 6 x 9 is below its kernel 7",
    ),
    (lambda: warp(torch.zeros(1, 1, 4, 4), scale=0), "scale must be > 0, got 0"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
