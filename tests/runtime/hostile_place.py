"""Where a folder that leads astray is made, and what one change of it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from losparse_runtime.contract.records import FileRecord

from .conftest import file_record

SECRET = "of nobody's business"
MIB = 1024 * 1024
JSON_FILES = ("losparse.json", "config.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Place:
    """Where a mutation is made.

    Attributes:
        folder: an exported folder that lists all of its files.
        outside: a folder beside it, with the file "canary" of `SECRET`, that nobody may read.
    """

    folder: Path
    outside: Path

    @property
    def canary(self) -> Path:
        """The file that nobody may read."""
        return self.outside / "canary"

    def describe(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Change what `losparse.json` says."""
        file = self.folder / "losparse.json"
        data = json.loads(file.read_text())
        change(data)
        file.write_text(json.dumps(data))

    def list(self, name: str, record: Mapping[str, Any] | FileRecord | None = None) -> None:
        """List a file, as it is by default."""
        own = file_record(self.folder / name) if record is None else record
        self.describe(lambda data: data["files"].update({name: own}))

    def link(self, name: str, target: Path | str) -> None:
        """Put a link in the place of a file."""
        (self.folder / name).unlink(missing_ok=True)
        (self.folder / name).symlink_to(target)


@dataclass(frozen=True)
class Mutation:
    """One change.

    Attributes:
        name: of it.
        make: makes it.
        says: regular expression of what refuses the folder.
        opens: whether only what compares digests can see it, so that the folder opens without.
    """

    name: str
    make: Callable[[Place], object]
    says: str
    opens: bool = False
