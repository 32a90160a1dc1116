"""Execute docs/notebooks/losparse.ipynb in an empty folder and store its outputs: `make notebook`.

What differs from run to run and says nothing, as times of execution and versions of a kernel, is left out.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "losparse.ipynb"


def run(path: Path, *, limit: float = 600.0) -> float:
    """Execute a notebook and store it where it was.

    Args:
        path: of the notebook.
        limit: seconds that one cell may take.

    Returns:
        Seconds that all of it took.

    Raises:
        CellExecutionError: a cell failed; the file is as it was.
    """
    notebook = nbformat.read(path, as_version=4)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        where = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=limit, kernel_name="python3", resources=where).execute()
    seconds = time.perf_counter() - started
    for number, cell in enumerate(notebook.cells):
        cell.metadata = nbformat.NotebookNode()
        cell.id = f"cell-{number}"
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python", "pygments_lexer": "ipython3"},
        }
    )
    nbformat.validate(notebook)
    nbformat.write(notebook, path)
    return seconds


if __name__ == "__main__":
    print(f"{NOTEBOOK.name}: {run(NOTEBOOK):.0f} s")
    sys.exit(0)
