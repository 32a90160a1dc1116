"""Entry of the command line: picks the command, and turns every failure into one line and an exit code.

    0  done               2  input that the user can mend: one line on stderr, nothing written
    1  a check failed     3  a defect of losparse: one line with the exception's type; --traceback shows where
                        130  interrupted

Only the module of the command that runs is imported, so `losparse --help` loads neither torch nor onnxruntime.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol, cast

from .. import __version__
from ..errors import LosparseError, missing_package
from .parser import CommandParser

COMMANDS = {
    "build": "one recipe: compress, export, check, time, gate and report",
    "recipe": "write a recipe to begin with, or check one",
    "tune": "search for the compression that reaches a target, and build it",
    "report": "write the page of a build, alone or beside another build",
    "compress": "compress a model while fine-tuning it, or without training",
    "estimate": "measure what compression would bring, before anyone trains",
    "export": "write a checkpoint, compressed or dense, as an ONNX folder",
    "check": "compare an ONNX folder with the model it came from",
    "eval": "measure a model: perplexity, right answers among choices, metrics of labelled texts",
    "golden": "record what a model says, to check its ONNX folder without it",
    "bench": "time an ONNX folder, alone or against another one",
    "run": "run an ONNX folder on texts",
    "serve": "answer requests over HTTP with one ONNX folder or several",
    "doctor": "look at what is installed and at the machine, and say what to mend",
    "sign": "vouch for an ONNX folder with a key",
    "verify": "compare an ONNX folder with its digests and its signature",
    "push": "put an ONNX folder on the hub, with a model card",
    "package": "put an ONNX folder into a model repository of NVIDIA Triton",
    "methods": "list the methods, what each needs and where it comes from",
    "inspect": "show what the layers of a folder store",
    "demo": "all of it, on a model and texts that need no files of yours",
}

OK, CHECK_FAILED, USER_ERROR, DEFECT, INTERRUPTED = 0, 1, 2, 3, 130

_EXTRAS = {
    "build": "all",
    "recipe": "all",
    "report": "report",
    "tune": "all",
    "estimate": "export",
    "export": "export",
    "check": "export",
    "golden": "export",
    "eval": "export",
    "bench": "runtime",
    "run": "runtime",
    "serve": "serve",
    "doctor": "runtime",
    "sign": "sign",
    "verify": "sign",
    "push": "export",
    "package": "runtime",
    "demo": "all",
}
"""The extra that has all that a command may need; `train` for the others."""


class Command(Protocol):
    """A command: a module of this package."""

    def add_options(self, parser: CommandParser, /) -> None:
        """Add its options, and as the default of `run` what does the work and returns an exit code."""


Load = Callable[[str], Command]
"""Returns the command of a name."""


def load_command(name: str) -> Command:
    """Import the module of a command."""
    return cast("Command", import_module(f".{name}", __package__))


def main(argv: Sequence[str] | None = None, load: Load = load_command) -> int:
    """Run one command; returns its exit code.

    Args:
        argv: arguments after the program's name; default: those of the process.
        load: returns the command that is asked for.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        options = build_parser(arguments, load).parse_args(arguments)
        os.environ.setdefault("LOSPARSE_HOLD_PANICS", "1")  # stderr is this process's own: one line is enough
        with warnings.catch_warnings():
            if not options.verbose and not sys.warnoptions:
                warnings.simplefilter("ignore")  # other people's deprecations are not the user's business
            logging.basicConfig(level=logging.WARNING, format="losparse: %(message)s")
            for package in ("losparse", "losparse_export", "losparse_runtime"):
                logging.getLogger(package).setLevel(logging.INFO if options.verbose else logging.WARNING)
            code: int = options.run(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as error:
        print("losparse: interrupted" + (f"; {error}" if str(error) else ""), file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of stdout (`| head`) has what it wanted; without this, Python complains again while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except BaseException as error:
        # Of BaseExceptions those that Rust's panics come as are reported like any other error. `text.panics` says so
        # too; it is not imported here, where --help ends as well.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if "--traceback" in arguments:
            traceback.print_exc()
        return _report(error, _chosen(arguments) or "losparse")


def build_parser(arguments: Sequence[str], load: Load = load_command) -> CommandParser:
    """Build the parser; only the command that is asked for gets its options."""
    parser = CommandParser(
        prog="losparse",
        description="Compress transformers by low rank plus structured sparsity, down to a fast ONNX model.",
        epilog="losparse COMMAND --help shows the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"losparse {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    chosen = _chosen(arguments)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name == chosen:
            load(name).add_options(command)
            common = command.add_argument_group("common")
            common.add_argument("--verbose", action="store_true", help="say on stderr what is being done")
            common.add_argument("--traceback", action="store_true", help="show where an error came from")
    return parser


def _chosen(arguments: Sequence[str]) -> str | None:
    """Return the command that is asked for, if one is."""
    return next((argument for argument in arguments if not argument.startswith("-")), None)


def _report(error: BaseException, command: str) -> int:
    """Print one line for an exception of a command; returns the exit code."""
    message = " ".join(str(error).split())
    package = missing_package(error)
    if package is not None:
        code = USER_ERROR
        message = f"{command} needs {package}: pip install 'losparse[{_EXTRAS.get(command, 'train')}]'"
    elif isinstance(error, MemoryError):
        code = USER_ERROR
        message = f"the memory of this machine is not enough ({message or 'no more was granted'}); take smaller batches"
    elif isinstance(error, LosparseError | OSError) or _is_runtime_error(error):
        code = USER_ERROR
    else:
        code = DEFECT
        message = f"unexpected {type(error).__name__}: {message}; add --traceback to see where, and report it"
    print(f"losparse: error: {message}", file=sys.stderr)
    return code


def _is_runtime_error(error: BaseException) -> bool:
    """Tell whether the serving package raised it, without importing that package."""
    errors = sys.modules.get("losparse_runtime.errors")
    return errors is not None and isinstance(error, errors.LosparseRuntimeError)


if __name__ == "__main__":
    sys.exit(main())
