"""Output folders come whole or not at all, and replace only what losparse wrote."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from losparse.errors import LosparseError
from losparse.saving.staging import EXPORT, Writer, check_out, staged_folder

REPORT = "losparse_report.json"


def written(out: Path, text: str, *, overwrite: bool = False) -> None:
    with staged_folder(out, overwrite=overwrite) as folder:
        (folder / REPORT).write_text(text)


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with staged_folder(out) as folder:
        (folder / "a").write_text("x")
        assert not out.exists() and folder.parent == out.parent
    assert (out / "a").read_text() == "x" and os.listdir(out.parent) == ["out"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(tmp_path: Path, failure: type[BaseException]) -> None:
    with pytest.raises(failure), staged_folder(tmp_path / "out") as folder:
        (folder / "half").write_text("x")
        raise failure
    assert os.listdir(tmp_path) == []


def test_an_existing_folder_is_refused_and_kept(tmp_path: Path) -> None:
    written(tmp_path / "out", "one")
    with pytest.raises(
        LosparseError, match=r"^OUT '.*out' exists; choose another, or replace it with overwrite=True \(-"
    ):
        written(tmp_path / "out", "two")
    assert (tmp_path / "out" / REPORT).read_text() == "one"


def test_a_folder_that_comes_while_another_is_made_is_kept(tmp_path: Path) -> None:
    with pytest.raises(LosparseError, match="exists"), staged_folder(tmp_path / "out"):
        (tmp_path / "out").mkdir()
    assert os.listdir(tmp_path) == ["out"]


def test_the_new_folder_replaces_the_whole_old_one(tmp_path: Path) -> None:
    written(tmp_path / "out", "one")
    (tmp_path / "out" / "stale").touch()
    written(tmp_path / "out", "two", overwrite=True)
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == [REPORT]
    assert (tmp_path / "out" / REPORT).read_text() == "two"


def test_the_old_folder_stays_until_the_new_one_stands(tmp_path: Path) -> None:
    written(tmp_path / "out", "one")
    with pytest.raises(RuntimeError), staged_folder(tmp_path / "out", overwrite=True):
        assert (tmp_path / "out" / REPORT).read_text() == "one"
        raise RuntimeError
    assert (tmp_path / "out" / REPORT).read_text() == "one" and os.listdir(tmp_path) == ["out"]


def test_a_swap_that_fails_brings_the_old_folder_back(tmp_path: Path) -> None:
    """The new folder cannot take its place where it is gone by then; the old one had made room already."""

    class Removes(Writer):
        """The last that is asked before the swap takes the new folder away."""

        def wrote(self, folder: Path) -> bool:
            for made in folder.parent.glob(".out.*.tmp"):
                shutil.rmtree(made)
            return True

    written(tmp_path / "out", "one")
    with (
        pytest.raises(FileNotFoundError),
        staged_folder(tmp_path / "out", overwrite=True, replaces=Removes("a test", ())) as folder,
    ):
        (folder / REPORT).write_text("two")
    assert (tmp_path / "out" / REPORT).read_text() == "one" and os.listdir(tmp_path) == ["out"]


def test_only_folders_of_losparse_are_replaced(tmp_path: Path) -> None:
    thesis, empty, export = (tmp_path / name for name in ("thesis", "empty", "export"))
    for folder in (thesis, empty, export):
        folder.mkdir()
    (thesis / "chapter.txt").touch()
    (export / "losparse.json").touch()
    with pytest.raises(LosparseError, match=r"thesis' was not written by losparse, so it is not replaced; choose an"):
        check_out(thesis, overwrite=True)
    for folder in (empty, export):
        check_out(folder, overwrite=True)
        check_out(folder, overwrite=True, replaces=EXPORT)


def test_an_export_does_not_replace_a_checkpoint(tmp_path: Path) -> None:
    written(tmp_path / "out", "hours of training")
    with pytest.raises(LosparseError, match=r"out' was not written by losparse export, so it is not replaced"):
        check_out(tmp_path / "out", overwrite=True, replaces=EXPORT)
    check_out(tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("content", ["{}", "[]", "no json", '{"versions": {"torch": "2"}}'])
def test_a_folder_with_a_report_of_another_program_is_never_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text(content)
    with pytest.raises(LosparseError, match="was not written by losparse"):
        check_out(tmp_path / "out", overwrite=True)


def test_the_demos_folder_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text('{"versions": {"losparse": "0.1"}}')
    check_out(tmp_path / "out", overwrite=True)


def test_links_and_files_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, kind in (("file", "a file"), ("link", "a link")):
        with pytest.raises(LosparseError, match=rf"{name}' is {kind}, and only a folder is replaced"):
            check_out(tmp_path / name, overwrite=True)


def test_the_input_is_never_the_output(tmp_path: Path) -> None:
    (tmp_path / "in" / "model").mkdir(parents=True)
    for out in (tmp_path / "in" / "model", tmp_path / "in"):
        with pytest.raises(LosparseError, match="OUT must be another folder than its input"):
            check_out(out, overwrite=True, sources=(tmp_path / "in" / "model",))
    for out in (tmp_path / "in" / "model" / "onnx", tmp_path / "in" / "model" / "a" / "b"):
        with pytest.raises(LosparseError, match=r"OUT must not lie within its input '.*model', got '.*'"):
            check_out(out, overwrite=True, sources=(tmp_path / "in" / "model",))
    check_out(tmp_path / "in" / "model-onnx", overwrite=False, sources=(tmp_path / "in" / "model",))


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LosparseError, match=r"file: cannot be written .*; choose another OUT"):
        written(tmp_path / "file" / "out", "one")


def test_files_get_the_permissions_of_new_ones_and_links_stay_as_they_are(tmp_path: Path) -> None:
    private, other = tmp_path / "private", tmp_path / "other"
    private.touch(mode=0o600)
    other.touch()
    with staged_folder(tmp_path / "out") as folder:
        (folder / "made").touch(mode=0o600)
        (folder / "link").symlink_to(private)
    assert (tmp_path / "out" / "made").stat().st_mode == other.stat().st_mode
    assert private.stat().st_mode & 0o777 == 0o600
