"""What README.md and docs/ say: tables are those of the results, and every block of code runs.

A block to run stands under `<!-- run: NAME -->`; NAME says what it finds (`SETTINGS`). Blocks of one page run in their
order, in one folder and one namespace. One under `<!-- client: NAME -->` is run by that client's own test. Any other
block may hold `make` and `pip install` lines alone, whose targets and extras exist.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from losparse import METHODS
from losparse.cli.main import COMMANDS, main
from losparse.data.columns import PAIR_OF, Columns
from losparse.data.tables import Table
from losparse.data.tasks.registry import TASK_DATA
from losparse.errors import LosparseError
from losparse_runtime.contract.task import TASKS
from losparse_runtime.tasks import HELPERS
from tests.cli.conftest import make_model, make_texts, make_tokenizer, write_csv
from tests.runtime.decoder_models import Made, byte_tokenizer, write_decoder

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:<!-- (?:run: (\w+)|client: (\w+)) -->\n)?```(\w*)\n(.*?)```", re.DOTALL)
FILE = re.compile(r"<!-- file: (\S+) -->\n(?:<!-- run: \w+ -->\n)?```python\n(.*?)```", re.DOTALL)

# Where a page may put what it adds.
REGISTRIES: tuple[dict[str, Any], ...] = (METHODS, TASKS, HELPERS)

# Values of columns that are checked before the next column is looked for.
EXAMPLES = {"tokens": ["a"]}


@dataclass(frozen=True)
class Block:
    """One block of code of a page."""

    setting: str | None
    client: str | None
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*found.groups()) for found in BLOCK.finditer(page.read_text(encoding="utf-8"))]


@pytest.fixture(scope="session")
def user_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user has: MODEL, with classes that have names, and tables and texts for it."""
    folder = tmp_path_factory.mktemp("user")
    sizes = {"num_hidden_layers": 4, "max_position_embeddings": 128}
    model = make_model(**sizes, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1})
    model.save_pretrained(folder / "MODEL")
    make_tokenizer().save_pretrained(folder / "MODEL")
    write_csv(folder / "train.csv", make_texts(256, 0))
    write_csv(folder / "dev.csv", make_texts(64, 1))
    write_csv(folder / "test.csv", make_texts(64, 2))
    (folder / "texts.txt").write_text("\n".join(text for text, _ in make_texts(96, 3)), encoding="utf-8")
    return folder


def trainer_names(folder: Path) -> dict[str, Any]:
    """What a program with a Trainer of its own has at hand."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "MODEL")
    rows = [
        {**tokenizer(text, padding="max_length", max_length=16, truncation=True), "labels": int(label == "good")}
        for text, label in make_texts(64, 0)
    ]
    arguments = TrainingArguments(
        str(folder / "trainer"),
        max_steps=12,
        per_device_train_batch_size=8,
        save_strategy="no",
        report_to=[],
        dataloader_pin_memory=False,
    )
    model = AutoModelForSequenceClassification.from_pretrained(folder / "MODEL")
    return {"model": model, "tokenizer": tokenizer, "rows": rows, "arguments": arguments, "Trainer": Trainer}


@pytest.fixture
def registries() -> Iterator[None]:
    """What a page adds to the registries is gone after it."""
    before = [dict(registry) for registry in REGISTRIES]
    yield
    for registry, entries in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(entries)


def language_model(folder: Path) -> dict[str, Any]:
    """A folder of a language model, `lm-onnx`, which knows a template for conversations, and files to measure it on."""
    if not (folder / "lm-onnx").exists():
        made = write_decoder(folder / "lm-onnx", Made(positions=256))
        (made / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
        texts = [{"text": "Once upon a time there was a cat."}, {"text": "It sat on the mat, and that was all."}]
        questions = [{"context": "The cat sat on the", "choices": ["mat.", "stock market."], "answer": 0}]
        for name, rows in (("stories", texts), ("questions", questions)):
            (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return {}


def decoder(folder: Path) -> dict[str, Any]:
    """A dense language model in PyTorch, `LM`, and stories to learn from and to measure on."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), eos_token="</s>", pad_token="<pad>")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=259, max_position_embeddings=64)).save_pretrained(folder / "LM")
    tokenizer.save_pretrained(folder / "LM")
    for name, seed in (("stories", 0), ("held-out", 1)):
        rows = [json.dumps({"text": text}) for text, _ in make_texts(64, seed)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return {}


SETTINGS = {
    "files": lambda _folder: {},
    "trainer": trainer_names,
    "language": language_model,
    "decoder": decoder,
}


def shell_lines(text: str) -> Iterator[list[str]]:
    """Yield the commands of a block, comments left out and continued lines joined."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def run_shell(text: str) -> None:
    for command, *words in shell_lines(text):
        assert command == "losparse", f"only losparse commands are run, got {command}"
        assert main(words) == 0, f"losparse {' '.join(words)}"


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize("page", [page for page in PAGES if any(block.setting for block in blocks(page))], ids=str)
def test_every_block_runs(page: Path, user_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "work"
    shutil.copytree(user_files, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LOSPARSE_CACHE", str(tmp_path / "cache"))
    module = ModuleType("page")  # classes of a page find the names in their annotations there
    monkeypatch.setitem(sys.modules, "page", module)
    names = vars(module)
    for block in blocks(page):
        if block.setting is None:
            continue
        names |= SETTINGS[block.setting](folder)
        if block.language == "python":
            exec(compile(block.text, str(page), "exec"), names)
        else:
            run_shell(block.text)


def test_files_that_a_page_shows_are_those_of_the_tests() -> None:
    shown = FILE.findall((ROOT / "docs" / "extending.md").read_text(encoding="utf-8"))
    toys = sorted((ROOT / "tests" / "extending" / "toys").glob("[!_]*.py"))
    assert sorted(ROOT / name for name, _ in shown) == toys
    assert {name: text for name, text in shown} == {
        name: (ROOT / name).read_text(encoding="utf-8") for name, _ in shown
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_that_do_not_run_are_installs_and_targets(page: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for block in blocks(page):
        if block.setting is not None or block.language in ("", "json", "yaml", "math"):
            continue
        if block.client is not None:  # run in an environment of its own, by a file that names it
            tests = [*(ROOT / "tests" / "runtime").glob("test_*.py"), *(ROOT / "tests" / "serving").glob("test_*.py")]
            checks = [*(ROOT / "tests").glob("**/check_*"), *tests]
            assert any(f'"{block.client}"' in check.read_text(encoding="utf-8") for check in checks), block.client
            continue
        assert block.language == "sh", f"{page.name}: a block of {block.language} needs a <!-- run: ... --> line"
        for command, *words in shell_lines(block.text):
            if command == "make":
                assert set(words) <= targets
            else:
                assert (command, words[0]) == ("pip", "install"), f"{page.name}: {command} is not run"
                named = re.findall(r"\[([\w,]+)\]", " ".join(words))
                assert {extra for group in named for extra in group.split(",")} <= set(extras)


def test_tables_are_those_of_the_results() -> None:
    done = subprocess.run([sys.executable, "benchmarks/tables.py", "--check"], cwd=ROOT, check=False)
    assert done.returncode == 0, "run `python benchmarks/tables.py`"


def test_commands_methods_and_extras_are_said() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert all(f"losparse {name}" in text for name in COMMANDS)
    assert all(f"`{name}`" in text for name in METHODS)
    assert all(f"`{name}`" in text for name in extras)


def test_columns_are_those_that_are_looked_for() -> None:
    """What a table lacks is said by the message of the column that is not there, in the order of looking."""
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    table = page.partition("<!-- columns -->")[2].partition("<!-- /columns -->")[0]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.strip().splitlines()[2:]]
    assert [line[0].strip("`") for line in lines] == list(TASK_DATA)
    texts = page.partition("A text is looked for in ")[2].partition(", in this order")[0]
    for task, text, pair, label, files in lines:
        asked = [texts if cell == "a text: see below" else cell.partition(":")[0] for cell in (text, pair, label)]
        columns = [re.findall(r"`(\w+)`", cell) for cell in asked]
        data, row = TASK_DATA[task.strip("`")], {}
        for names, value in zip(columns, ("text", "pair", "label"), strict=True):
            if not names:
                continue
            with pytest.raises(LosparseError, match=f"has no column called {' or '.join(names)}; its columns are"):
                data.read(Table("t", tuple(row), [row], [1]), Columns(), None)
            row = {**row, names[0]: EXAMPLES.get(names[0], value)}
        assert data.plain == ("txt" in files)
    for first, second in PAIR_OF.items():
        assert f"`{second}` beside `{first}`" in page


def test_the_readme_is_a_newcomers_path() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:losparse|export|runtime|tests|benchmarks|docs)/[\w./-]+)`", page.read_text())
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing
