"""Data: the probes are the tasks they say they are, and CIFAR-100 is read or refused in words that help."""

import io
import re
import tarfile

import numpy as np
import pooch
import pytest
import torch
from einops import rearrange, repeat
from hypothesis import given
from hypothesis import strategies as st

from fourfold.data import cifar
from fourfold.data.cifar import CIFAR100_MD5, CIFAR100_URL, cifar10, cifar100, read_cifar10, read_cifar100
from fourfold.data.probes import (
    CODES,
    Images,
    content_selection,
    cue_cells,
    digits,
    key_recall,
    mosaic,
)

CUES = ["random", "fixed", "transposed"]
# Image i is constant at i / 20: a cell says which image it shows, and none is as bright as the flag.
CONSTANT = Images((torch.arange(20.0) / 20)[:, None, None].expand(20, 8, 8), torch.arange(20) % 7)


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def assert_same(one: tuple, other: tuple) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


# --- digits -----------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_shuffled_once():
    from sklearn.datasets import load_digits

    torch.manual_seed(1)
    before = torch.get_rng_state()
    (train, test), again = digits(), digits()
    assert torch.equal(torch.get_rng_state(), before)
    assert_same((*train, *test), (*again[0], *again[1]))
    assert (train.images.shape, test.images.shape) == ((1400, 8, 8), (397, 8, 8))
    assert (train.labels.shape, test.labels.shape) == ((1400,), (397,))
    assert (train.images.dtype, train.labels.dtype) == (torch.float32, torch.int64)
    images, labels = (torch.cat(parts) for parts in zip(train, test, strict=True))
    assert (images.min(), images.max()) == (0, 1)
    source = load_digits()
    rows = [(*image, label) for image, label in zip(source.data / 16, source.target, strict=True)]
    shuffled = [
        (*image.flatten().tolist(), label) for image, label in zip(images, labels.tolist(), strict=True)
    ]
    assert sorted(shuffled) == sorted(rows)  # every image once, with its label: train and test are disjoint
    assert len(set(shuffled)) == len(rows)
    assert (labels != torch.from_numpy(source.target)).float().mean() > 0.8
    for part in (train, test):
        assert part.labels.bincount(minlength=10).min() > 0.07 * len(part.labels)


# --- content selection ------------------------------------------------------------------------------------


@given(n=st.integers(1, 20), p=st.integers(4, 17), grid=st.integers(1, 5), number=st.integers(0, 999))
def test_content_selection_flags_one_cell_whose_image_is_the_label(n, p, grid, number):
    probe = content_selection(CONSTANT, n, p=p, grid=grid, generator=seed(number))
    assert probe.tokens.shape == (n, grid**2, p * p)
    maps, flag = rearrange(probe.tokens + 0.3, "n c (y x) -> n c y x", y=p), p // 4
    shown = (maps[..., -1, -1] * 20).round().long()
    expected = repeat(shown / 20, "n c -> n c y x", y=p, x=p).clone()
    expected[torch.arange(n), probe.target, :flag, :flag] = 1
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-6)
    assert torch.equal(probe.labels, CONSTANT.labels[shown[torch.arange(n), probe.target]])


def test_content_selection_of_digits_at_p_8_shows_the_digits_untouched_with_one_flag():
    source, _ = digits()
    before = source.images.clone()
    probe = content_selection(source, 300, generator=seed(0))
    maps = probe.tokens.unflatten(-1, (8, 8)) + 0.3
    flagged = (maps[..., :2, :2] - 1).abs().amax((-2, -1)) < 1e-6
    assert torch.equal(flagged.sum(1), torch.ones(300, dtype=torch.int64))  # no digit looks like the flag
    assert torch.equal(flagged.int().argmax(1), probe.target)
    rest = maps.flatten(2)[..., 16:]  # everything below the flag's rows
    distance = torch.cdist(rest.flatten(0, 1), source.images.flatten(1)[:, 16:]).amin(1)
    assert distance.max() < 1e-4
    assert torch.equal(source.images, before)


def test_a_mosaic_has_its_cells_row_by_row_and_gaps_between_them():
    tokens = torch.arange(6.0)[:, None].expand(6, 9)
    made = mosaic(tokens, 3)
    assert made.shape == (2 * 3 + 1, 3 * 3 + 2)
    assert made[3].isnan().all()
    assert made[:, [3, 7]].isnan().all()
    assert torch.equal(made[::4, ::4], torch.arange(6.0).reshape(2, 3))
    with pytest.raises(ValueError, match="columns must divide the 6 cells, got 4"):
        mosaic(tokens, 4)
    with pytest.raises(ValueError, match="columns must be >= 1, got 0"):
        mosaic(tokens, 0)


# --- key recall -------------------------------------------------------------------------------------------


@given(
    n=st.integers(1, 20), cells=st.integers(2, 64), p=st.sampled_from([8, 16, 24]), cue=st.sampled_from(CUES),
    number=st.integers(0, 999),
)  # fmt: skip
def test_key_recall_has_one_cue_one_match_and_the_code_of_the_match_as_label(n, cells, p, cue, number):
    probe = key_recall(n, cells=cells, p=p, cue=cue, generator=seed(number))
    assert probe.tokens.shape == (n, cells, p * p)
    blocks = rearrange(probe.tokens / 2 + 0.25, "n c (y a x b) -> n c y x (a b)", y=8, x=8, a=p // 8)
    design = blocks[..., 0]
    assert torch.equal(blocks, design[..., None].expand_as(blocks))  # p = 16 is p = 8 with pixels of 2 x 2
    assert set(design.unique().tolist()) <= {0, 1}
    keys, upper_right, marks, codes = (
        design[:, :, y : y + 4, x : x + 4] for y, x in ((0, 0), (0, 4), (4, 0), (4, 4))
    )
    assert upper_right.eq(0).all()
    is_cue = marks.eq(1).all((-2, -1))
    assert torch.equal(marks.any(-1).any(-1), is_cue)
    assert is_cue.sum(1).eq(1).all()  # one cell is marked
    cue_cell, image = is_cue.int().argmax(1), torch.arange(n)
    assert torch.equal(cue_cells(probe.tokens), cue_cell)
    assert codes[image, cue_cell].eq(0).all()  # and blank
    bright = codes.eq(1).all(-1)
    assert torch.equal(codes.any(-1), bright)
    assert torch.equal(bright.sum(-1), (~is_cue).long())  # every other cell has one bright row

    asked = keys[image, cue_cell]
    match = (keys == (asked.mT if cue == "transposed" else asked)[:, None]).all((-2, -1)) & ~is_cue
    assert match.sum(1).eq(1).all()
    assert torch.equal(match.int().argmax(1), probe.target)
    assert torch.equal(bright[image, probe.target].int().argmax(-1), probe.labels)
    numbers = (keys.flatten(2) * 2.0 ** torch.arange(16)).sum(-1)
    others = numbers[~is_cue].reshape(n, cells - 1).sort().values
    assert others.diff().ne(0).all()  # no two keys alike
    if cue == "fixed":
        assert cue_cell.eq(0).all()


@pytest.mark.parametrize("cue", CUES)
def test_key_recall_draws_codes_cells_and_key_bits_evenly(cue):
    n, cells = 6000, 6
    probe = key_recall(n, cells=cells, cue=cue, generator=seed(0))
    design = probe.tokens.unflatten(-1, (8, 8)) > 0
    cue_cell = design[..., 4, 0].int().argmax(1)
    step = (probe.target - cue_cell) % cells
    first = int(cue == "fixed")  # the first cell that can be the target
    for drawn, outcomes in (
        (probe.labels, CODES), (step - 1, cells - 1), (probe.target - first, cells - first),
    ):  # fmt: skip
        share = drawn.bincount(minlength=outcomes) / n
        assert share.shape == (outcomes,)
        assert (share - 1 / outcomes).abs().max() < 5 * (1 / outcomes / n) ** 0.5  # five standard deviations
    assert (design[:, :, :4, :4].float().mean((0, 1)) - 0.5).abs().max() < 0.03


def test_a_transposed_cue_is_a_different_key():
    straight, transposed = (key_recall(50, cue=cue, generator=seed(0)) for cue in ("random", "transposed"))
    assert_same(straight[1:], transposed[1:])
    assert (straight.tokens != transposed.tokens).any(-1).sum(1).le(1).all()  # in the cue alone
    assert (straight.tokens != transposed.tokens).any(-1).sum() > 40


@pytest.mark.parametrize(
    "probe",
    [
        lambda g: content_selection(CONSTANT, 9, generator=g),
        lambda g: content_selection(CONSTANT, 9, p=5, grid=3, generator=g),
        lambda g: key_recall(9, generator=g),
        lambda g: key_recall(9, cells=60, cue="fixed", generator=g),
    ],
)
def test_the_generator_alone_decides(probe):
    generator, before = seed(3), torch.get_rng_state()
    first, second = probe(generator), probe(generator)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(first, probe(seed(3)))
    assert (first.tokens != second.tokens).any()
    assert (first.tokens != probe(seed(4)).tokens).any()
    assert first.tokens.dtype == torch.float32
    assert first.labels.dtype == first.target.dtype == torch.int64


# --- CIFAR-100 --------------------------------------------------------------------------------------------


def records(n: int, start: int = 0) -> bytes:
    """n records: coarse label 255, fine label start + i, and planes whose first pixels name the channel."""
    rows = np.random.default_rng(start).integers(0, 256, (n, 3074), dtype=np.uint8)
    rows[:, 0], rows[:, 1] = 255, np.arange(start, start + n)
    rows[:, 2], rows[:, 2 + 1024], rows[:, 2 + 2048], rows[:, 2 + 31], rows[:, 2 + 32] = 10, 20, 30, 11, 12
    return rows.tobytes()


def archive(path, **files: bytes):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-100-binary/{name}.bin")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_cifar100_records_are_parsed(tmp_path):
    train, test = read_cifar100(archive(tmp_path / "a.tar.gz", test=records(2, 90), train=records(5)))
    assert (train.images.shape, test.images.shape) == ((5, 3, 32, 32), (2, 3, 32, 32))
    assert (train.images.dtype, train.labels.dtype) == (torch.uint8, torch.int64)
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, 2, 3, 4], [90, 91])  # the fine ones
    for part, raw in ((train, records(5)), (test, records(2, 90))):
        assert part.images[:, :, 0, 0].unique(dim=0).tolist() == [[10, 20, 30]]
        assert (part.images[:, 0, 0, 31].unique(), part.images[:, 0, 1, 0].unique()) == (11, 12)
        pixels = np.frombuffer(raw, np.uint8).reshape(-1, 3074)[:, 2:]
        assert np.array_equal(part.images.flatten(1).numpy(), pixels)


def test_cifar10_has_one_label_and_five_files_of_training(tmp_path):
    def batch(first):
        return b"".join(bytes([label]) + bytes([10 * label] * 3072) for label in (first, first + 1))

    path = tmp_path / "b.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, first in [*((f"data_batch_{i}", i) for i in range(1, 6)), ("test_batch", 7)]:
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = 2 * 3073
            tar.addfile(member, io.BytesIO(batch(first)))
    train, test = read_cifar10(path)
    assert train.labels.tolist() == [1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    assert test.labels.tolist() == [7, 8]
    assert train.images.shape == (10, 3, 32, 32)
    assert torch.equal(train.images[:, 2, 31, 31].long(), 10 * train.labels)
    with pytest.raises(ValueError, match=r"expected cifar-100-binary/train\.bin in the archive"):
        read_cifar100(path)


@pytest.mark.parametrize("share", [0, 0.3, 0.9])
def test_a_truncated_download_is_refused(tmp_path, share):
    path = archive(tmp_path / "a.tar.gz", train=records(5), test=records(2))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=re.escape(str(path))):
        read_cifar100(path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"train": records(2)[:-1], "test": records(1)},
            r"train\.bin must be records of 3074 bytes, got 6147",
        ),
        ({"train": records(2), "test": b""}, r"test\.bin must be records of 3074 bytes, got 0 bytes"),
        ({"train": records(2)}, r"test\.bin"),
        ({}, r"train\.bin"),
    ],
)
def test_an_archive_without_whole_records_is_refused(tmp_path, files, message):
    path = archive(tmp_path / "a.tar.gz", **files)
    with pytest.raises(ValueError, match=message):
        read_cifar100(path)


def test_the_archive_is_asked_for_by_its_sum_and_read_where_it_is_put(tmp_path, monkeypatch):
    asked = []

    def retrieve(url, known_hash, fname, path, **kwargs):
        asked.append((url, known_hash))
        return str(archive(path / fname, train=records(3), test=records(1)))

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path)
    for folder in (None, tmp_path):
        assert cifar100(folder)[0].labels.tolist() == [0, 1, 2]
    assert asked == [(CIFAR100_URL, f"md5:{CIFAR100_MD5}")] * 2


@pytest.mark.parametrize("error", [ConnectionError, TimeoutError, ValueError])
def test_without_network_the_error_says_what_to_put_where(tmp_path, monkeypatch, error):
    def retrieve(*args, **kwargs):
        raise error("no route to host")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(OSError, match=r"CIFAR-100 .*could not be downloaded: fetch ") as caught:
        cifar100(tmp_path)
    for part in (CIFAR100_URL, CIFAR100_MD5, str(tmp_path / "cifar-100-binary.tar.gz")):
        assert part in str(caught.value)
    assert isinstance(caught.value.__cause__, error)


def test_cifar10_is_asked_for_by_its_own_sum(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError

    monkeypatch.setattr(pooch, "retrieve", refuse)
    with pytest.raises(OSError, match=r"CIFAR-10 is not here .*cifar-10-binary\.tar\.gz \(md5 c32a"):
        cifar10(tmp_path)


@pytest.mark.parametrize("already_there", [False, True])
def test_a_file_with_the_wrong_sum_is_refused_and_the_right_one_is_not_fetched_again(
    tmp_path, monkeypatch, already_there
):
    downloads = []

    class Download:
        def __init__(self, **kwargs):
            pass

        def __call__(self, url, output_file, downloader):
            downloads.append(url)
            archive(output_file, train=records(1), test=records(1))

    monkeypatch.setattr(pooch.core, "choose_downloader", lambda *args, **kwargs: Download())
    path = tmp_path / "cifar-100-binary.tar.gz"
    if already_there:
        path.write_bytes(b"half a download")
    with pytest.raises(OSError, match=r"CIFAR-100 .*could not be downloaded"):
        cifar100(tmp_path)
    assert downloads == [CIFAR100_URL]
    archive(path, train=records(4), test=records(1))
    monkeypatch.setattr(cifar, "CIFAR100_MD5", pooch.file_hash(path, "md5"))
    assert cifar100(tmp_path)[0].labels.tolist() == [0, 1, 2, 3]
    assert downloads == [CIFAR100_URL]


# --- bad input --------------------------------------------------------------------------------------------


def select(n: int = 3, source: Images = CONSTANT, **kwargs):
    return content_selection(source, n, generator=seed(0), **kwargs)


def recall(n: int = 3, **kwargs):
    return key_recall(n, generator=seed(0), **kwargs)


REFUSED = [
    (lambda: select(0), "n must be >= 1, got 0"),
    (lambda: select(grid=0), "grid must be >= 1, got 0"),
    (lambda: select(grid=-2), "grid must be >= 1, got -2"),
    (lambda: select(p=3), "p must be >= 4, got 3"),
    (lambda: select(source=Images(CONSTANT.images[:0], CONSTANT.labels[:0])), r"source .*got \(0, 8, 8\)"),
    (lambda: select(source=Images(torch.rand(5, 3, 8, 8), torch.arange(5))), r"source .*got \(5, 3, 8, 8\)"),
    (lambda: recall(0), "n must be >= 1, got 0"),
    (lambda: recall(cells=1), r"cells must be in 2\.\.64, got 1"),
    (lambda: recall(cells=65), r"cells must be in 2\.\.64, got 65"),
    (lambda: recall(p=0), "p must be a multiple of 8, got 0"),
    (lambda: recall(p=-8), "p must be a multiple of 8, got -8"),
    (lambda: recall(p=12), "p must be a multiple of 8, got 12"),
    (lambda: recall(cue="mirrored"), "cue must be 'random', 'fixed' or 'transposed', got 'mirrored'"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_bad_input_is_refused_with_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_patches_are_grey_squares_of_the_photograph_in_order():
    images = torch.randint(256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    tokens, labels = cifar.patches(Images(images, torch.tensor([5, 7])), 4)
    grey = images.double().mean(1) / 127.5 - 1
    torch.testing.assert_close(tokens[1, 2].reshape(4, 4).double(), grey[1, 4:, :4], rtol=0, atol=1e-6)
    assert (tuple(tokens.shape), labels.tolist()) == ((2, 4, 16), [5, 7])
    with pytest.raises(ValueError, match="p must divide the photographs' side of 8 pixels, got 3"):
        cifar.patches(Images(images, labels), 3)
