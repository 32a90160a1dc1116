"""Patterns of layers' names."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from ..errors import LosparseError
from .fused import whole_of


def matches(name: str, pattern: str) -> bool:
    """Tell whether a qualified name matches a glob, or a `re:` regular expression as a whole.

    What matches a product that the model keeps for several layers (`fused`) matches each of them.

    Raises:
        LosparseError: the regular expression is malformed.
    """
    whole = whole_of(name)
    if whole is not None and matches(whole, pattern):
        return True
    if not pattern.startswith("re:"):
        return fnmatchcase(name, pattern)
    try:
        return re.fullmatch(pattern[3:], name) is not None
    except re.error as error:
        raise LosparseError(f"pattern {pattern!r} is not a regular expression: {error}") from error
