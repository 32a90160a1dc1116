"""The entry point: help without torch, exit codes, one line for every failure, and the flags."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Literal

import pytest

from losparse import __version__
from losparse.cli.main import COMMANDS, Load, build_parser, main
from losparse.cli.parser import CommandParser, add_dataclass_flags, add_field_flags, given
from losparse.errors import LosparseError, MissingPackageError
from losparse.methods import METHODS
from losparse.training.recipe import Recipe, Training
from losparse.validation import OneOf, OneOrMore, ZeroOrMore, checked

from .conftest import Command, loaded_by


def test_help_loads_nothing_heavy() -> None:
    program = "from losparse.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert loaded_by(program) == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_commands_loads_nothing_heavy(command: str) -> None:
    program = f"from losparse.cli.main import main\ntry: main(['{command}', '--help'])\nexcept SystemExit: pass"
    assert loaded_by(program) == set()


def test_the_console_command_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"losparse {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["COMMAND", "see losparse --help"]),
        (["squeeze"], ["squeeze", "compress"]),
        (["inspect"], ["DIR", "see losparse inspect --help"]),
        (["inspect", "a", "--colour"], ["--colour"]),
        (
            ["compress", "a", "b", "--train", "c", "--keep", "much"],
            ["--keep", "argument --keep: must be a number in (0, 1], got 'much'"],
        ),
        (["compress", "a", "b", "--train", "c", "--method", "magic"], ["magic", "losparse"]),
        (["compress", "a", "b", "--train", "c", "--epoch", "3"], ["--epoch"]),
        (["compress", "a", "b"], ["--train"]),
        (["bench", "a", "--batch", "0"], ["--batch", "must be 1 or more"]),
    ],
)
def test_wrong_arguments(losparse: Command, arguments: list[str], words: list[str]) -> None:
    losparse(*arguments).refused(*words)


def failing(error: BaseException) -> Load:
    """A loader of a command that takes anything and raises."""

    def fail(options: argparse.Namespace) -> int:
        raise error

    return lambda name: SimpleNamespace(add_options=lambda parser: parser.set_defaults(run=fail))


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (LosparseError("one\n  two"), 2, "losparse: error: one two\n"),
        (MemoryError("Unable to allocate 59.6 GiB"), 2, "is not enough (Unable to allocate 59.6 GiB); take smaller"),
        (PermissionError(13, "Permission denied", "x"), 2, "Permission denied: 'x'"),
        (ModuleNotFoundError("No module", name="torch.nn"), 2, "needs torch: pip install 'losparse[train]'"),
        (ModuleNotFoundError("No module named 'other'", name="other"), 3, "unexpected ModuleNotFoundError"),
        (ZeroDivisionError("by zero\nhere"), 3, "unexpected ZeroDivisionError: by zero here; add --traceback"),
        (KeyboardInterrupt(), 130, "losparse: interrupted\n"),
        (
            type("PanicException", (BaseException,), {})("of Rust\nhere"),
            3,
            "unexpected PanicException: of Rust here; add",
        ),
    ],
)
def test_every_failure_is_one_line_and_a_code(losparse: Command, error: BaseException, code: int, words: str) -> None:
    done = losparse("inspect", load=failing(error))
    assert done.code == code
    assert words in done.err and done.err.count("\n") == 1
    assert done.out == ""


def test_errors_of_the_serving_package_are_the_users(losparse: Command, tmp_path: Path) -> None:
    losparse("run", tmp_path / "none", "text").refused("no such folder")


def test_traceback_on_request(losparse: Command) -> None:
    done = losparse("inspect", "--traceback", load=failing(ZeroDivisionError("by zero")))
    assert done.code == 3
    assert "Traceback" in done.err and "in fail\n" in done.err


def test_a_reader_that_goes_away_is_no_failure(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    program = (
        "from types import SimpleNamespace; from losparse.cli.main import main\n"
        "def run(options): print('x' * 200000); print('y', flush=True); return 0\n"
        "command = SimpleNamespace(add_options=lambda parser: parser.set_defaults(run=run))\n"
        "raise SystemExit(main(['inspect'], load=lambda name: command))"
    )
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'"{sys.executable}" -c "$0" | head -c 1', program],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "x", "")


# Flags


def flags_of(command: str) -> set[str]:
    parser = build_parser([command])
    chosen = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return set(chosen.choices[command]._option_string_actions)


def test_every_field_of_methods_training_and_recipe_is_a_flag() -> None:
    flags = flags_of("compress")
    for kind in (*METHODS.values(), Training, Recipe):
        for field in fields(kind):
            assert f"--{field.name.replace('_', '-')}" in flags or field.name == "training"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["compress", "a", "b", "--learning-rat", "3"],
            "--learning-rat 3; did you mean --learning-rate?; see ",
        ),
        (["run", "a", "b", "--precisio=3"], "unrecognized arguments: --precisio=3; see losparse run --help"),
    ],
)
def test_the_nearest_flag_is_named(arguments: list[str], words: str) -> None:
    with pytest.raises(LosparseError) as caught:
        build_parser(arguments).parse_args(arguments)
    assert words in str(caught.value)


@pytest.mark.parametrize(("flag", "key"), [("--recipe-schema", "task"), ("--plan-schema", "layers")])
def test_schemas_of_files_are_printed(flag: str, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["compress" if "recipe" in flag else "export", flag])
    assert stopped.value.code == 0
    schema = json.loads(capsys.readouterr().out)
    kinds = [schema["$defs"][each["$ref"].rpartition("/")[2]] for each in schema.get("anyOf", ())] or [schema]
    assert all(key in kind["properties"] for kind in kinds)


@dataclass(frozen=True)
class Toy:
    """A dataclass of all kinds of fields.

    Attributes:
        count: how many, at most 100%
            of them.
        share: how much.
        limit: how many at most; None for no limit.
        kind: which one.
        fast: whether in a hurry.
    """

    count: int = 1
    share: float = 0.5
    limit: int | None = None
    kind: Literal["a", "b"] = "a"
    fast: bool = False


def toy_parser(*kinds: type) -> CommandParser:
    parser = CommandParser(prog="toy")
    add_dataclass_flags(parser, "toy", *(kinds or (Toy,)))
    return parser


def test_flags_follow_the_types_of_the_fields() -> None:
    options = toy_parser().parse_args(
        ["--count", "3", "--share", "1e-3", "--limit", "none", "--kind", "b", "--no-fast"]
    )
    assert given(options, "toy") == {"count": 3, "share": 1e-3, "limit": None, "kind": "b", "fast": False}


def test_flags_that_are_not_given_leave_nothing() -> None:
    assert given(toy_parser().parse_args([]), "toy") == {}
    assert given(toy_parser().parse_args(["--limit", "7"]), "toy") == {"limit": 7}


@pytest.mark.parametrize("arguments", [["--count", "x"], ["--kind", "c"], ["--limit", "many"], ["--cou", "3"]])
def test_wrong_values_of_flags(arguments: list[str]) -> None:
    with pytest.raises(LosparseError, match="see toy --help"):
        toy_parser().parse_args(arguments)


def test_help_comes_from_the_docstring() -> None:
    shown = " ".join(toy_parser().format_help().split())
    assert "how many, at most 100% of them. (default 1)" in shown
    assert "None for no limit." in shown


@dataclass(frozen=True)
class Other:
    """Another dataclass.

    Attributes:
        share: how much.
        limit: how many in another way.
        deep: how deep.
    """

    share: float = 0.5
    limit: int | None = 7
    deep: int = 2


def test_help_says_whose_a_field_is_where_it_is_not_everybodys() -> None:
    parser = CommandParser(prog="toy")
    add_dataclass_flags(parser, "toy", Toy, Other, names=("first", "second"))
    shown = " ".join(parser.format_help().split())
    assert "how much. (default 0.5)" in shown
    assert "how deep. [second] (default 2)" in shown
    assert "None for no limit. [first] how many in another way. [second] (default None; 7 for second)" in shown


def test_help_of_compress_says_which_methods_have_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compress", "--help"])
    shown = " ".join(capsys.readouterr().out.replace("losparse-one-\n", "losparse-one-").split())
    assert "kept share of the parameters of the compressed layers. (in (0, 1]; default 0.2)" in shown  # everybody's
    assert (
        "--low-rank S|KIND=S [S|KIND=S ...] share of the rank" in shown
        and 'Left out, 0.05, and none at "narrow". [losparse] (in [0, 1])' in shown
    )
    assert "--mean, --no-mean" in shown and "[rom] (default True)" in shown
    assert "--allocation {uniform,uniform-rank,last-k,by-type,global,search}" in shown
    keys = "task, method, training, targets, ignore, keep_layers, keep_layers_by, keep_neurons, keep_neurons_by"
    more = "embeddings, embedding_rank"
    # all that a recipe takes, and nothing else below
    assert f"JSON or YAML with any of the keys {keys}, {more};" in shown
    assert "left out, `losparse compress` takes a tenth of the training" in shown


@checked
class Many:
    """Fields of several values.

    Attributes:
        names: of things.
        blocks: how many, or which.
        colour: of them all.
    """

    names: tuple[str, ...] = ()
    blocks: OneOrMore | tuple[ZeroOrMore, ...] | None = None
    colour: Annotated[str, OneOf(lambda: ["red", "green"])] = "red"
    left_out: int = 0


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        (["--blocks", "3"], {"blocks": 3}),
        (["--blocks", "0", "2", "--names", "a"], {"blocks": [0, 2], "names": ["a"]}),
        (["--colour", "green", "--names", "a", "b"], {"colour": "green", "names": ["a", "b"]}),
    ],
)
def test_flags_of_several_values(arguments: list[str], values: dict[str, object]) -> None:
    parser = CommandParser(prog="toy")
    add_field_flags(parser, "many", Many, leave_out=("left_out",))
    assert given(parser.parse_args(arguments), "many") == values
    shown = " ".join(parser.format_help().split())
    assert "of things. --blocks" in shown and "{red,green} of them all. (default red)" in shown
    assert "left-out" not in shown


@pytest.mark.parametrize("arguments", [["--blocks", "-1"], ["--blocks", "x"], ["--colour", "blue"]])
def test_wrong_flags_of_several_values(arguments: list[str]) -> None:
    parser = CommandParser(prog="toy")
    add_field_flags(parser, "many", Many, leave_out=())
    with pytest.raises(LosparseError, match=f"argument {arguments[0]}: .*see toy --help"):
        parser.parse_args(arguments)


def test_a_field_of_an_unknown_type_is_a_defect() -> None:
    @dataclass
    class Odd:
        names: dict[str, int]

    with pytest.raises(TypeError, match="'names'"):
        toy_parser(Odd)


def test_a_missing_optional_package_is_named(losparse: Command) -> None:
    missing = failing(ModuleNotFoundError("No module named 'onnx_ir'", name="onnx_ir"))
    losparse("export", load=missing).refused("export needs onnx_ir: pip install 'losparse[export]'")


@pytest.mark.parametrize(
    ("command", "extra"),
    [("estimate", "export"), ("check", "export"), ("demo", "all"), ("compress", "train"), ("inspect", "train")],
)
def test_the_extra_is_the_commands_and_not_the_packages(losparse: Command, command: str, extra: str) -> None:
    for error in (ModuleNotFoundError("none", name="pydantic"), MissingPackageError("none", name="pydantic")):
        losparse(command, load=failing(error)).refused(f"{command} needs pydantic: pip install 'losparse[{extra}]'")


@pytest.mark.parametrize(
    ("program", "line"),
    [
        ("import losparse; losparse.compress_", "losparse.compress_ needs torch: pip install 'losparse[train]'"),
        (
            "import losparse_export; losparse_export.export_model",
            "losparse_export.export_model needs torch: pip install 'losparse[export]'",
        ),
        (
            "from losparse.saving.headers import read_header; from pathlib import Path; read_header(Path('none'))",
            "reading a checkpoint needs safetensors: pip install 'losparse[train]'",
        ),
    ],
)
def test_missing_packages_in_python_name_the_extra_too(program: str, line: str) -> None:
    names = ("torch", "safetensors", "transformers", "pydantic")
    blocked = f"import sys; sys.modules.update(dict.fromkeys({names!r}))\n"
    caught = "\ntry:\n    {0}\nexcept ImportError as error:\n    print(error)\n    assert isinstance(error, ValueError)"
    found = subprocess.run(
        [sys.executable, "-c", blocked + caught.format(program)], capture_output=True, text=True, check=True
    )
    assert found.stdout == f"{line}\n"
