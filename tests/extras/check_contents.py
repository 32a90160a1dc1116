"""What is in the distributions: the three packages and nothing else in the wheel, all of the project in the sdist.

Usage: check_contents.py DIST    a folder with one wheel and one sdist
"""

from __future__ import annotations

import configparser
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = {"losparse": ".", "losparse_export": "export", "losparse_runtime": "runtime"}
NEEDED = ("LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "pyproject.toml", "Makefile", "mkdocs.yml")


def check_wheel(wheel: Path, project: dict[str, object]) -> list[str]:
    """Return what is wrong with a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (archive.read(name).decode() for name in names if name.endswith("/entry_points.txt"))
    info = {name for name in names if ".dist-info/" in name}
    sources = {
        f"{package}/{file.relative_to(ROOT / where / package).as_posix()}"
        for package, where in PACKAGES.items()
        for file in (ROOT / where / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    found = configparser.ConfigParser(delimiters=("=",))
    found.read_string(entry_points)
    wanted = {"console_scripts": project["scripts"], **project.get("entry-points", {})}  # type: ignore[dict-item]
    problems = [f"{wheel.name} has {name}, which is of no package" for name in sorted(names - info - sources)]
    problems += [f"{wheel.name} lacks {name}" for name in sorted(sources - names)]
    problems += [f"{wheel.name} lacks {name}/py.typed" for name in PACKAGES if f"{name}/py.typed" not in names]
    if not any(name.endswith("/licenses/LICENSE") for name in info):
        problems.append(f"{wheel.name} lacks the licence")
    if {name: dict(found[name]) for name in found.sections()} != wanted:
        problems.append(f"{wheel.name} has other entry points than pyproject.toml: {entry_points}")
    return problems


def check_sdist(sdist: Path) -> list[str]:
    """Return what is wrong with an sdist."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = [*NEEDED, *(f"{where}/{package}/__init__.py".removeprefix("./") for package, where in PACKAGES.items())]
    problems = [f"{sdist.name} lacks {name}" for name in needed if name not in names]
    made = [name for name in names if name.endswith(".pyc") or name.startswith((".venv", "build/", "dist/"))]
    return problems + [f"{sdist.name} has {name}" for name in sorted(made)]


def main(dist: Path) -> int:
    """Print what is wrong; return the exit code."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    problems = check_wheel(wheel, project) + check_sdist(sdist)
    print("\n".join(problems) or f"{wheel.name}, {sdist.name}: contents ok")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
