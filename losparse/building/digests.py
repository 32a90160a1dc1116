"""Contents of files and folders, and of losparse's own code, as SHA-256: what decides whether a step runs again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from losparse_runtime.contract.files import write_json

_BLOCK = 1 << 20
_UNREAD = ("losparse_report.json", ".lock")
"""Files that say how long something took: another run writes others for the same result."""


class Digests:
    """Digests of files, remembered: a file whose size, time and place on the disk are as before is not read again.

    Args:
        memory: file that remembers; it may be missing or damaged, which costs time alone.
    """

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._known: dict[str, list[object]] = _read(memory)
        self._changed = False

    def file(self, path: Path) -> str:
        """Return the SHA-256 of a file, in hexadecimal."""
        found = path.stat()
        name, stamp = str(path.resolve()), [found.st_size, found.st_mtime_ns, found.st_ino]
        known = self._known.get(name)
        if isinstance(known, list) and known[:3] == stamp and len(known) == 4:
            return str(known[3])
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
        self._known[name] = [*stamp, digest.hexdigest()]
        self._changed = True
        return digest.hexdigest()

    def path(self, path: Path) -> str | None:
        """Return the digest of a file, or of the names and contents of a folder's files; None where nothing is."""
        if path.is_file():
            return self.file(path)
        if not path.is_dir():
            return None
        files = sorted(each for each in path.rglob("*") if each.is_file() and each.name not in _UNREAD)
        return combine((str(each.relative_to(path)), self.file(each)) for each in files)

    def save(self) -> None:
        """Remember what was read, for the next build."""
        if self._changed:
            write_json(self._memory, self._known)
            self._changed = False


def combine(parts: Iterable[tuple[str, str | None]]) -> str:
    """Return one digest of named ones."""
    return hashlib.sha256(json.dumps(sorted(parts), ensure_ascii=False).encode()).hexdigest()


def code_digest(*modules: str) -> str:
    """Return the digest of the sources of modules and packages of losparse, by their full names."""
    files: list[tuple[str, str]] = []
    for module in modules:
        spec = find_spec(module)
        assert spec is not None and spec.origin is not None, f"{module} is a module of losparse"
        origin = Path(spec.origin)
        sources = sorted(origin.parent.rglob("*.py")) if spec.submodule_search_locations else [origin]
        for source in sources:
            name = f"{module}/{source.relative_to(origin.parent)}"
            files.append((name, hashlib.sha256(source.read_bytes()).hexdigest()))
    return combine(files)


def _read(memory: Path) -> dict[str, list[object]]:
    try:
        found = json.loads(memory.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
