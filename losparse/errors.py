"""The one exception a user of losparse is meant to read.

`LosparseError` is raised for input that a user can mend: its message is one line that names the thing, what is
allowed, what came, and the way out. The command line prints it and exits with code 2. Anything else that escapes
is a defect of losparse.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class LosparseError(ValueError):
    """Input that losparse refuses; the message says what to change."""


_OPTIONAL = frozenset(
    {
        "accelerate",
        "cryptography",
        "datasets",
        "fastapi",
        "fastapi_offline",
        "onnx",
        "onnx_ir",
        "onnxruntime",
        "onnxscript",
        "peft",
        "prometheus_client",
        "pydantic",
        "safetensors",
        "scipy",
        "tokenizers",
        "torch",
        "transformers",
        "uvicorn",
        "yaml",
    }
)
"""Modules that only extras install."""


class MissingPackageError(LosparseError, ImportError):
    """A package is not installed that an extra of losparse installs."""

    def __init__(self, message: str, *, name: str) -> None:
        """Put it together.

        Args:
            message: says the package and the extra.
            name: of the package's module.
        """
        super().__init__(message)
        self.name = name


def missing_package(error: BaseException) -> str | None:
    """Return the module of an extra that an error says is missing; None of other errors."""
    name = str(error.name).partition(".")[0] if isinstance(error, ModuleNotFoundError | MissingPackageError) else ""
    return name if name in _OPTIONAL else None


@contextmanager
def names_extra(what: str, extra: str) -> Iterator[None]:
    """Say which extra has the package that the block cannot import.

    Args:
        what: what needs it.
        extra: of losparse.

    Raises:
        MissingPackageError: a package of an extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        name = missing_package(error)
        if name is None:
            raise
        raise MissingPackageError(f"{what} needs {name}: pip install 'losparse[{extra}]'", name=name) from error


_SHOWN = 80


def shown(value: object) -> str:
    """Return a value, or another library's message, as a short piece of one line, for a message.

    Spaces of a text are all shown: it may differ from another one by them alone.
    """
    try:
        text = str(value) if isinstance(value, Exception) else repr(value)
        text = text if isinstance(value, str) else " ".join(text.split())
    except (RecursionError, ValueError):  # nested too deep to be written, or an integer of too many digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
