"""Errors of the serving package: one small tree.

    LosparseRuntimeError
    |-- DependencyError   onnxruntime or tokenizers is not installed (also an ImportError)
    |-- FolderError       a folder, file or metadata field is missing, damaged, or does not match its model
    |-- ProviderError     an execution provider is unknown, not installed, or was dropped by onnxruntime
    |-- TokenizerError    the folder's tokenizer is missing or cannot be read
    |-- InputError        an argument of a call is wrong (also a ValueError)
    |-- BusyError         too much waits already, or what would answer is closing; later it may be another matter
    |-- DeadlineError     the answer was not there in time
    `-- RunError          the model failed while running, or gave numbers that cannot be used

Every message is one line that names the thing, what is allowed, what came, and the way out.
"""

from __future__ import annotations

import re
import unicodedata

# "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from x/model.onnx failed:": said by whoever wraps the message.
_ORT_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed: ?)?")
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of characters that are none: controls, formats, halves of pairs, ends of lines and paragraphs."""
# onnxruntime repeats whole graphs in some messages; one line of a terminal is enough to act on.
_MESSAGE_LIMIT = 300


class LosparseRuntimeError(Exception):
    """Anything this package raises on purpose.

    Args:
        message: one line. What cannot be seen in it is written as Python code has it: names in a folder that came from
            elsewhere shall neither end a line of a log nor move a cursor.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(map(_shown, message)))


class DependencyError(LosparseRuntimeError, ImportError):
    """A package that this call needs is not installed or does not load."""


class FolderError(LosparseRuntimeError):
    """An exported folder is missing, incomplete, damaged, or contradicts its own metadata."""


class ProviderError(LosparseRuntimeError):
    """An execution provider cannot be used here."""


class TokenizerError(LosparseRuntimeError):
    """The tokenizer of a folder cannot be used."""


class InputError(LosparseRuntimeError, ValueError):
    """An argument is of the wrong type, shape or range."""


class BusyError(LosparseRuntimeError):
    """Nothing more is taken now.

    Args:
        message: one line.
        retry_after_s: seconds after which another try is worth while, >= 1.
    """

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineError(LosparseRuntimeError):
    """The time that was given for an answer is over."""


class RunError(LosparseRuntimeError):
    """The model ran into an error, or its outputs are not finite."""


def one_line(error: BaseException) -> str:
    """The message of another library's error as one line of bounded length."""
    text = _ORT_PREFIX.sub("", " ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= _MESSAGE_LIMIT else text[: _MESSAGE_LIMIT - 3] + "..."


def is_plain(text: str) -> bool:
    """Tell whether a text has nothing in it that moves a cursor, ends a line or cannot be written as UTF-8."""
    return not any(unicodedata.category(each) in _UNSEEN for each in text)


def _shown(character: str) -> str:
    return character if is_plain(character) else character.encode("unicode_escape").decode("ascii")
