"""The one exception a user of losparse is meant to read.

`LosparseError` is raised for input that a user can mend: its message is one line that names the thing, what is
allowed, what came, and the way out. The command line prints it and exits with code 2. Anything else that escapes
is a defect of losparse.
"""

from __future__ import annotations


class LosparseError(ValueError):
    """Input that losparse refuses; the message says what to change."""
