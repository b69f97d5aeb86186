"""Extracts of public filters and the readers that made them, on files written here byte by byte."""

import io
import struct
import zipfile

import numpy as np
import pytest
import torch

from fourfold.data import filters
from fourfold.data.filters import Layer, from_ncnn, from_onnx, from_torch, layers_in, pack, small, unpack

from ..draws import normal


def same(one: Layer, other: Layer) -> bool:
    biases = one.bias is None if other.bias is None else np.array_equal(one.bias, other.bias)
    return one[:1] + one[2:3] + one[4:] == other[:1] + other[2:3] + other[4:] and bool(
        biases and one.weight.dtype == other.weight.dtype and np.array_equal(one.weight, other.weight)
    )


# --- the extracts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layers", "rows"),
    [("MTCNN", 8, 8370), ("PP-OCR", 12, 11904), ("waifu2x", 24, 4 * 59952), ("SRMD", 24, 337280)],
)
def test_extracts_have_the_layers_that_the_plan_counted_in_the_packages(name, layers, rows):
    held = [layer for net in filters.family(name).values() for layer in net]
    assert len(held) == layers
    assert sum(len(layer.rows) for layer in held) == rows
    assert all(np.isfinite(layer.rows).all() and layer.rows.any() for layer in held)
    assert {layer.weight.dtype.name for layer in held} == {
        "float32" if name in ("MTCNN", "PP-OCR") else "float16"
    }


def test_places_groups_and_biases_are_those_of_the_networks():
    ppocr = filters.load("ppocr")
    assert sum(layer.groups > 1 for layer in ppocr) == 6
    assert all(layer.weight.shape[1] == 1 for layer in ppocr if layer.groups > 1)
    assert [layer.depth for layer in filters.load("photo")] == pytest.approx(np.arange(6) / 6)
    srmd = filters.load("srmd_x3")
    assert [layer.depth for layer in srmd] == pytest.approx(np.arange(12) / 11)
    assert [layer.weight.shape[:2] for layer in srmd] == [(128, 18), *[(128, 128)] * 10, (27, 128)]
    assert all(layer.bias.shape == (len(layer.weight),) for layer in srmd)


def test_an_extract_that_has_changed_is_refused(monkeypatch):
    monkeypatch.setitem(filters.SHA256, "pnet", "0" * 64)
    with pytest.raises(ValueError, match=r"pnet\.npz is not the file that was committed"):
        filters.load("pnet")


def test_each_source_has_its_sum_and_its_place_in_a_family():
    assert filters.SOURCES.keys() == filters.SHA256.keys()
    assert sorted(filters.SOURCES) == sorted(name for names in filters.FAMILIES.values() for name in names)


def test_extracts_hold_what_was_packed_to_the_last_bit():
    layers = [
        Layer("a", normal(3, 5, 3, 3).numpy().astype("f2"), 1, depth=0.0),
        Layer("b", normal(7, 1, 3, 3).numpy().astype("f4"), 7, normal(7, seed=1).numpy().astype("f4"), 0.25),
    ]
    assert all(map(same, unpack(pack(layers)), layers))
    assert pack(layers) == pack(layers)


def test_only_three_by_three_is_kept_and_depth_counts_all():
    layers = [Layer("", np.zeros((1, 1, k, k)), 1) for k in (3, 1, 4, 3, 5)]
    assert [layer.depth for layer in small(layers)] == [0, 0.75]
    assert small(layers[:1])[0].depth == 0


# --- the readers ------------------------------------------------------------------------------------------


def test_torch_files_give_their_convolutions():
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.PReLU(), torch.nn.Conv2d(3, 4, 1))
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    layers = from_torch(file.getvalue())
    assert [layer.name for layer in layers] == ["0.weight", "2.weight"]
    assert np.array_equal(layers[0].weight, net[0].weight.detach().numpy())


PARAM = """7767517
4 4
Input in 0 1 in 0=8 1=8 2=1
Convolution one 1 1 in a 0=1 1=3 5=1 6=9 9=2 -23310=1,0.1
ConvolutionDepthWise two 1 1 a b 0=2 1=3 6=18 7=2
Deconvolution three 1 1 b c 0=1 1=4 11=2 5=1 6=16
"""


def ncnn(halves=b"\x47\x6b\x30\x01"):
    one, two, three = (normal(n, seed=n).numpy().astype(k) for n, k in ((9, "<f2"), (18, "<f4"), (16, "<f2")))
    biases = normal(2).numpy().astype("<f4")
    content = halves + one.tobytes() + b"\0\0" + biases[:1].tobytes() + bytes(4) + two.tobytes()
    return one, two, three, biases, content + halves + three.tobytes() + biases[1:].tobytes()


def test_ncnn_files_give_their_convolutions_padded_to_four_bytes():
    one, two, three, biases, content = ncnn()
    layers = from_ncnn(PARAM, content)
    assert [layer.name for layer in layers] == ["one", "two", "three"]
    assert [layer.weight.shape for layer in layers] == [(1, 1, 3, 3), (2, 1, 3, 3), (1, 2, 2, 4)]
    assert [layer.groups for layer in layers] == [1, 2, 1]
    for layer, weight in zip(layers, (one, two, three), strict=True):
        assert np.array_equal(layer.weight.ravel(), weight)
    assert layers[0].bias == biases[:1]
    assert layers[1].bias is None


def test_ncnn_files_that_do_not_fit_are_refused():
    *_, content = ncnn()
    with pytest.raises(ValueError, match=r"param describes .* bytes of weights, got"):
        from_ncnn(PARAM, content + bytes(4))
    with pytest.raises(ValueError, match="one: weights must be float16 or float32, got the tag 01020304"):
        from_ncnn(PARAM, ncnn(b"\1\2\3\4")[-1])
    with pytest.raises(ValueError, match="param must begin with ncnn's 7767517, got '1'"):
        from_ncnn("1\n" + PARAM, content)


def field(number, value):
    """One field of a protobuf message: an integer, or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def tensor(values, packed=False, name=b""):
    shape = values.shape
    dims = field(1, b"".join(map(varint, shape))) if packed else b"".join(field(1, n) for n in shape)
    return dims + field(2, 1) + (field(8, name) if name else b"") + field(9, values.tobytes())


def node(kind, inputs, output, *attributes):
    parts = b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, kind)
    return field(1, parts + b"".join(field(5, a) for a in attributes))


def test_onnx_files_give_constants_and_initializers_that_convolutions_use():
    deep, wide = (normal(*s).numpy().astype("<f4") for s in ((200, 1, 3, 3), (4, 3, 3, 3)))
    scale = field(1, b"alpha") + varint(2 << 3 | 5) + struct.pack("<f", 0.1)
    graph = (
        node(b"Constant", [], b"w", field(1, b"value") + field(5, tensor(deep)))
        + node(b"Constant", [], b"unused", field(1, b"value") + field(5, tensor(deep)))
        + node(b"Conv", [b"x", b"w"], b"y", field(1, b"group") + field(3, 200))
        + node(b"LeakyRelu", [b"y"], b"z", scale)
        + node(b"Conv", [b"z", b"v"], b"out")
        + field(5, tensor(wide, packed=True, name=b"v"))
    )
    layers = from_onnx(field(1, 8) + field(7, graph))
    assert [(layer.name, layer.groups) for layer in layers] == [("w", 200), ("v", 1)]
    assert np.array_equal(layers[0].weight, deep)
    assert np.array_equal(layers[1].weight, wide)


@pytest.mark.parametrize(("folder", "biased"), [("other/net", False), (f"{filters.SRMD}_x2", True)])
def test_a_wheel_gives_the_layers_of_a_file_in_it(folder, biased):
    one, *_, content = ncnn()
    with zipfile.ZipFile(io.BytesIO(), "w") as wheel:
        wheel.writestr(f"{folder}.bin", content)
        wheel.writestr(f"{folder}.param", PARAM)
        layers = layers_in(wheel, f"{folder}.bin")
    assert [layer.depth for layer in layers] == [0, 0.5]
    assert np.array_equal(layers[0].weight.ravel(), one)
    assert (layers[0].bias is not None) == biased


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"network must be one of 'pnet', .*, got 'resnet'"):
        filters.load("resnet")
    with pytest.raises(ValueError, match=r"name must be one of 'MTCNN', .*, got 'ResNet'"):
        filters.family("ResNet")
