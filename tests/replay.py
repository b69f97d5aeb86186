"""nbval without a kernel: a run that was made answers in the kernel's place, and nbval judges it as ever.

What is compared, what is skipped and how a difference is shown is all nbval's own code, so that this and
``pytest --nbval`` cannot disagree about a run.
"""

import itertools
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbval.plugin import IPyNbFile

from fourfold.recorded import executed


class Recording:
    """What nbval asks of a kernel, answered from the cells of a run."""

    def __init__(self, ran: NotebookNode):
        self._cells = iter(executed.code_cells(ran))
        self._messages: Iterator[dict] = iter(())

    def is_alive(self) -> bool:
        return True

    def execute_cell_input(self, source: str, allow_stdin: bool | None = None) -> str:
        # nbval asks for no cell that it skips, and the run has that cell too.
        cell = next(cell for cell in self._cells if cell.source == source)
        idle = NotebookNode(output_type="status", execution_state="idle")
        self._messages = (
            {"msg_type": out.output_type, "content": out, "parent_header": {"msg_id": source}}
            for out in (*cell.outputs, idle)
        )
        return source

    def await_reply(self, msg_id: str, timeout: float | None = None) -> None:
        """A run has all its replies."""

    def await_idle(self, msg_id: str, timeout: float) -> None:
        """A run is idle."""

    def get_message(self, stream: str, timeout: float | None = None) -> dict:
        return next(self._messages)


def differences(notebook: Path, run: Path, session: pytest.Session) -> dict[str, str]:
    """Cell -> what nbval says of it, for each cell that fails when its outputs are those of ``run``.

    A run ends with a cell that raises, and the comparison with it.

    Raises:
        ValueError: if the run is of other code than the notebook.
    """
    ran = nbformat.read(run, as_version=4)
    was_run = [cell.execution_count is not None for cell in executed.code_cells(ran)]
    compared = IPyNbFile.from_parent(session, path=notebook)
    cells = list(compared.collect())
    if [cell.cell.source for cell in cells] != [cell.source for cell in executed.code_cells(ran)]:
        raise ValueError(f"{run.name} was executed from other code than {notebook.name} has")
    compared.kernel = Recording(ran)
    compared.setup_sanitize_files()
    failed = {}
    for cell in itertools.compress(cells, was_run):
        try:
            with suppress(pytest.skip.Exception):
                cell.runtest()
        except Exception:
            failed[cell.name] = cell.repr_failure(pytest.ExceptionInfo.from_current())
    return failed


def compare(notebook: Path, run: Path, session: pytest.Session) -> None:
    """Fail the test, in nbval's words, if ``run`` is not what the notebook keeps; raises as `differences`."""
    if failed := differences(notebook, run, session):
        pytest.fail("\n\n".join(failed.values()), pytrace=False)
