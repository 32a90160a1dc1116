"""The one exception a user of losparse is meant to read.

`LosparseError` is raised for input that a user can mend: its message is one line that names the thing, what is
allowed, what came, and the way out. The command line prints it and exits with code 2. Anything else that escapes
is a defect of losparse.
"""

from __future__ import annotations


class LosparseError(ValueError):
    """Input that losparse refuses; the message says what to change."""


_SHOWN = 80


def shown(value: object) -> str:
    """Return a value, or another library's message, as a short piece of one line, for a message."""
    try:
        text = " ".join((str(value) if isinstance(value, Exception) else repr(value)).split())
    except (RecursionError, ValueError):  # nested too deep to be written, or an integer of too many digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
