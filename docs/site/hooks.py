"""What the site has beside the pages of docs/: pages that lie elsewhere, the API, the notebook, and formulas as MathML.

README, CONTRIBUTING and CHANGELOG    pages of the site, with their links turned
the API                               one page a package, of the names in its `__all__`
the notebook                          a page, by nbconvert
$...$                                 MathML, which browsers draw themselves: no script, no fonts, no network
"""

from __future__ import annotations

import ast
import html
import re
from pathlib import Path
from typing import Any

import latex2mathml.converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]

# Files of the project -> pages of the site.
PAGES = {"README.md": "readme.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
NOTEBOOK = "notebooks/losparse.ipynb"
PICTURES = "benchmarks/results"
STYLE = "site/site.css"
PACKAGES = {"losparse": ".", "losparse_export": "export", "losparse_runtime": "runtime"}

_LOADED = re.compile(r'<(?:script|img|iframe|link)\b[^>]*(?:src|href)="(https?:[^"]*)"')
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what does not lie in docs/."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=from_the_root(text)))
    for picture in sorted((ROOT / PICTURES).glob("*.png")):
        files.append(File.generated(config, f"{PICTURES}/{picture.name}", abs_src_path=str(picture)))
    for package in PACKAGES:
        files.append(File.generated(config, f"api/{package}.md", content=api_page(package)))
    files.append(File.generated(config, "site.css", abs_src_path=str(ROOT / "docs" / STYLE)))
    notebook = files.get_file_from_path(NOTEBOOK)
    if notebook is not None:
        files.remove(notebook)
        for path, content in notebook_files().items():
            files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links of a page of docs/ that lead out of it."""
    if page.file.generated_by is not None:
        return markdown
    for name, target in PAGES.items():
        markdown = markdown.replace(f"](../{name}", f"]({target}")
    return markdown.replace(f"](../{PICTURES}/", f"]({PICTURES}/").replace(f"]({NOTEBOOK})", f"]({_page(NOTEBOOK)})")


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write formulas as MathML."""
    return _FORMULA.sub(lambda found: mathml(html.unescape(found[3]), block=found[2] == "["), content)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that a browser would load something for from the network.

    Raises:
        PluginError: it names such a script, style or picture.
    """
    loaded = _LOADED.search(output)
    if loaded is not None:
        raise PluginError(f"{page.file.src_uri} loads {loaded[1]}; what a page needs must be in the site")
    return output


def mathml(formula: str, *, block: bool) -> str:
    r"""Return a formula as MathML.

    Args:
        formula: in the LaTeX that GitHub draws too.
        block: on lines of its own.
    """
    return latex2mathml.converter.convert(formula.strip(), display="block" if block else "inline")


def from_the_root(text: str) -> str:
    """Turn the links of a page that lies in the root of the project."""
    text = re.sub(r"\]\(docs/([\w./-]+\.(?:md|ipynb))", lambda found: f"]({_page(found[1])}", text)
    for name, target in PAGES.items():
        text = text.replace(f"]({name}", f"]({target}")
    return text


def _page(name: str) -> str:
    return name.removesuffix(".ipynb").removesuffix(".md") + ".md"


def api_page(package: str) -> str:
    """Return the page of a package: its docstring, and an entry for every name of `__all__`, in the package's order."""
    tree = ast.parse((ROOT / PACKAGES[package] / package / "__init__.py").read_text(encoding="utf-8"))
    about = (ast.get_docstring(tree) or "").partition("\n")[0]
    entries = "\n\n".join(f"::: {package}.{name}" for name in public_names(tree))
    return f"# {package}\n\n{about}\n\n{entries}\n"


def public_names(tree: ast.Module) -> list[str]:
    """Return what the `__all__` of a parsed module names."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            names: list[str] = ast.literal_eval(node.value)
            return names
    raise ValueError("the module has no __all__")


def notebook_files() -> dict[str, Any]:
    """Return the notebook as a page and its pictures, by path in the site."""
    from nbconvert import MarkdownExporter

    folder = Path(NOTEBOOK).parent.as_posix()
    body, resources = MarkdownExporter().from_filename(str(ROOT / "docs" / NOTEBOOK))
    pictures = {f"{folder}/{name}": content for name, content in resources["outputs"].items()}
    for name, target in PAGES.items():
        body = body.replace(f"](../../{name}", f"](../{target}")
    return {_page(NOTEBOOK): body, **pictures}
