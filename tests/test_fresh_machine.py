"""A fresh machine: which Python `make` takes, and what `postBuild` takes from where.

Nothing here reaches a network: Pythons, packages and indices are made up.
"""

import hashlib
import os
import shutil
import subprocess
import venv
import zipfile
from pathlib import Path

import pip
import pytest

from fourfold.judging.records import ROOT

PYTHONS = ("python3.13", "python3.12", "python3.11", "python3")


@pytest.fixture
def make(tmp_path):
    """Call make where just these Pythons can make an environment: what was said, and what they were asked."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "requirements-cpu.lock"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "postBuild").write_text("#!/bin/sh\n")
    (tmp_path / "postBuild").chmod(0o755)

    def python(file, good):
        file.parent.mkdir(parents=True, exist_ok=True)
        # A name that is there and does not run is what version managers leave for the versions not chosen.
        does = 'case "$1" in -m) echo "${0##*/} $*" >>asked; mkdir -p .venv ;; esac' if good else "exit 127"
        file.write_text(f"#!/bin/sh\n{does}\n")
        file.chmod(0o755)

    def call(*good, arguments=(), there=False):
        for name in PYTHONS:
            python(tmp_path / "bin" / name, name in good)
        if there:
            python(tmp_path / ".venv" / "bin" / "python", True)
        done = subprocess.run(
            ["make", *arguments, ".venv/.ready"],
            cwd=tmp_path,
            env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
        )
        asked = tmp_path / "asked"
        return done, asked.read_text().splitlines() if asked.exists() else []

    return call


def test_make_takes_the_newest_python_that_works(make):
    assert make("python3.12", "python3.11", "python3")[1] == ["python3.12 -m venv --clear .venv"]


def test_make_takes_the_python_that_it_is_told(make):
    assert make(*PYTHONS, arguments=["PYTHON=python3.11"])[1] == ["python3.11 -m venv --clear .venv"]


def test_an_environment_stays_with_its_python(make):
    assert make(*PYTHONS, there=True)[1] == ["python -m venv .venv"]


def test_make_says_what_it_looked_for(make):
    done, asked = make()
    assert (done.returncode, asked) == (2, [])
    assert done.stderr.splitlines()[0] == (
        "No Python from 3.11.2 to 3.13 with its venv module (on Debian and Ubuntu the package python3-venv) "
        "among python3.13 python3.12 python3.11 python3; PYTHON=/where/it/is names one that is elsewhere."
    )


def test_on_windows_make_says_what_is_supported(make):
    done, asked = make(*PYTHONS, arguments=["OS=Windows_NT"])
    assert (done.returncode, asked) == (2, [])
    assert "fourfold runs on Linux and macOS, and on Windows within WSL" in done.stderr


def wheel(folder, name, version, content=""):
    """A package of one module; returns its pin with its hash."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", content)
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    links = "".join(f'<a href="{other.name}">{other.name}</a>\n' for other in folder.glob("*.whl"))
    (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")
    return f"{name}=={version} \\\n    --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@pytest.fixture
def post_build(tmp_path):
    """Call ``postBuild`` in an empty environment: what was said, and what is installed then."""
    plain, cpu, project = tmp_path / "plain", tmp_path / "cpu", tmp_path / "project"
    lock = wheel(plain / "setuptools", "setuptools", "81.0.0") + wheel(plain / "torch", "torch", "2.13.0")
    wheel(project, "fourfold", "0.1.0")
    shutil.copy(ROOT / "postBuild", project)
    (project / "requirements.lock").write_text(lock)
    (project / "requirements-cpu.lock").write_text(wheel(cpu / "torch", "torch", "2.13.0+cpu"))
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (project / "backend.py").write_text(
        "import os, shutil\n\n"
        "def build_editable(folder, *_):\n"
        "    return os.path.basename(shutil.copy('fourfold-0.1.0-py3-none-any.whl', folder))\n"
    )
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True)
    # The environment is empty but for what is at hand of pip here.
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "pip").symlink_to(Path(pip.__file__).parent)

    def call(**variables):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        own = {
            "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(tmp_path / "pip"),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": plain.as_uri(),
            "PIP_NO_CACHE_DIR": "1",
        }
        done = subprocess.run(
            ["./postBuild"],
            cwd=project,
            env=kept | own | variables,
            capture_output=True,
            text=True,
        )
        installed = environment.glob("lib/python*/site-packages/*.dist-info")
        return done, {p.name.removesuffix(".dist-info") for p in installed}

    return call


@pytest.mark.parametrize("constraint", ["", "torch<3"], ids=["plain", "constrained"])
def test_a_build_without_cuda_is_passed_over_where_none_is_offered(post_build, tmp_path, constraint):
    (tmp_path / "constraints.txt").write_text(constraint)
    done, installed = post_build(PIP_CONSTRAINT=str(tmp_path / "constraints.txt"))
    assert done.returncode == 0, done.stderr
    assert "No build of torch without CUDA here" in done.stdout
    assert installed == {"setuptools-81.0.0", "torch-2.13.0", "fourfold-0.1.0"}


def test_a_build_without_cuda_comes_from_the_index_that_was_named(post_build, tmp_path):
    done, installed = post_build(TORCH_INDEX=(tmp_path / "cpu").as_uri())
    assert done.returncode == 0, done.stderr
    assert (done.stdout, installed) == ("", {"setuptools-81.0.0", "torch-2.13.0+cpu", "fourfold-0.1.0"})


def test_an_index_that_was_named_in_vain_stops_the_installation(post_build, tmp_path):
    done, installed = post_build(TORCH_INDEX=(tmp_path / "plain").as_uri())
    assert done.returncode == 1
    assert "No matching distribution found for torch==2.13.0+cpu" in done.stderr
    assert installed == {"setuptools-81.0.0"}


def test_a_build_that_is_not_the_published_one_stops_the_installation(post_build, tmp_path):
    wheel(tmp_path / "plain" / "torch", "torch", "2.13.0+cpu", "import evil")
    done, installed = post_build()
    assert done.returncode == 1
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert installed == {"setuptools-81.0.0"}
