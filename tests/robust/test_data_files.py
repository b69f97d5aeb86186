"""Data files cut short or changed: a download heals itself or says what is wrong, a record says where."""

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fourfold.data import cifar
from fourfold.judging import records
from fourfold.recorded import benchmark, evidence, survival

TIMES = 20


def small_archive() -> bytes:
    """CIFAR-100's binary archive in small: three images for training, one for the test."""
    draw, written = np.random.default_rng(0), io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for name, n in (("train", 3), ("test", 1)):
            content = draw.integers(256, size=(n, 3074), dtype=np.uint8).tobytes()
            entry = tarfile.TarInfo(f"cifar-100-binary/{name}.bin")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return gzip.compress(written.getvalue(), mtime=0)


ARCHIVE = small_archive()
MD5 = hashlib.md5(ARCHIVE).hexdigest()
"""What CIFAR's publisher prints beside his files."""
NAME = "cifar-100-binary.tar.gz"


@contextmanager
def serving(content: bytes) -> Iterator[str]:
    """A server that answers every request with ``content``; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{NAME}"
        server.shutdown()


@pytest.fixture
def cifar_archive(monkeypatch, tmp_path):
    """Where ``cifar100`` looks for its archive, here a small one, and a way to say who serves it."""
    monkeypatch.setattr(cifar, "CIFAR100_MD5", MD5)
    monkeypatch.setattr(cifar, "CIFAR100_URL", f"http://127.0.0.1:1/{NAME}")  # no one listens there
    return tmp_path / NAME, lambda url: monkeypatch.setattr(cifar, "CIFAR100_URL", url)


def same(images, others) -> bool:
    pairs = [
        pair for part, other in zip(images, others, strict=True) for pair in zip(part, other, strict=True)
    ]
    return all(torch.equal(a, b) for a, b in pairs)


def in_general(said: str, *here: str) -> str:
    """What an error says, without the places of this one run."""
    for place in here:
        said = said.replace(place, "…")
    return said


def cut(content: bytes):
    return st.integers(0, len(content) - 1).map(lambda length: content[:length])


def changed(content: bytes):
    """One byte, anywhere, is another."""
    return st.tuples(st.integers(0, len(content) - 1), st.integers(1, 255)).map(
        lambda at: content[: at[0]] + bytes([content[at[0]] ^ at[1]]) + content[at[0] + 1 :]
    )


DAMAGE = pytest.mark.parametrize(
    ("what", "damage"), [("cut short", cut), ("changed in one byte", changed)], ids=["cut", "changed"]
)


@DAMAGE
def test_a_damaged_archive_is_downloaded_again(fault, cifar_archive, tmp_path, what, damage):
    row = fault(
        f"A downloaded archive is {what}", "at a place that hypothesis chooses; then the loader is asked"
    )
    archive, served_by = cifar_archive
    archive.write_bytes(ARCHIVE)
    whole = cifar.cifar100(tmp_path)
    wrong = []

    @settings(max_examples=TIMES)
    @given(damage(ARCHIVE))
    def heals(damaged):
        archive.write_bytes(damaged)
        if not same(cifar.cifar100(tmp_path), whole) or archive.read_bytes() != ARCHIVE:
            wrong.append(damaged)

    with serving(ARCHIVE) as url:
        served_by(url)
        heals()
    row.measured(times=TIMES, lost=len(wrong), said="nothing: it is downloaded again")
    assert not wrong


@DAMAGE
def test_without_network_a_damaged_archive_is_named_not_read(fault, cifar_archive, tmp_path, what, damage):
    row = fault(f"A downloaded archive is {what}, and there is no network", "then the loader is asked")
    archive, _ = cifar_archive
    said = []

    @settings(max_examples=TIMES)
    @given(damage(ARCHIVE))
    def refused(damaged):
        archive.write_bytes(damaged)
        with pytest.raises(OSError, match="could not be downloaded") as caught:
            cifar.cifar100(tmp_path)
        said.append(str(caught.value))
        for part in (f"fetch {cifar.CIFAR100_URL} (md5 {MD5})", f"save it as {archive}"):
            assert part in said[-1]

    refused()
    row.measured(times=TIMES, lost=0, said=in_general(said[-1], f"{tmp_path}/"))
    assert list(tmp_path.iterdir()) == [archive]


@DAMAGE
def test_a_server_that_lies_leaves_nothing(fault, cifar_archive, tmp_path, what, damage):
    row = fault(
        f"A server sends an archive that is {what}", "to a reader who has none, over HTTP on this machine"
    )
    _, served_by = cifar_archive
    said, left = [], []

    @settings(max_examples=TIMES)
    @given(damage(ARCHIVE))
    def refused(sent):
        with serving(sent) as url:
            served_by(url)
            with pytest.raises(OSError, match=rf"could not be downloaded: .*{MD5}") as caught:
                cifar.cifar100(tmp_path)
            assert hashlib.md5(sent).hexdigest() in str(caught.value.__cause__)
            assert url in str(caught.value)
        said.append(in_general(str(caught.value), f"{tmp_path}/", url.removesuffix(f"/{NAME}")))
        left.extend(tmp_path.iterdir())

    refused()
    row.measured(times=TIMES, lost=len(left), said=said[-1])
    assert not left


# --- what the book itself holds ---------------------------------------------------------------------------

KINDS = {
    "record of a paper": (records.PAPERS, "*.yml"),
    "recorded run": (evidence.DATA / "recorded", "*.json"),
    "recorded full run": (evidence.DATA / "full", "*.json"),
    "recorded benchmark": (benchmark.RECORDS, "*.json"),
    "record of mutations": (survival.DATA, "*.json"),
}


def read(path: Path):
    """What the book makes of a file of data/ in another place."""
    if path.suffix == ".yml":
        return records.read(path)
    with pytest.MonkeyPatch.context() as elsewhere:
        elsewhere.setattr(evidence, "DATA", path.parent.parent)
        elsewhere.setattr(benchmark, "RECORDS", path.parent)
        elsewhere.setattr(survival, "DATA", path.parent)
        tier = path.parent.name
        if tier == survival.DATA.name:
            return survival.read(path.stem)
        return evidence.load(path.stem, tier) if tier in evidence.TIERS else benchmark.load(path.stem)


@pytest.mark.parametrize("kind", KINDS)
@DAMAGE
def test_a_damaged_file_of_the_book_is_named(fault, tmp_path, kind, what, damage):
    row = fault(f"A {kind} is {what}", f"{TIMES} of them, at places that hypothesis chooses; then it is read")
    folder, pattern = KINDS[kind]
    copies = tmp_path / folder.name
    copies.mkdir()
    said, accepted = [], []

    @settings(max_examples=TIMES)
    @given(
        st.sampled_from(sorted(folder.glob(pattern))).flatmap(
            lambda path: st.tuples(st.just(path), damage(path.read_bytes().rstrip()))
        )
    )
    def named(drawn):
        path, damaged = drawn
        copy = copies / path.name
        copy.write_bytes(damaged)
        try:
            accepted.append(read(copy))
        except records.RecordError as error:
            said.append(str(error))
            assert said[-1].startswith(f"{path.name}: ")

    named()
    row.measured(times=TIMES, said=f"{len(said)} times, as in: {said[-1].splitlines()[0]}")
    assert said
    # A changed letter of a word, and a record of a paper that ends after a claim, are as good as any other:
    # that they are not what was committed is for git to say.
    assert not accepted or damage is changed or kind == "record of a paper"
