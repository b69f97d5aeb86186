"""Run a notebook and keep what happened.

``python -m fourfold.book.execute NOTEBOOK OUTPUT [-f PARAMETERS.yml]``.
A notebook that raises is kept too, with its error in it: a run says what happened, and whoever reads it
decides (`fourfold.recorded.executed.failure`). OUTPUT appears whole or not at all.
"""

import argparse
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from fourfold.judging import records
from fourfold.recorded import executed


def run(notebook: Path, output: Path, parameters: Mapping[str, Any]) -> None:
    """Execute a notebook, Markdown or ``.ipynb``, with papermill into ``output``.

    While it runs, its cells so far stand in a hidden folder beside ``output``, which a kill leaves behind.

    Raises:
        OSError: if ``output`` cannot be written.
    """
    growing = executed.unfinished(output, os.getpid())
    growing.parent.mkdir(parents=True, exist_ok=True)
    try:
        _execute(jupytext.read(notebook), growing, parameters)
        os.replace(growing, output)
    finally:
        shutil.rmtree(growing.parent, ignore_errors=True)


def _execute(source: NotebookNode, growing: Path, parameters: Mapping[str, Any]) -> None:
    try:
        nbformat.write(source, growing)
        # A free port may be taken before the kernel binds it, a socket in a folder of its own may not.
        with _folder_for_sockets() as own:
            papermill.execute_notebook(
                growing,
                growing,
                dict(parameters),
                progress_bar=sys.stderr.isatty(),
                config=Config(KernelManager={"transport": "ipc", "ip": f"{own}/socket"}),
                # What the user's IPython is told to do would change what a page prints and computes.
                extra_arguments=[
                    f"--IPKernelApp.ipython_dir={own}",
                    "--IPKernelApp.exec_PYTHONSTARTUP=False",
                ],
                # After its last cell a kernel has nothing to save, and takes seconds to take torch down.
                shutdown_kernel="immediate",
            )
    except PapermillExecutionError:
        pass  # papermill has written the traceback into the notebook
    except OSError:
        raise
    except Exception as error:
        # The kernel died or never started: papermill marks neither, and calls the cell completed.
        _mark(growing, error)


def _folder_for_sockets() -> tempfile.TemporaryDirectory[str]:
    """A folder in which sockets can be made: their paths may have about a hundred characters, and not every
    file system has them, whatever TMPDIR says.

    Raises:
        OSError: if there is none.
    """
    tried = dict.fromkeys([tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR"), "/tmp", "/var/tmp"])
    for parent in filter(None, tried):
        try:
            folder = tempfile.TemporaryDirectory(prefix="kernel-", dir=parent)
        except OSError:
            continue
        try:
            # As long a name as a kernel's sockets have, and some more.
            with socket.socket(socket.AF_UNIX) as probe:
                probe.bind(f"{folder.name}/socket-000000")
        except OSError:
            folder.cleanup()
            continue
        return folder
    raise OSError(
        f"no folder for a kernel's sockets in {', '.join(filter(None, tried))}: set TMPDIR to a short one"
    )


def _mark(notebook: Path, error: Exception) -> None:
    node = nbformat.read(notebook, as_version=4)
    started = [cell for cell in node.cells if cell.metadata.get("papermill", {}).get("start_time")]
    cell = started[-1] if started else next(cell for cell in node.cells if cell.cell_type == "code")
    cell.metadata.setdefault("papermill", {})["status"] = "failed"
    words = str(error).partition("\n")[0]
    name = type(error).__name__
    cell.outputs.append(
        nbformat.v4.new_output("error", ename=name, evalue=words, traceback=[f"{name}: {words}"])
    )
    node.metadata.setdefault("papermill", {})["exception"] = True
    nbformat.write(node, notebook)


def main() -> None:
    """The command line. Exit code 0 when there is an OUTPUT, be it a failure; 1 when there can be none."""
    parser = argparse.ArgumentParser(prog="python -m fourfold.book.execute", description="Run a notebook.")
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("-f", "--parameters", type=Path, help="a YAML file of parameters")
    given = parser.parse_args()
    try:
        parameters = records.read_yaml(given.parameters) if given.parameters else {}
        run(given.notebook, given.output, parameters)
    except (OSError, records.RecordError) as error:
        sys.exit(f"{given.notebook} could not be run into {given.output}: {error}")


if __name__ == "__main__":
    main()
