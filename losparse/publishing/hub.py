"""`push_to_hub`: an exported folder as a model on the hub, in one commit."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from losparse_runtime.contract.files import METADATA_FILE, verify_files
from losparse_runtime.contract.records import SIGNATURE_FILE

from ..errors import LosparseError
from ..saving.source import hub_reason
from .card import model_card
from .facts import read_facts
from .settings import CardSettings

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD_FILE = "README.md"
_MAIN = "main"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Pushed:
    """What was sent, or would be.

    Attributes:
        repo: hub id.
        folder: what is sent of.
        files: bytes by name in the repository, the card first.
        removed: names that an earlier push left there, of which the folder has none now.
        url: of the commit; None where nothing was sent.
    """

    repo: str
    folder: Path
    files: Mapping[str, int]
    removed: tuple[str, ...] = ()
    url: str | None = None


def push_to_hub(
    folder: Path | str,
    repo: str,
    settings: CardSettings | None = None,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str = "Upload of an ONNX folder by losparse",
    token: str | None = None,
    dry_run: bool = False,
    api: HfApi | None = None,
) -> Pushed:
    """Put an exported folder on the hub, with a model card that carries its numbers.

    The card is README.md of the folder, where that has one: a dry run writes it, for a person to change.

    Args:
        folder: what `losparse export` wrote, or the folder of a build, whose `onnx` is sent.
        repo: hub id ("owner/name"); made where there is none.
        settings: what the card says beside what is in the folder.
        private: of a repository that is made; None for what its owner has set.
        revision: branch; made where there is none. `main` by default.
        message: of the commit.
        token: of the hub; that of `hf auth login`, or of HF_TOKEN, by default.
        dry_run: send nothing, and write the card into the folder.
        api: of the hub; by default huggingface_hub's, at HF_ENDPOINT.

    Returns:
        What was sent.

    Raises:
        FolderError: there is no exported folder, or its files are not what the export wrote.
        LosparseError: the hub refuses, or cannot be reached.
    """
    repo = _checked_id(repo)
    facts = read_facts(Path(folder))
    verify_files(facts.place)
    file = facts.place / CARD_FILE
    card = file.read_bytes() if file.is_file() else model_card(facts, repo, settings).encode()
    signed = [SIGNATURE_FILE] if (facts.place / SIGNATURE_FILE).is_file() else []
    names = [METADATA_FILE, *signed, *(name for name in facts.folder.files if name != CARD_FILE)]
    sizes = {name: (facts.place / name).stat().st_size for name in names}
    planned = Pushed(repo, facts.place, {CARD_FILE: len(card), **sizes})
    if dry_run:
        file.write_bytes(card)
        return planned
    return _send(planned, card, api, private=private, revision=revision, message=message, token=token)


def _checked_id(repo: str) -> str:
    if not _HUB_ID.fullmatch(repo):
        raise LosparseError(f"REPO must be a hub id as owner/name, got '{repo}'")
    return repo


def _send(
    planned: Pushed,
    card: bytes,
    api: HfApi | None,
    *,
    private: bool | None,
    revision: str | None,
    message: str,
    token: str | None,
) -> Pushed:
    """Make the repository and the branch where they are missing, and commit all files at once."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    hub = api or HfApi(token=token)
    adds = [
        CommitOperationAdd(name, card if name == CARD_FILE else str(planned.folder / name)) for name in planned.files
    ]
    try:
        hub.create_repo(planned.repo, private=private, exist_ok=True)
        if revision is not None:
            hub.create_branch(planned.repo, branch=revision, exist_ok=True)
        there = hub.list_repo_files(planned.repo, revision=revision or _MAIN)
        removed = _left_over(there, planned.files)
        done = hub.create_commit(
            planned.repo,
            [*adds, *(CommitOperationDelete(name) for name in removed)],
            commit_message=message,
            revision=revision,
        )
    except Exception as error:  # the hub client raises many unrelated types: network, no token, no rights, offline
        raise LosparseError(f"'{planned.folder}' was not pushed to '{planned.repo}': {_said(error)}") from error
    return Pushed(planned.repo, planned.folder, planned.files, removed, str(done.commit_url))


def _left_over(there: Sequence[str], files: Collection[str]) -> tuple[str, ...]:
    """Return graphs, weights, plans and a signature that the folder has not, which an earlier push left."""

    def ours(name: str) -> bool:
        last = name.rpartition("/")[2]
        plan = last.startswith("plan") and last.endswith(".json")
        return plan or last == SIGNATURE_FILE or last.endswith((".onnx", ".onnx.data"))

    return tuple(name for name in there if name not in files and ours(name))


def _said(error: Exception) -> str:
    """Return what the hub says, with the way out where that is known."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    ways: dict[object, str] = {
        401: "it knows no such token, or none was given; `hf auth login`, or set HF_TOKEN to one that may write",
        403: "the token may not write there; take one that may, or another owner",
    }
    return ways.get(status) or hub_reason(error)
