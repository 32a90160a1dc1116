"""Let schemathesis ask every route by the OpenAPI schema: `python -m tests.serving.check_schemathesis SCHEMATHESIS`.

schemathesis lives in an environment of its own; its command is the argument. Whatever follows is passed on to it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from ..runtime.conftest import write_folder
from .mutants import MODELS
from .running import running

# JSON schema cannot say that data fills a shape, that ids are in the vocabulary or that there is a model of a name, so
# that what fits the schema may be refused.
LEFT_OUT = "positive_data_acceptance"


def main(command: str, *options: str) -> int:
    """Serve tiny models of every task, and return what schemathesis says."""
    with tempfile.TemporaryDirectory() as home:
        folders = {name: write_folder(Path(home) / name, task).path for name, task in MODELS.items()}
        with running(folders) as server:
            schema = f"http://{server.url}/openapi.json"
            asked = [
                str(Path(command).absolute()),
                "run",
                schema,
                "--checks",
                "all",
                "--exclude-checks",
                LEFT_OUT,
                "--seed",
                "0",
                *options,
            ]
            return subprocess.run(asked, check=False, cwd=home).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
