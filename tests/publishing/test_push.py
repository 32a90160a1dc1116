"""A folder on the hub: what is sent, what is refused, and that the card says nothing of this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, ModelCard

from losparse import CardSettings, push_to_hub
from losparse.cli.main import main
from losparse.errors import LosparseError
from losparse_runtime import FolderError, Session, new_key, sign_folder, verify_folder
from losparse_runtime.contract.files import record_files

from .conftest import TOKEN, Hub

MakeFolder = Callable[..., Any]

REPO = "me/model"


@pytest.fixture(autouse=True)
def _no_hub_but_ours(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub reads its settings when it is imported; other tests switch it off."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def api(hub: Hub, token: str = TOKEN) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=token)


def is_private(hub: Hub) -> bool:
    """Whether the repository was made so; releases of the client say it by one name or the other."""
    asked = hub.repos[REPO]["asked"]
    return asked.get("private") is True or asked.get("visibility") == "private"


def whole(make_folder: MakeFolder, task: str = "text-classification", **options: Any) -> Path:
    """A folder that lists all its files, as an export does."""
    folder = make_folder(task, **options)
    folder.edit(
        lambda data: data.update(
            files={name: {"bytes": r.bytes, "sha256": r.sha256} for name, r in record_files(folder.path).items()}
        )
    )
    return Path(folder.path)


def test_all_files_arrive_in_one_commit_and_open_again(hub: Hub, make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = whole(make_folder)
    done = push_to_hub(folder, REPO, private=True, api=api(hub))
    assert done.url == f"{hub.endpoint}/{REPO}/commit/{'0' * 40}" and not done.removed
    assert is_private(hub)
    files = hub.repos[REPO]["branches"]["main"]
    assert set(files) == set(done.files) == {"README.md", *(file.name for file in folder.iterdir())}
    assert sum("/commit/" in each for each in hub.asked) == 1
    for name, content in files.items():
        (tmp_path / "again" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "again" / name).write_bytes(content)
    texts = ["a b", "c"]
    assert Session(tmp_path / "again").classify(texts) == Session(folder).classify(texts)
    assert not (folder / "README.md").exists()  # the folder is as it was


def test_a_signed_folder_is_verified_where_it_arrives(hub: Hub, make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = whole(make_folder)
    private, public = new_key(tmp_path / "release.pem")
    sign_folder(folder, private)
    push_to_hub(folder, REPO, api=api(hub))
    files = hub.repos[REPO]["branches"]["main"]
    cache = tmp_path / f"models--{REPO.replace('/', '--')}"  # as the hub's client keeps what it fetched
    arrived = cache / "snapshots" / ("0" * 40)
    arrived.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for name, content in files.items():
        blob = hashlib.sha256(content).hexdigest()
        (cache / "blobs" / blob).write_bytes(content)
        (arrived / name).symlink_to(Path("../../blobs") / blob)
    found = verify_folder(arrived, public)
    assert found.passed and found.compared and found.beside == ("README.md",)
    assert Session(arrived, verify=public).classify("a b") == Session(folder).classify("a b")
    (folder / "losparse.json.sig").unlink()
    assert push_to_hub(folder, REPO, api=api(hub)).removed == ("losparse.json.sig",)


def test_a_branch_is_made_and_a_repository_is_used_again(hub: Hub, make_folder: MakeFolder) -> None:
    folder = whole(make_folder)
    push_to_hub(folder, REPO, api=api(hub))
    for _ in range(2):
        push_to_hub(folder, REPO, revision="next", api=api(hub))
    assert set(hub.repos[REPO]["branches"]["next"]) == set(hub.repos[REPO]["branches"]["main"])
    assert not is_private(hub)


def test_graphs_of_an_earlier_push_go_and_other_files_stay(hub: Hub, make_folder: MakeFolder) -> None:
    folder = whole(make_folder)
    push_to_hub(folder, REPO, api=api(hub))
    files = hub.repos[REPO]["branches"]["main"]
    files |= {name: b"" for name in ("model_q4.onnx", "onnx/model.onnx.data", "plan-int8.json", "LICENSE", "a.json")}
    done = push_to_hub(folder, REPO, api=api(hub))
    assert sorted(done.removed) == ["model_q4.onnx", "onnx/model.onnx.data", "plan-int8.json"]
    assert {"LICENSE", "a.json"} < set(files) and not set(done.removed) & set(files)


def test_a_dry_run_sends_nothing_and_its_card_is_sent_as_it_stands(hub: Hub, make_folder: MakeFolder) -> None:
    folder = whole(make_folder)
    planned = push_to_hub(folder, REPO, dry_run=True, api=api(hub))
    assert hub.asked == [] and planned.url is None
    card = folder / "README.md"
    assert planned.files["README.md"] == card.stat().st_size
    card.write_text(card.read_text() + "\nWritten by hand.\n")
    push_to_hub(folder, REPO, api=api(hub))
    assert hub.repos[REPO]["branches"]["main"]["README.md"].endswith(b"\nWritten by hand.\n")


@pytest.mark.parametrize(
    ("token", "refuses", "message"),
    [
        ("hf_other", None, r"it knows no such token, or none was given; `hf auth login`, or set HF_TOKEN"),
        (TOKEN, 403, r"the token may not write there; take one that may, or another owner"),
        (TOKEN, 500, r"500 Internal Server Error"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    hub: Hub, make_folder: MakeFolder, token: str, refuses: int | None, message: str
) -> None:
    hub.refuses = refuses
    with pytest.raises(LosparseError, match=rf"^'.*made' was not pushed to 'me/model': .*{message}") as raised:
        push_to_hub(whole(make_folder), REPO, api=api(hub, token))
    assert "\n" not in str(raised.value) and TOKEN not in str(raised.value) and not hub.repos


def test_a_hub_that_is_not_there(make_folder: MakeFolder) -> None:
    with pytest.raises(LosparseError, match=r"was not pushed to 'me/model': .*[Cc]onnect"):
        push_to_hub(whole(make_folder), REPO, api=HfApi(endpoint="http://127.0.0.1:9", token=TOKEN))


def test_what_is_refused_before_the_hub_is_asked(hub: Hub, make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = whole(make_folder)
    for repo in ("model", "a/b/c", "../x", "me/"):
        with pytest.raises(LosparseError, match=rf"^REPO must be a hub id as owner/name, got '{repo}'$"):
            push_to_hub(folder, repo, api=api(hub))
    with pytest.raises(FolderError, match="no such folder"):
        push_to_hub(tmp_path / "none", REPO, api=api(hub))
    (folder / "config.json").write_text((folder / "config.json").read_text().replace("12", "13"))
    with pytest.raises(FolderError, match="the file changed after the export"):
        push_to_hub(folder, REPO, api=api(hub))
    assert hub.asked == []


def test_the_card_says_nothing_of_this_machine(make_folder: MakeFolder) -> None:
    folder = whole(make_folder, name="secret-place")
    push_to_hub(folder, REPO, dry_run=True)
    card = (folder / "README.md").read_text()
    for secret in ("secret-place", str(Path.home()), os.uname().nodename, str(folder.parent)):
        assert secret not in card


def test_the_command(hub: Hub, make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]) -> None:
    folder = whole(make_folder)
    assert main(["push", str(folder), REPO, "--dry-run", "--license", "mit", "--tags", "fast", "small"]) == 0
    assert "would be sent to me/model" in capsys.readouterr().out
    header = ModelCard.load(folder / "README.md").data
    assert header.license == "mit" and {"fast", "small"} < set(header.tags)
    assert main(["push", str(folder), "me"]) == 2
    assert capsys.readouterr().err == "losparse: error: REPO must be a hub id as owner/name, got 'me'\n"
    assert hub.asked == []


@pytest.mark.parametrize(("token", "code"), [(TOKEN, 0), ("hf_other", 2)])
def test_the_command_takes_hub_and_token_from_the_environment(
    hub: Hub, make_folder: MakeFolder, token: str, code: int
) -> None:
    """huggingface_hub reads both when it is imported, so in a process of its own."""
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0"}
    words = [sys.executable, "-m", "losparse.cli", "push", str(whole(make_folder)), REPO, "--private"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    if code:
        assert done.stderr.startswith("losparse: error: ") and done.stderr.count("\n") == 1
        assert "`hf auth login`" in done.stderr and not hub.repos
    else:
        assert done.stdout.splitlines()[-1] == f"{hub.endpoint}/{REPO}/commit/{'0' * 40}" and is_private(hub)


def test_settings_are_checked() -> None:
    assert CardSettings(tags=("a",)).tags == ("a",)
    with pytest.raises(LosparseError, match="license"):
        CardSettings(license=3)  # type: ignore[arg-type]


def test_the_files_of_a_build_are_those_that_it_ships(hub: Hub, make_folder: MakeFolder, tmp_path: Path) -> None:
    build = tmp_path / "build"
    build.mkdir()
    whole(make_folder).rename(build / "onnx")
    (build / "build.json").write_text(json.dumps({"format": 1, "name": "n", "models": {}}))
    done = push_to_hub(build, REPO, api=api(hub))
    assert done.folder == build / "onnx" and "build.json" not in done.files
