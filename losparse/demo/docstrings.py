"""A real labelled text set that every Python has: the docstrings of its standard library.

One text per module, class or function: its own name and the first paragraph of its docstring, labelled by the group
of packages it comes from. Sources are read with `ast` and never imported, so building the set runs none of them.

    getaddrinfo. Resolve host and port into list of address info entries.          -> internet

What is done so that the numbers measured on it mean something:

* The path and the name of the module are left out: they are the label under another name.
* A paragraph that occurs twice is used once, and not at all when it occurs under two labels.
* The part (train, validation, test) follows from a hash of the qualified name, so that all functions with one
  qualified name, and with them every paragraph, are in one part; adding a module moves no text of another.
* No group gives more than `GROUP_LIMIT` texts, so that none outweighs the others.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..data.examples import Examples
from ..errors import LosparseError

GROUPS: dict[str, str] = {
    "concurrency": (
        "_threading_local _weakrefset asyncio asyncore asynchat concurrent contextvars multiprocessing queue sched "
        "selectors signal subprocess threading"
    ),
    "email": "base64 email mailbox mailcap mimetypes quopri uu",
    "files": (
        "_compression _pyio bz2 compression dbm filecmp fileinput fnmatch genericpath glob gzip io lzma ntpath "
        "nturl2path os pathlib pipes posixpath pty shelve shutil stat tarfile tempfile tty zipfile"
    ),
    "graphics": "colorsys curses idlelib tkinter turtle turtledemo",
    "imports and packaging": (
        "_distutils_hack _sitebuiltins compileall distutils ensurepip imp importlib modulefinder pkgutil platform "
        "py_compile runpy site sysconfig venv zipapp zipimport"
    ),
    "internet": (
        "cgi cgitb ftplib http imaplib ipaddress netrc nntplib poplib smtpd smtplib socket socketserver ssl telnetlib "
        "urllib uuid webbrowser wsgiref"
    ),
    "language": (
        "__future__ _collections_abc _py_abc abc annotationlib ast collections contextlib copy copyreg dataclasses dis "
        "enum functools inspect keyword opcode operator pickle pickletools pyclbr reprlib symtable token tokenize "
        "types typing weakref"
    ),
    "markup and formats": (
        "_markupbase aifc chunk configparser csv html imghdr json plistlib sndhdr sunau tomllib wave xdrlib xml xmlrpc"
    ),
    "numbers and time": (
        "_pydatetime _pydecimal _pylong _strptime bisect calendar datetime decimal fractions graphlib heapq hmac "
        "numbers random secrets statistics zoneinfo"
    ),
    "testing and debugging": (
        "_colorize bdb cProfile code codeop doctest faulthandler linecache logging pdb profile profiling pstats pydoc "
        "tabnanny timeit trace traceback tracemalloc unittest warnings"
    ),
    "text and commands": (
        "argparse cmd codecs crypt difflib encodings getopt getpass gettext locale optparse pprint re rlcompleter "
        "shlex string stringprep textwrap unicodedata"
    ),
}
"""Label -> top-level modules and packages of the standard library, from several Python versions."""

GROUP_LIMIT = 480
GROUP_MINIMUM = 100
MINIMUM_TEXTS = 2500
MINIMUM_GROUPS = 8
MINIMUM_LETTERS = 20
MAXIMUM_CHARACTERS = 400
TEST_SHARE = 0.15
VALIDATION_SHARE = 0.10

_SKIPPED_FOLDERS = {
    "test",
    "tests",
    "idle_test",
    "site-packages",
    "dist-packages",
    "__pycache__",
    "lib2to3",
    "_bundled",
}
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class DocstringData(NamedTuple):
    """The three parts; label ids are the same in all."""

    train: Examples
    validation: Examples
    test: Examples


class _Docstring(NamedTuple):
    group: str
    qualified_name: str
    text: str
    key: str
    """The letters of the paragraph, word by word, without case: equal keys are one text."""


def load_docstrings(
    root: Path | None = None, *, least_texts: int = MINIMUM_TEXTS, least_groups: int = MINIMUM_GROUPS
) -> DocstringData:
    """Build the docstring set of the running interpreter; the same interpreter always gives the same set.

    Args:
        root: folder of the standard library's sources; default: that of the running interpreter.
        least_texts: how many texts there must be.
        least_groups: how many groups they must be of.

    Raises:
        LosparseError: there are too few sources, as in a zipped or embedded Python.
    """
    folder = Path(sysconfig.get_path("stdlib")) if root is None else root
    chosen = _limit_groups(_drop_repeated(_read_docstrings(folder)))
    names = tuple(sorted({item.group for item in chosen}))
    if len(chosen) < least_texts or len(names) < least_groups:
        raise LosparseError(
            f"the demo needs {least_texts} docstrings in {least_groups} groups from the sources of the standard "
            f"library, got {len(chosen)} in {len(names)} from {folder}; use a Python that was installed with its .py "
            "files (not a zipped or embedded one)"
        )
    parts: dict[str, list[_Docstring]] = {"train": [], "validation": [], "test": []}
    for item in chosen:
        parts[_part(item.qualified_name)].append(item)
    return DocstringData(*(_examples(parts[part], names) for part in DocstringData._fields))


def _read_docstrings(folder: Path) -> list[_Docstring]:
    found = []
    groups = {module: group for group, modules in GROUPS.items() for module in modules.split()}
    for module, group in sorted(groups.items()):
        for path in _sources(folder, module):
            found += [_docstring(group, name, node) for name, node in _documented(_parse(path))]
    return [item for item in found if item is not None]


def _sources(folder: Path, module: str) -> list[Path]:
    """Return the sources of a top-level module or package, in the order of their names; none if it is not there."""
    found = [folder / f"{module}.py", *(folder / module).rglob("*.py")]
    own = {path.relative_to(folder).as_posix(): path for path in found if path.is_file()}
    return [path for name, path in sorted(own.items()) if not _SKIPPED_FOLDERS.intersection(name.split("/"))]


def _parse(path: Path) -> ast.Module:
    """Parse a source file; one that this interpreter cannot parse has no docstrings."""
    try:
        with warnings.catch_warnings():  # invalid escapes in old modules are not the user's business
            warnings.simplefilter("ignore")
            return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return ast.Module(body=[], type_ignores=[])


def _documented(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, _Documented]]:
    """Yield every module, class and function with its qualified name ("" for the module itself)."""
    if isinstance(node, _Documented):
        yield prefix, node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            continue  # expressions hold no definitions, and are most of the tree
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _documented(child, f"{prefix}.{child.name}".lstrip("."))
        else:
            yield from _documented(child, prefix)


def _docstring(group: str, qualified_name: str, node: _Documented) -> _Docstring | None:
    paragraph = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
    key = " ".join(re.findall(r"[a-z]+", paragraph.lower()))
    if sum(letter.isalpha() for letter in paragraph) < MINIMUM_LETTERS or len(paragraph) > MAXIMUM_CHARACTERS:
        return None
    name = qualified_name.rpartition(".")[2]
    text = paragraph if not name or name.startswith("__") else f"{name}. {paragraph}"
    return _Docstring(group, qualified_name or key, text, key)


def _drop_repeated(items: list[_Docstring]) -> list[_Docstring]:
    """Keep the first text of every paragraph, and none of a paragraph that has two labels."""
    groups: dict[str, set[str]] = {}
    for item in items:
        groups.setdefault(item.key, set()).add(item.group)
    first = {item.key: item for item in reversed(items)}
    return [item for item in items if len(groups[item.key]) == 1 and first[item.key] is item]


def _limit_groups(items: list[_Docstring]) -> list[_Docstring]:
    """Keep at most `GROUP_LIMIT` texts of a group, chosen by hash, and no group under `GROUP_MINIMUM`."""
    counts = Counter(item.group for item in items)
    taken: Counter[str] = Counter()
    kept = []
    for item in sorted(items, key=lambda item: _hash(item.key)):
        if counts[item.group] >= GROUP_MINIMUM and taken[item.group] < GROUP_LIMIT:
            taken[item.group] += 1
            kept.append(item)
    return kept


def _part(qualified_name: str) -> str:
    position = _hash(qualified_name) / 2**64
    if position < TEST_SHARE:
        return "test"
    return "validation" if position < TEST_SHARE + VALIDATION_SHARE else "train"


def _hash(text: str) -> int:
    """Return a 64-bit hash that is the same in every process (`hash` of a string is not)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _examples(items: list[_Docstring], names: tuple[str, ...]) -> Examples:
    return Examples(
        texts=[item.text for item in items],
        pairs=None,
        labels=[names.index(item.group) for item in items],
        label_names=names,
    )
