"""Exported folders with anything in any place: the right answer, or a refusal in one line; never another error."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from losparse_runtime import FolderError, LosparseRuntimeError, Session, verify_files

from ..mutations import VALUES, places, spoil
from .conftest import file_record

MakeFolder = Callable[..., Any]
FILES = ("losparse.json", "config.json", "tokenizer.json", "tokenizer_config.json")
ALL = (*FILES, "model.onnx")

many = settings(
    max_examples=80,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the folder is made once; examples spoil copies
)


@pytest.fixture
def listed(make_folder: MakeFolder) -> Path:
    """A folder whose metadata lists every file, as the exporter writes it."""
    folder: Path = make_folder().path
    records = {name: file_record(folder / name) for name in ALL if name != "losparse.json"}
    data = json.loads((folder / "losparse.json").read_text())
    (folder / "losparse.json").write_text(json.dumps({**data, "files": records}))
    return folder


@contextmanager
def copy_of(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        yield Path(shutil.copytree(folder, Path(place) / "copy"))


def answer(folder: Path) -> NDArray[Any]:
    session = Session(folder, threads=1)
    session.classify("a b c")
    return np.asarray(session.run(session.encode(["a b c d", "e f"], ["g", "h"]))["logits"])


def refusal(call: Callable[[Path], Any], folder: Path) -> str | None:
    """What a call refuses a folder with, None if it takes it; another error than ours fails the test."""
    try:
        call(folder)
    except LosparseRuntimeError as error:
        return str(error)
    return None


@many
@given(st.data())
def test_any_value_in_any_place(listed: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(FILES))
    place = data.draw(st.sampled_from(list(places(json.loads((listed / name).read_text())))))
    value = data.draw(st.sampled_from(VALUES))
    forged = data.draw(st.booleans())
    with copy_of(listed) as folder:
        spoil(folder / name, place, value)
        if forged and name != "losparse.json":  # the fault was there when the folder was written
            metadata = json.loads((folder / "losparse.json").read_text())
            metadata["files"][name] = file_record(folder / name)
            (folder / "losparse.json").write_text(json.dumps(metadata))
        found: list[NDArray[Any]] = []
        message = refusal(lambda path: found.append(answer(path)), folder)
        assert message is None or "\n" not in message
        if message is None and name != "tokenizer.json":  # other words are another tokenizer, which is as legal
            np.testing.assert_array_equal(found[0], answer(listed))
        changed = (folder / name).read_bytes() != (listed / name).read_bytes()
        if changed and not forged and name != "losparse.json":
            assert refusal(verify_files, folder) is not None


@many
@given(st.sampled_from(ALL), st.floats(0, 1, exclude_max=True), st.integers(0, 7), st.booleans())
def test_one_bit_or_a_cut_in_any_file(listed: Path, name: str, share: float, bit: int, cut: bool) -> None:
    with copy_of(listed) as folder:
        content = bytearray((folder / name).read_bytes())
        at = int(share * len(content))
        content[at] ^= 1 << bit
        (folder / name).write_bytes(content[:at] if cut else content)
        message = refusal(answer, folder)
        assert message is None or "\n" not in message
        if name != "losparse.json":
            with pytest.raises(FolderError):
                verify_files(folder)
