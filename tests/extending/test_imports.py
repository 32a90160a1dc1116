"""What import-linter cannot see: names that are found by strings when they are asked for."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

from .sources import ROOT, files

# These may read the table of public names in losparse/__init__.py: they are above all that it names.
ABOVE = ("losparse/cli/", "losparse/demo/")

# Who imports by a string, and why.
BY_STRING = {
    "losparse/__init__.py": "its public names are found when they are used, so that importing it loads no torch",
    "losparse/_register.py": "compressed folders open as soon as transformers is imported, which losparse never forces",
    "losparse/cli/main.py": "a command's file is loaded when the command is called",
    "export/losparse_export/__init__.py": "its public names are found when they are used",
    "runtime/losparse_runtime/dependencies.py": "a package that is not installed is named in one line",
}


def from_the_root(path: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of what a file takes of the package `losparse` itself, but for its version.

    A file in the package takes it by dots too: as many as it lies folders deep.
    """
    depth = path.count("/") if path.startswith("losparse/") else 0
    modules = {item.name.removesuffix(".py") for item in (ROOT / "losparse").iterdir()}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            root = (node.level, node.module) == (0, "losparse") or (depth == node.level > 0 and node.module is None)
            taken = {alias.name for alias in node.names} - {"__version__"} - modules if root else set()
            yield from ((node.lineno, name) for name in sorted(taken))
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name == "losparse")


def by_string(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and name of what imports by a string."""
    names = {"import_module", "__import__"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in names:
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and node.attr in names:
            yield node.lineno, node.attr


def test_the_table_of_public_names_is_for_users() -> None:
    found = [
        f"{path}:{line}: {name}"
        for path, tree in files()
        if not path.startswith(ABOVE)
        for line, name in from_the_root(path, tree)
    ]
    assert found == []


def test_who_imports_by_a_string_is_known() -> None:
    found = {path: [f"{line}: {name}" for line, name in by_string(tree)] for path, tree in files()}
    assert {path: lines for path, lines in found.items() if lines and path not in BY_STRING} == {}
    assert [path for path in BY_STRING if not found[path]] == []


def test_the_contract_of_the_packages_takes_numpy_and_the_standard_library() -> None:
    found = {}
    for path, tree in files():
        if path.startswith("runtime/losparse_runtime/contract/"):
            for node in ast.walk(tree):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
                    names = [node.module]
                found |= {name.partition(".")[0]: f"{path}:{node.lineno}" for name in names if name}
    assert {name: where for name, where in found.items() if name not in sys.stdlib_module_names}.keys() == {"numpy"}


def test_what_is_planted_is_seen() -> None:
    deep = ast.parse("from .. import METHODS, __version__\nfrom losparse import SVD\nimport losparse\nfrom . import b")
    assert list(from_the_root("losparse/layers/a.py", deep)) == [(1, "METHODS"), (2, "SVD"), (3, "losparse")]
    assert list(from_the_root("export/losparse_export/a.py", deep)) == [(2, "SVD"), (3, "losparse")]
    assert list(from_the_root("losparse/a.py", ast.parse("from . import layers, METHODS"))) == [(1, "METHODS")]
    strings = ast.parse('import importlib\nimportlib.import_module("losparse.methods")\n__import__("losparse.cli")')
    assert list(by_string(strings)) == [(2, "import_module"), (3, "__import__")]
