"""The public names, and that importing them loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

import losparse_export


def test_all_names_are_there_and_sorted():
    for name in losparse_export.__all__:
        assert getattr(losparse_export, name) is not None
    assert set(losparse_export.__all__) == set(losparse_export._HOMES) == set(dir(losparse_export))
    constants = [name for name in losparse_export.__all__ if name.isupper()]
    assert losparse_export.__all__[: len(constants)] == sorted(constants)


def test_unknown_name():
    with pytest.raises(AttributeError, match="has no attribute 'nope'"):
        losparse_export.nope  # noqa: B018


def test_import_loads_neither_torch_nor_onnx():
    path = [p for p in sys.path if p]
    program = (
        f"import sys; sys.path[:0] = {path!r}; import losparse_export; print({{'torch', 'onnx'}} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
