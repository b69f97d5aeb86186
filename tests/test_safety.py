"""Nothing is unpickled, evaluated or run by a shell; nothing is downloaded without https and a known sum.

The caches of Sphinx (its environment) and of Snakemake are pickles that these tools write and read themselves
under `_build` and `.snakemake`; nothing of ours reads them and nothing of them is published or fetched.
"""

import ast
import builtins
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jupytext
import pytest

from fourfold.judging.records import ROOT

CODE = sorted(
    path
    for folder, pattern in (
        ("src", "*.py"),
        ("benchmarks", "*.py"),
        ("tests", "*.py"),
        ("workflow", "*.py"),
        ("notebooks", "*.md"),
    )
    for path in (ROOT / folder).rglob(pattern)
)

UNPICKLING = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
}
"""Modules whose readers run what a file says. Safetensors, JSON, CSV and npz without objects do not."""

FETCHING = {
    "urllib.request",
    "http.client",
    "requests",
    "httpx",
    "httpx2",
    "aiohttp",
    "ftplib",
    "huggingface_hub",
}
"""Modules that fetch. `pooch` fetches for us: it checks sums."""

PLAIN = "http:" + "//"

NEVER = {
    "builtins.eval": "evaluates text",
    "builtins.exec": "runs text",
    "numpy.lib.format.read_array": "may unpickle",
    "os.popen": "a shell",
    "os.system": "a shell",
    "subprocess.getoutput": "a shell",
    "subprocess.getstatusoutput": "a shell",
    "torch.jit.load": "runs what the file says",
    "torch.package.PackageImporter": "runs what the file says",
    "yaml.full_load": "makes Python objects",
    "yaml.unsafe_load": "makes Python objects",
    "yaml.load": "makes Python objects; yaml.safe_load does not",
    "yaml.load_all": "makes Python objects; yaml.safe_load_all does not",
    "shutil.unpack_archive": "may write anywhere",
}
NEVER_METHODS = {
    "read_pickle": "unpickles",
    "from_pretrained": "fetches a model without a sum",
    "load_state_dict_from_url": "fetches a model without a sum",
}
NEVER_BELOW = {
    "skimage.data.": "may fetch; read the package's own file",
    "scipy.datasets.": "fetches",
    "sklearn.datasets.fetch_": "fetches",
    "torch.hub.": "fetches and runs",
}


KNOWN = {"src/fourfold/recorded/mutation.py": ["builtins.exec: runs text"]}
"""What may stay. The mutations run a slice of a chapter: our own cells, searched here like all code."""


def faults(source: str) -> Iterator[str]:
    """What is wrong with a piece of Python, each with its line."""
    tree = ast.parse(source)
    meaning: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            meaning |= {
                (a.asname or a.name.partition(".")[0]): (a.name if a.asname else a.name.partition(".")[0])
                for a in node.names
            }
        if isinstance(node, ast.ImportFrom):
            meaning |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    for node in ast.walk(tree):
        for fault in _wrong(node, meaning):
            yield f"line {node.lineno}: {fault}"


def _wrong(node: ast.AST, meaning: dict[str, str]) -> Iterator[str]:
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        module = getattr(node, "module", None)
        for name in [f"{module}.{a.name}" if module else a.name for a in node.names]:
            for refused, why in ((UNPICKLING, "unpickles"), (FETCHING, "fetches")):
                if any(f"{name}.".startswith(f"{other}.") for other in refused):
                    yield f"{name} {why}"
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        for url in re.findall(r"\bhttp://[^\s\"'<>]*", node.value):
            if not url.startswith(("http://127.0.0.1", "http://www.w3.org/")):
                yield f"{url} is not https"
    elif isinstance(node, ast.Call):
        yield from _wrong_call(node, meaning)


def _wrong_call(call: ast.Call, meaning: dict[str, str]) -> Iterator[str]:
    name = _name(call.func, meaning)
    given = {keyword.arg: getattr(keyword.value, "value", ...) for keyword in call.keywords}
    method = name.rpartition(".")[2]
    if why := NEVER.get(name) or NEVER_METHODS.get(method):
        yield f"{name}: {why}"
    for below, why in NEVER_BELOW.items():
        if name.startswith(below):
            yield f"{name}: {why}"
    if name == "torch.load" and given.get("weights_only") is not True:
        yield "torch.load without weights_only=True unpickles"
    if given.get("allow_pickle", False) is not False:
        yield f"{name} with allow_pickle unpickles"
    if given.get("shell", False) is not False:
        yield f"{name} with shell: a shell"
    if given.get("trust_remote_code", False) is not False:
        yield f"{name} with trust_remote_code runs what it fetched"
    if method in ("extractall", "extract") and given.get("filter") != "data":
        yield f"{name} without filter='data' may write anywhere"
    if name == "pooch.retrieve":
        known = given.get("known_hash", call.args[1] if len(call.args) > 1 else None)
        if known is None or getattr(known, "value", known) is None:
            yield "pooch.retrieve without a sum"
    if name == "pooch.create":
        sums = next((k.value for k in call.keywords if k.arg == "registry"), None)
        if not isinstance(sums, ast.Dict) or any(getattr(s, "value", ...) is None for s in sums.values):
            yield "pooch.create without a sum for each file"


def _name(node: ast.AST, meaning: dict[str, str]) -> str:
    """``torch.load`` for what is called, whatever it was imported as; ``….load`` for something's method."""
    if isinstance(node, ast.Name):
        return meaning.get(node.id) or (f"builtins.{node.id}" if hasattr(builtins, node.id) else node.id)
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value, meaning)}.{node.attr}"
    return "…"


def code(path: Path) -> str:
    """A file's Python: of a notebook its code cells, where a line for the shell is no Python and fails."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return text
    return "\n".join(c.source for c in jupytext.reads(text, fmt="md:myst").cells if c.cell_type == "code")


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_our_code_unpickles_evaluates_and_fetches_nothing(path):
    found = [fault.partition(": ")[2] for fault in faults(code(path))]
    assert found == KNOWN.get(path.relative_to(ROOT).as_posix(), []), list(faults(code(path)))


def test_the_workflow_neither():
    """Snakemake's language is not Python, so its file is searched for the words."""
    text = (ROOT / "workflow" / "Snakefile").read_text(encoding="utf-8")
    words = "|".join(
        map(re.escape, [*UNPICKLING, *FETCHING, "eval(", "exec(", "curl", "wget", PLAIN, "torch"])
    )
    assert re.findall(rf"(?<!\w)(?:{words})", text) == []


@pytest.mark.parametrize(
    "snippet",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib as j",
        "from sklearn import datasets; datasets.fetch_openml('x')",
        "import urllib.request",
        "from urllib.request import urlopen",
        "from urllib import request",
        "import requests",
        "import torch; torch.load('a.pt')",
        "from torch import load as read; read('a.pt', weights_only=False)",
        "import torch as t; t.load('a.pt', weights_only=flag)",
        "import torch; torch.hub.load('a/b', 'c')",
        "import torch; torch.jit.load('a.pt')",
        "import numpy as np; np.load('a.npz', allow_pickle=True)",
        "import numpy as np; np.load('a.npz', allow_pickle=flag)",
        "import pandas as pd; pd.read_pickle('a')",
        "import yaml; yaml.load(text, Loader=yaml.Loader)",
        "from yaml import unsafe_load; unsafe_load(text)",
        "eval(text)",
        "exec(compile(text, 'a', 'exec'))",
        "import tarfile; tarfile.open('a').extractall()",
        "import tarfile\nwith tarfile.open('a') as tar: tar.extract('b', filter='fully_trusted')",
        "import shutil; shutil.unpack_archive('a.zip')",
        "import os; os.system('ls')",
        "import subprocess; subprocess.run('ls', shell=True)",
        "from transformers import ViTModel; ViTModel.from_pretrained('a')",
        "make('a', trust_remote_code=True)",
        "from skimage import data; data.brain()",
        "import skimage.data as d; d.brain()",
        "import pooch; pooch.retrieve('https://a')",
        "import pooch; pooch.retrieve('https://a', None)",
        "import pooch; pooch.retrieve('https://a', known_hash=None)",
        "from pooch import create; create('a', 'https://a')",
        "import pooch; pooch.create('a', 'https://a', registry={'b': None})",
        f"URL = '{PLAIN}example.org/a'",
        f"def f():\n    return f'{PLAIN}example.org/{{x}}'",
    ],
)
def test_each_of_these_would_be_found(snippet):
    assert list(faults(snippet))


@pytest.mark.parametrize(
    "snippet",
    [
        "import torch; torch.load('a.pt', weights_only=True)",
        "import numpy as np; np.load('a.npz')",
        "import yaml; yaml.safe_load(text)",
        "import tarfile; tarfile.open('a').extractall('b', filter='data')",
        "net.eval()",
        "from urllib.parse import urlsplit",
        "import pooch; pooch.retrieve('https://a', f'sha256:{known}', fname='b')",
        "import pooch; pooch.create('a', 'https://a', registry={'b': 'sha256:1'})",
        "from skimage import io; io.imread(file)",
    ],
)
def test_none_of_these_is_a_fault(snippet):
    assert not list(faults(snippet))


ROOMS = sorted((ROOT / "src" / "fourfold").rglob("*.py"))
EVERY_ROOM = f"""
import sys
seen = []
sys.addaudithook(lambda event, args: event == "pickle.find_class" and seen.append(args))
import importlib
for room in {[".".join(path.relative_to(ROOT / "src").with_suffix("").parts) for path in ROOMS]}:
    importlib.import_module(room.removesuffix(".__init__"))
from e3nn import o3
from fourfold.data import image_pairs, images, probes, tables
from fourfold.judging import records
from fourfold.recorded import benchmark, evidence, survival
from fourfold.frequency import svt
probes.digits()
images.photographs(list(images.PHOTOGRAPHS), 16)
images.mnist5k(1, 1)
[image_pairs.photograph(name) for name in image_pairs.PHOTOGRAPHS]
[tables.load(name) for name in tables.NAMES]
svt.filters()
o3.wigner_3j(1, 1, 2)
[evidence.load(path.stem, tier) for tier in evidence.TIERS for path in (evidence.DATA / tier).glob("*.json")]
[survival.read(path.stem) for path in survival.DATA.glob("*.json")]
[benchmark.load(*path.stem.split(".")) for path in benchmark.RECORDS.glob("*.json")]
records.load_all()
"""


def unpickled(script: str) -> list[str]:
    """What a Python of its own unpickles while it runs a script that begins as ``EVERY_ROOM`` does."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"{script}\nprint(*seen, sep='\\n', end='')"],
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.splitlines()


def test_importing_every_room_and_opening_every_data_set_unpickles_nothing():
    """Ours and what the libraries do for us: scikit-learn, scikit-image, mlxtend, pytorch_wavelets, e3nn."""
    assert len(ROOMS) > 40
    assert unpickled(EVERY_ROOM) == []


def test_unpickling_would_be_seen():
    script = f"{EVERY_ROOM.split('import importlib')[0]}import pickle, fractions"
    assert unpickled(f"{script}; pickle.loads(pickle.dumps(fractions.Fraction(1)))") == [
        "('fractions', 'Fraction')"
    ]
