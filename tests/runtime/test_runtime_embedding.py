"""How tokens become one vector, and what is put in front of texts; `make test-sentence-transformers` has the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from losparse_runtime import FolderError, InputError, Session, read_metadata
from losparse_runtime.contract.embedding import Embedding
from losparse_runtime.tasks.scoring import pool

MakeFolder = Callable[..., Any]

# Two texts of tokens 1, 2, 3, 6 and 4, 5: two features, the second ten times the first. Padding holds 99.
RIGHT = np.array([[1, 2, 3, 6], [4, 5, 99, 99]], np.float32)[:, :, None] * np.float32([1, 10])
LEFT = np.array([[1, 2, 3, 6], [99, 99, 4, 5]], np.float32)[:, :, None] * np.float32([1, 10])
RIGHT_MASK, LEFT_MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0]]), np.array([[1, 1, 1, 1], [0, 0, 1, 1]])


@pytest.mark.parametrize(("hidden", "mask"), [(RIGHT, RIGHT_MASK), (LEFT, LEFT_MASK)], ids=["right", "left"])
@pytest.mark.parametrize(
    ("pooling", "prompt", "expected"),
    [
        ("mean", 0, [3, 4.5]),
        ("cls", 0, [1, 4]),
        ("max", 0, [6, 5]),
        ("lasttoken", 0, [6, 5]),
        ("mean_sqrt_len_tokens", 0, [12 / 2, 9 / 2**0.5]),
        ("weightedmean", 0, [(1 + 4 + 9 + 24) / 10, (4 + 10) / 3]),
        ("mean", 1, [11 / 3, 5]),
        ("cls", 1, [2, 5]),
        ("max", 1, [6, 5]),
        ("lasttoken", 1, [6, 5]),
        ("mean_sqrt_len_tokens", 1, [11 / 3**0.5, 5]),
        ("weightedmean", 1, [(4 + 9 + 24) / 9, 5]),  # the second token still counts twice
    ],
)
def test_pooling_by_hand(hidden: Any, mask: Any, pooling: str, prompt: int, expected: list[float]) -> None:
    found = pool(hidden, mask, pooling, prompt=prompt)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.array(expected)[:, None] * [1, 10], rtol=1e-6)


def test_several_poolings_are_laid_end_to_end_in_their_order() -> None:
    found = pool(RIGHT, RIGHT_MASK, "lasttoken+cls")
    np.testing.assert_array_equal(found, [[6, 60, 1, 10], [5, 50, 4, 40]])
    unit = pool(RIGHT, RIGHT_MASK, "lasttoken+cls", normalize=True)
    np.testing.assert_allclose(unit, found / np.linalg.norm(found, axis=1, keepdims=True), rtol=1e-6)


SETTINGS = {
    "prompts": {"query": "a b ", "document": ""},
    "default_prompt_name": None,
    "include_prompt": True,
    "truncate_dim": None,
    "similarity": "cosine",
}


def open_session(make_folder: MakeFolder, **changes: Any) -> tuple[Session, Any]:
    """Open a folder of mean pooling, not scaled, with these settings; returns its weights too."""
    folder = make_folder("feature-extraction")
    folder.edit(lambda data: data.update(normalize=False, embedding={**SETTINGS, **changes}))
    return Session(folder.path, threads=1), folder.weights


A, B, C, CLS, SEP = 4, 5, 6, 2, 3


@pytest.mark.parametrize(
    ("changes", "asked", "tokens"),
    [
        ({}, {}, [CLS, C, SEP]),
        ({}, {"prompt_name": "query"}, [CLS, A, B, C, SEP]),
        ({}, {"prompt_name": "document"}, [CLS, C, SEP]),
        ({"default_prompt_name": "query"}, {}, [CLS, A, B, C, SEP]),
        ({"default_prompt_name": "query"}, {"prompt_name": "document"}, [CLS, C, SEP]),
        ({"default_prompt_name": "query"}, {"prompt": "b "}, [CLS, B, C, SEP]),
        ({"default_prompt_name": "query"}, {"prompt": ""}, [CLS, C, SEP]),
        # Its tokens are read, and not pooled; the model of these tests lets tokens stand by themselves.
        ({"default_prompt_name": "query", "include_prompt": False}, {}, [C, SEP]),
        ({"include_prompt": False}, {}, [CLS, C, SEP]),
        ({"include_prompt": False}, {"prompt": "b b b "}, [C, SEP]),
    ],
)
def test_prompts(make_folder: MakeFolder, changes: dict[str, Any], asked: dict[str, str], tokens: list[int]) -> None:
    session, weights = open_session(make_folder, **changes)
    found = session.embed(["c", "c"], **asked)
    np.testing.assert_allclose(found, [weights.hidden(tokens).mean(axis=0)] * 2, rtol=1e-6)


@pytest.mark.parametrize(("size", "kept"), [(3, 3), (9, 4), (None, 4)])
def test_vectors_are_cut_behind_their_scaling(make_folder: MakeFolder, size: int | None, kept: int) -> None:
    session, weights = open_session(make_folder, truncate_dim=size)
    whole = weights.hidden([CLS, C, SEP]).mean(axis=0)
    np.testing.assert_allclose(session.embed("c"), [whole[:kept]], rtol=1e-6)
    folder = make_folder("feature-extraction", name="scaled")
    folder.edit(lambda data: data.update(embedding={**SETTINGS, "truncate_dim": size}))
    unit = (whole / np.linalg.norm(whole))[:kept]
    np.testing.assert_allclose(Session(folder.path, threads=1).embed("c"), [unit], rtol=1e-6)


def test_prompts_that_cannot_be(make_folder: MakeFolder) -> None:
    session, _ = open_session(make_folder, include_prompt=False)
    for asked, message in (
        (
            {"prompt_name": "none"},
            r"^prompt_name must be one of .* \('query', 'document'\), got 'none'",
        ),
        ({"prompt_name": "query", "prompt": "a"}, r"^prompt and prompt_name must not be given both"),
        ({"prompt": 3}, r"^prompt must be a string, got int"),
        ({"prompt": "a " * 20}, r"^prompt has 15 tokens, which leaves no room for a text in 16"),
    ):
        with pytest.raises(InputError, match=message):
            session.embed("c", **asked)


def test_folders_of_earlier_writers_have_no_such_settings(make_folder: MakeFolder) -> None:
    folder = make_folder("feature-extraction")
    assert read_metadata(folder.path).embedding == Embedding()
    with pytest.raises(InputError, match=r"the folder's prompts \(none\), got 'query'"):
        Session(folder.path, threads=1).embed("c", prompt_name="query")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding": []}, r"field 'embedding' must be an object"),
        (
            {"embedding": {**SETTINGS, "prompts": {"query": 3}}},
            r"'embedding.prompts' must be an object of strings",
        ),
        (
            {"embedding": {**SETTINGS, "default_prompt_name": "q"}},
            r"default_prompt_name' must be one of query",
        ),
        ({"embedding": {**SETTINGS, "truncate_dim": 0}}, r"field 'embedding.truncate_dim' must be a whole number >= 1"),
        ({"embedding": {**SETTINGS, "include_prompt": 1}}, r"field 'embedding.include_prompt' must be true or false"),
        ({"embedding": {**SETTINGS, "similarity": "near"}}, r"field 'embedding.similarity' must be one of cosine"),
        ({"pooling": "mean+median"}, r"field 'pooling' must be one of mean, .*, or several joined by \+"),
        ({"pooling": ["mean"]}, r"field 'pooling' must be one of mean"),
    ],
)
def test_damaged_settings(make_folder: MakeFolder, change: dict[str, Any], message: str) -> None:
    folder = make_folder("feature-extraction").edit(lambda data: data.update(change))
    with pytest.raises(FolderError, match=message):
        read_metadata(folder.path)
