"""`lint-imports` refuses what `CONTRIBUTING.md` says: each arrow the wrong way is planted in a copy, and is named."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = {"losparse": ".", "losparse_export": "export", "losparse_runtime": "runtime"}

LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"

# What is planted where, and the line of the report that says so.
PLANTED = {
    "upwards": (
        "losparse/layers/spec.py",
        "from losparse.methods.registry import METHODS",
        "losparse.layers.spec -> losparse.methods.registry",
    ),
    "upwards, when it is called": (
        "losparse/layers/spec.py",
        "def lazy(): from losparse.methods.registry import METHODS",
        "losparse.layers.spec -> losparse.methods.registry",
    ),
    "upwards, for types alone": (
        "losparse/layers/spec.py",
        "if TYPE_CHECKING: from losparse.methods.registry import METHODS",
        "losparse.layers.spec -> losparse.methods.registry",
    ),
    "up to the exporter": (
        "losparse/saving/folder.py",
        "import losparse_export.export",
        "losparse.saving.folder -> losparse_export.export",
    ),
    "a session in a layer": (
        "losparse/layers/spec.py",
        "from losparse_runtime.session import Session",
        "losparse.layers.spec -> losparse_runtime.session",
    ),
    "onnxruntime in a layer": ("losparse/layers/spec.py", "import onnxruntime", "losparse.layers.spec -> onnxruntime"),
    "a method in a lowering": (
        "export/losparse_export/lowerings/gather.py",
        "from losparse.methods.registry import METHODS",
        "losparse_export.lowerings.gather -> losparse.methods.registry",
    ),
    "torch in the runtime": (
        "runtime/losparse_runtime/text/encoder.py",
        "def lazy(): import torch",
        "losparse_runtime.text.encoder -> torch",
    ),
    "scipy in the runtime": (
        "runtime/losparse_runtime/compare.py",
        "import scipy",
        "losparse_runtime.compare -> scipy",
    ),
    "onnxruntime in the contract": (
        "runtime/losparse_runtime/contract/folder.py",
        "import onnxruntime",
        "losparse_runtime.contract.folder -> onnxruntime",
    ),
    "the engine in the contract": (
        "runtime/losparse_runtime/contract/folder.py",
        "from ..engine import opening",
        "losparse_runtime.contract.folder -> losparse_runtime.engine.opening",
    ),
}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The packages and the contracts, in a folder where anything may be planted."""
    for package, where in PARTS.items():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / where / package, tmp_path / where / package, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(folder: Path) -> tuple[int, str]:
    """Run `lint-imports` on a copy; return its code and what it prints, a space between words."""
    path = os.pathsep.join(str(folder / where) for where in PARTS.values())
    done = subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_the_packages_as_they_are_pass(copy: Path) -> None:
    code, said = lint(copy)
    assert code == 0 and " 0 broken." in said, said


def plant(folder: Path, name: str, source: str) -> int:
    """Append a line to a file of a copy; return its number."""
    file = folder / name
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    file.write_text(f"{before}{source}\n", encoding="utf-8")
    return before.count("\n") + 1


@pytest.mark.parametrize("what", PLANTED)
def test_an_arrow_is_refused_with_its_file_and_line(copy: Path, what: str) -> None:
    name, source, arrow = PLANTED[what]
    line = plant(copy, name, source)
    code, said = lint(copy)
    assert code == 1 and f"{arrow} (l.{line})" in said, said


# Where a circle is planted, and how it is named: by its modules.
CIRCLES = {
    "of two files": (
        "layers/budget.py",
        "def lazy(): from .linear import find_targets",
        "layers",
        ".linear -> .budget",
    ),
    "for types": (
        "methods/lpaf/algorithm.py",
        "if TYPE_CHECKING: from .method import LPAF",
        "methods.lpaf",
        ".algorithm -> .method",
    ),
}


@pytest.mark.parametrize("what", CIRCLES)
def test_a_circle_is_refused_with_its_modules(copy: Path, what: str) -> None:
    name, source, room, arrow = CIRCLES[what]
    plant(copy, f"losparse/{name}", source)
    code, said = lint(copy)
    assert code == 1 and f"No cycles are allowed in losparse.{room}. " in said and f"- {arrow} " in said, said


def test_a_room_that_no_contract_names_is_refused(copy: Path) -> None:
    plant(copy, "losparse/spare.py", "from losparse.cli import main")
    code, said = lint(copy)
    assert code == 1 and "- losparse.spare" in said, said


@pytest.mark.parametrize("package", PARTS)
def test_the_map_shows_the_rooms_in_the_order_of_the_contracts(package: str) -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(each["layers"] for each in contracts if each.get("containers") == [package])
    row = re.search(rf"^\| `{package}`[^|]*\|([^|]+)\|", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M)
    assert row is not None
    shown = [set(floor.strip().split(" and ")) for floor in row[1].split(",")]
    held = [set(re.split(r" [|:] ", floor)) for floor in reversed(layers)]
    assert shown == [
        floor for floor in held if not floor <= {"_register", "demo", "cli", "building", "reporting", "tuning"}
    ]  # which have their own row
