"""Versions of what is compared, of this Python and of the others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_NAMES = ("onnxruntime", "tokenizers", "numpy", "fastapi", "uvicorn", "uvloop", "httptools", "litserve", "bentoml")
_ASK = """
import json, platform, sys
from importlib.metadata import PackageNotFoundError, version
found = {"python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def versions_of(*pythons: Path | None) -> dict[str, dict[str, str]]:
    """Return the versions in this Python, as "losparse", and in others, by the package that they are there for."""
    found = {"losparse": _ask(sys.executable)}
    for each in pythons:
        if each is not None:
            versions = _ask(str(each))
            found[next(name for name in ("litserve", "bentoml", "python") if name in versions)] = versions
    return found


def _ask(python: str) -> dict[str, str]:
    done = subprocess.run([python, "-c", _ASK, *_NAMES], check=True, capture_output=True, text=True)
    answer: dict[str, str] = json.loads(done.stdout)
    return answer
