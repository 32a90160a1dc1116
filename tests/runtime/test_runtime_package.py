"""What importing the package brings, and what it must not."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import losparse_runtime
from losparse_runtime import dependencies, errors
from losparse_runtime.errors import DependencyError, LosparseRuntimeError, one_line

PACKAGE_PARENT = str(Path(losparse_runtime.__file__).parents[1])


def heavy_after(statements: str) -> str:
    """The training and export packages that a fresh interpreter has loaded after running these statements."""
    script = (
        f"import sys, losparse_runtime; {statements}; "
        "print(sorted({name.split('.')[0] for name in sys.modules}"
        " & {'torch', 'transformers', 'onnx', 'onnx_ir', 'losparse', 'losparse_export', 'safetensors'}))"
    )
    environment = {**os.environ, "PYTHONPATH": PACKAGE_PARENT}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_loads_nothing_heavy() -> None:
    assert heavy_after("pass") == "[]"


def test_classifying_loads_nothing_heavy(make_folder: Callable[..., Any]) -> None:
    assert heavy_after(f"losparse_runtime.Session({str(make_folder().path)!r}, threads=1).classify('a b')") == "[]"


def test_all_is_sorted_and_is_what_is_public() -> None:
    public = {
        name
        for name, value in vars(losparse_runtime).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    # `measure` and `compare` are functions that hide the modules they come from.
    assert losparse_runtime.__all__ == sorted(public)


def test_every_public_thing_has_a_docstring() -> None:
    assert [name for name in losparse_runtime.__all__ if not getattr(losparse_runtime, name).__doc__] == []


def test_the_error_tree_is_the_one_drawn() -> None:
    drawn = {word.strip("|-` ").split()[0] for word in (errors.__doc__ or "").splitlines() if "--" in word}
    real = {kind.__name__ for kind in LosparseRuntimeError.__subclasses__()}
    assert drawn == real


@pytest.mark.parametrize(
    ("function", "module", "message"),
    [
        (
            dependencies.import_onnxruntime,
            "onnxruntime",
            r"^onnxruntime cannot be .*losparse\[runtime\].*losparse\[gpu\]",
        ),
        (dependencies.import_tokenizers, "tokenizers", r"^tokenizers cannot be .*: pip install 'losparse\[runtime\]'$"),
    ],
)
def test_a_missing_dependency_names_the_way_out(
    monkeypatch: pytest.MonkeyPatch, function: object, module: str, message: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # what Python has where an import fails
    assert callable(function)
    with pytest.raises(DependencyError, match=message) as raised:
        function()
    assert isinstance(raised.value, ImportError)


def test_what_is_left_of_onnxruntime_after_one_of_two_packages_went_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "onnxruntime" / "capi").mkdir(parents=True)  # no __init__.py: Python imports it as a namespace
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # so that what was there before comes back
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])  # the import itself is what is shown: nothing else is installed
    for name in ("onnxruntime", "onnxruntime_gpu"):
        (tmp_path / f"{name}-1.31.1.dist-info").mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.31.1\n"
        (tmp_path / f"{name}-1.31.1.dist-info" / "METADATA").write_text(metadata)
    assert dependencies.installed_onnxruntimes() == ["onnxruntime", "onnxruntime-gpu"]
    with pytest.raises(DependencyError, match=r"in parts only.*; pip uninstall onnxruntime onnxruntime-gpu, then pip"):
        dependencies.import_onnxruntime()


def test_one_line_is_one_line_of_bounded_length() -> None:
    assert one_line(ValueError("a\n  b\tc")) == "a b c"
    assert one_line(KeyError()) == "KeyError"
    assert len(one_line(ValueError("x" * 5000))) == 300
