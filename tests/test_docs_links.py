"""What keeps the site of docs/ whole without building it: links, anchors, the menu, functions that formulas name."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
import yaml

from losparse import METHODS
from losparse.methods.losparse.method import Structure

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]
# Pages of the site that are made of other files when it is built.
MADE = {"readme.md", "contributing.md", "changelog.md", "api"}

CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose functions it leaves alone."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def links(text: str) -> list[str]:
    """Return where a page links to, but for addresses of the web."""
    return [link for link in LINK.findall(CODE.sub("", text)) if not re.match(r"https?:", link)]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def leads_nowhere(page: Path, link: str) -> bool:
    """Tell whether a link of a page has no file, or no heading there."""
    target, _, anchor = link.partition("#")
    file = page.parent / target if target else page
    return not file.exists() or (anchor != "" and anchor not in anchors(file.read_text(encoding="utf-8")))


def problems(page: Path) -> list[str]:
    """Return the links of a page that lead nowhere."""
    return [link for link in links(page.read_text(encoding="utf-8")) if leads_nowhere(page, link)]


def menu(entry: object) -> list[str]:
    """Return the pages of a menu, in its order."""
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    return [page for part in parts for page in menu(part)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_anchors_exist(page: Path) -> None:
    assert problems(page) == []


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("## A `part`, of it\n", encoding="utf-8")
    page, text = tmp_path / "page.md", "## Which one?\n[a](#which-one) [b](other.md#a-part-of-it) `[c](none.md)`\n"
    page.write_text(text, encoding="utf-8")
    assert problems(page) == []
    page.write_text(f"{text} [d](#nowhere) [e](none.md) [f](other.md#part)", encoding="utf-8")
    assert problems(page) == ["#nowhere", "none.md", "other.md#part"]


def test_every_page_is_in_the_menu() -> None:
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)
    shown = menu(settings["nav"])
    assert len(shown) == len(set(shown))
    notebooks = [path.with_suffix(".md") for path in (ROOT / "docs").rglob("*.ipynb")]
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in [*DOCS, *notebooks]}
    assert {page for page in shown if page.partition("/")[0] not in MADE} == pages, "mend `nav` of mkdocs.yml"


def test_formulas_name_functions_that_are_there() -> None:
    """What stands in backticks among the formulas is a file, a function of such a file, a flag or a setting."""
    section = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8").partition("## The formulas")[2]
    words = set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", section, flags=re.DOTALL)))
    files = {word for word in words if word.endswith(".py")}
    trees = [ast.parse((ROOT / file).read_text(encoding="utf-8")) for file in files]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    settings = {field.name for method in METHODS.values() for field in fields(method)}
    known = functions | settings | set(METHODS) | set(get_args(Structure))
    assert {word for word in words - files if word.isidentifier()} <= known
    assert len(words & functions) > 20


def test_no_docstring_is_taken_for_a_link() -> None:
    """The API pages read docstrings as Markdown: `[a][b]` is a link there, but for code in backticks."""
    documented = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = []
    for package in ("losparse", "export/losparse_export", "runtime/losparse_runtime"):
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if not isinstance(node, documented):
                    continue
                if re.search(r"\[[^\]\n]+\]\[[^\]\n]*\]", CODE.sub("", ast.get_docstring(node) or "")):
                    found.append(f"{file.relative_to(ROOT)}: {node.name}")
    assert found == [], "put it into backticks"


def test_the_changelog_and_the_citation_say_the_version() -> None:
    version = re.search(r'__version__ = "(.+)"', (ROOT / "losparse" / "__init__.py").read_text(encoding="utf-8"))
    assert version is not None
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited) and cited["version"] == version[1]
    assert version[1] in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
