"""Output folders: refused when they exist, written beside their place, and put there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import LosparseError

MARKERS = ("losparse.json", "losparse_report.json")
"""Files by which a folder that losparse wrote is known; no other folder is ever replaced."""

DEMO_REPORT = "report.json"
"""What the demo writes into its folder. Others use that name too, so what is in it decides."""


def check_out(out: Path, *, overwrite: bool, sources: tuple[Path, ...] = ()) -> None:
    """Refuse an output folder that must not be written, before any work is done.

    Args:
        out: where the result will be.
        overwrite: whether an existing folder that losparse wrote may be replaced.
        sources: folders that are read; `out` must not be one of them, nor hold one.

    Raises:
        LosparseError: see above.
    """
    resolved = out.resolve()
    for source in sources:
        if source.exists() and (resolved == source.resolve() or resolved in source.resolve().parents):
            raise LosparseError(f"OUT must be another folder than its input, got '{out}' for both")
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise LosparseError(f"OUT '{out}' exists; choose another, or add --overwrite to replace it")
    empty = out.is_dir() and not any(out.iterdir())
    if out.is_symlink() or not (empty or _is_ours(out)):
        raise LosparseError(f"OUT '{out}' was not written by losparse, so it is not replaced; choose another")


def _is_ours(out: Path) -> bool:
    if any((out / name).is_file() for name in MARKERS):
        return True
    try:
        report = json.loads((out / DEMO_REPORT).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    versions = report.get("versions") if isinstance(report, dict) else None
    return isinstance(versions, dict) and "losparse" in versions


@contextmanager
def new_folder(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `out` that becomes `out` when the block ends, and vanishes when it fails.

    Raises:
        LosparseError: see `check_out`.
    """
    check_out(out, overwrite=overwrite)
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        yield work
        _share(work)
        replace_folder(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _share(folder: Path) -> None:
    """Give a folder and its files the permissions of newly made ones; some writers leave theirs private."""
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def replace_folder(work: Path, out: Path) -> None:
    """Put `work` at `out`; what was there stays until the new folder is in its place."""
    if not out.exists():
        work.rename(out)
        return
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as old:
        out.rename(Path(old) / out.name)
        try:
            work.rename(out)
        except OSError:
            (Path(old) / out.name).rename(out)
            raise
