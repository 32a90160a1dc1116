"""Routes: what they answer is what a `Session` says; what they refuse is one line with its status."""

from __future__ import annotations

import base64
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from losparse_runtime import Session
from losparse_runtime.serving.routes import embeddings, texts

from ..runtime.conftest import MakeFolder
from .conftest import Serve

# Joining rows changes the order of sums in a product, of float32: a few units in the last of 7 digits.
CLOSE = 1e-5


def error_of(response: Any) -> str:
    """The one line of an error, in either form."""
    said = response.json()["error"]
    text: str = said["message"] if isinstance(said, dict) else said
    assert "\n" not in text
    return text


def test_classify_says_what_a_session_says(make_folder: MakeFolder, serve: Serve) -> None:
    folder = make_folder()
    texts = ["a b c", "d", "e f g h a b"]
    answer = serve({"made": folder}).post("/v1/classify", json={"texts": texts})
    assert answer.status_code == 200
    said = answer.json()
    assert said["model"] == "made"
    assert said["tokens"] == sum(len(text.split()) + 2 for text in texts)
    for got, wanted in zip(said["results"], Session(folder.path, threads=1).classify(texts), strict=True):
        assert got["label"] == wanted.label
        assert got["scores"] == pytest.approx(wanted.scores, abs=CLOSE)


def test_pairs_are_classified(make_folder: MakeFolder, serve: Serve) -> None:
    folder = make_folder()
    answer = serve({"made": folder}).post("/v1/classify", json={"texts": "a b", "pairs": "c"})
    (wanted,) = Session(folder.path, threads=1).classify("a b", pairs="c")
    assert answer.json()["results"][0]["score"] == pytest.approx(wanted.score, abs=CLOSE)


def test_tag_says_what_a_session_says(make_folder: MakeFolder, serve: Serve) -> None:
    folder = make_folder("token-classification")
    answer = serve({"made": folder}).post("/v1/tag", json={"texts": ["a b c", "d"]})
    (first, second) = Session(folder.path, threads=1).tag(["a b c", "d"])
    got = answer.json()["results"]
    assert [[tag["label"] for tag in tags] for tags in got] == [[tag.label for tag in tags] for tags in (first, second)]
    assert got[0][2]["text"] == "c"


def test_answer_says_what_a_session_says(make_folder: MakeFolder, serve: Serve) -> None:
    folder = make_folder("question-answering")
    context = "a b c d e f g h " * 8  # several windows of 16 tokens
    body = {"question": "a b", "context": context}
    got = serve({"made": folder}).post("/v1/answer", json=body).json()["result"]
    wanted = Session(folder.path, threads=1).answer("a b", context)
    assert (got["start"], got["end"], got["text"]) == (wanted.start, wanted.end, wanted.text)
    assert got["score"] == pytest.approx(wanted.score, rel=1e-4)  # of a product of probabilities


def test_rank_says_what_a_session_says(make_folder: MakeFolder, serve: Serve) -> None:
    folder = make_folder("regression")
    body = {"query": "a", "texts": ["b", "c d", "e"], "top": 2, "return_texts": False}
    got = serve({"made": folder}).post("/v1/rank", json=body).json()["results"]
    wanted = Session(folder.path, threads=1).rank("a", ["b", "c d", "e"])
    assert [each["index"] for each in got] == [each.index for each in wanted[:2]]
    assert [each["score"] for each in got] == pytest.approx([each.score for each in wanted[:2]], abs=CLOSE)
    assert "text" not in got[0]


@pytest.mark.parametrize("form", ["float", "base64"])
def test_embeddings_have_the_form_of_openai(make_folder: MakeFolder, serve: Serve, form: str) -> None:
    folder = make_folder("feature-extraction")
    body = {"input": ["a b", "c"], "model": "made", "encoding_format": form, "user": "somebody"}
    said = serve({"made": folder}).post("/v1/embeddings", json=body).json()
    assert (said["object"], said["model"], said["usage"]) == ("list", "made", {"prompt_tokens": 7, "total_tokens": 7})
    for place, (each, wanted) in enumerate(
        zip(said["data"], Session(folder.path, threads=1).embed(["a b", "c"]), strict=True)
    ):
        assert (each["object"], each["index"]) == ("embedding", place)
        sent = each["embedding"]
        vector = np.frombuffer(base64.b64decode(sent), "<f4") if form == "base64" else np.array(sent, np.float32)
        np.testing.assert_allclose(vector, wanted, atol=CLOSE)


def test_embeddings_are_cut_where_a_request_asks_for_fewer_numbers(make_folder: MakeFolder, serve: Serve) -> None:
    client = serve({"made": make_folder("feature-extraction")})
    said = client.post("/v1/embeddings", json={"input": "a", "dimensions": 2}).json()
    vector = said["data"][0]["embedding"]
    assert len(vector) == 2
    assert np.linalg.norm(vector) == pytest.approx(1, abs=CLOSE)  # the folder's vectors have length 1
    refused = client.post("/v1/embeddings", json={"input": "a", "dimensions": 5})
    assert (refused.status_code, error_of(refused)) == (400, "dimensions must be at most 4, got 5")


def test_the_name_that_users_of_one_model_servers_give_is_any(make_folder: MakeFolder, serve: Serve) -> None:
    client = serve({"made": make_folder("feature-extraction")})
    assert client.post("/v1/embeddings", json={"input": "a", "model": "tei"}).json()["model"] == "made"
    assert client.get("/v1/models").json()["data"][0]["id"] == "made"


def test_a_model_is_chosen_by_name_or_by_what_it_does(make_folder: MakeFolder, serve: Serve) -> None:
    client = serve({"one": make_folder(name="one", seed=1), "vectors": make_folder("feature-extraction", name="two")})
    assert client.post("/v1/embeddings", json={"input": "a"}).json()["model"] == "vectors"
    assert client.post("/v1/classify", json={"texts": "a"}).json()["model"] == "one"
    refused = client.post("/v1/classify", json={"texts": "a", "model": "three"})
    assert (refused.status_code, error_of(refused)) == (404, "model must be one of one, vectors, got 'three'")
    other = client.post("/v1/classify", json={"texts": "a", "model": "vectors"})
    assert other.status_code == 400
    assert "classify needs a" in error_of(other)
    nobody = client.post("/v1/tag", json={"texts": "a"})
    assert (nobody.status_code, error_of(nobody)[:24]) == (400, "no model here does tag; ")


WRONG = {
    "no JSON": (b"{", "EOF while parsing"),
    "no object": (b"[]", "the body: Input should be an object"),
    "a number for a text": (b'{"texts": [1]}', "valid string"),
    "an unknown field": (b'{"texts": "a", "txet": "b"}', "txet: Extra inputs are not permitted"),
    "no text": (b'{"texts": []}', "texts must be 1 to 3 in one request, got 0"),
    "too many texts": (b'{"texts": ["a", "b", "c", "d"]}', "texts must be 1 to 3 in one request, got 4"),
    "pairs of another number": (b'{"texts": ["a", "b"], "pairs": "c"}', "pairs must have one text for each"),
    "no UTF-8": (b'{"texts": "\xff"}', "the body:"),
    "a lone surrogate": (b'{"texts": "\\ud800"}', "the body:"),
    "deep": (b'{"texts": ' + b"[" * 100_000, "recursion limit"),
}


@pytest.mark.parametrize("content, said", WRONG.values(), ids=WRONG)
def test_a_wrong_body_is_refused_in_one_line(make_folder: MakeFolder, serve: Serve, content: bytes, said: str) -> None:
    client = serve({"made": make_folder()}, texts_in_request=3)
    refused = client.post("/v1/classify", content=content)
    assert refused.status_code == 400
    assert said in error_of(refused)
    assert client.post("/v1/classify", json={"texts": "a"}).status_code == 200


def test_what_is_not_there_is_said_in_the_form_of_its_route(make_folder: MakeFolder, serve: Serve) -> None:
    client = serve({"made": make_folder()})
    assert client.get("/nowhere").json() == {"error": "GET /nowhere: Not Found; /docs shows the routes"}
    wrong = client.get("/v1/classify")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json()["error"]["type"] == "invalid_request_error"


def test_a_large_body_is_refused_by_what_its_head_says(make_folder: MakeFolder, serve: Serve) -> None:
    client = serve({"made": make_folder()}, body_bytes=1024)
    refused = client.post("/v1/classify", json={"texts": "a" * 2000})
    assert refused.status_code == 413
    assert error_of(refused).startswith("the body must have at most 1024 bytes, got 2")


def test_a_large_body_that_comes_in_pieces_is_refused(make_folder: MakeFolder, serve: Serve) -> None:
    client = serve({"made": make_folder()}, body_bytes=1024)
    refused = client.post("/v1/classify", content=(b"x" * 100 for _ in range(50)))
    assert refused.status_code == 413


def test_a_token_is_asked_for_but_not_of_probes(make_folder: MakeFolder, serve: Serve) -> None:
    client = serve({"made": make_folder()}, token="open-sesame")
    body = {"texts": "a"}
    refused = client.post("/v1/classify", json=body)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert client.post("/v1/classify", json=body, headers={"Authorization": "Bearer open"}).status_code == 401
    assert client.post("/v1/classify", json=body, headers={"Authorization": "Bearer open-sesame"}).status_code == 200
    assert client.get("/health").status_code == 200
    assert client.get("/metrics").status_code == 401


@pytest.mark.parametrize("given, kept", [("abc-1", True), ("x" * 129, False), ("a b", False)])
def test_a_request_keeps_the_id_it_came_with_if_that_fits_a_log(
    make_folder: MakeFolder, serve: Serve, given: str, kept: bool
) -> None:
    answer = serve({"made": make_folder()}).get("/health", headers={"X-Request-Id": given})
    assert (answer.headers["x-request-id"] == given) is kept


def test_a_model_that_fails_is_no_fault_of_the_client(make_folder: MakeFolder, serve: Serve) -> None:
    client = serve({"made": make_folder(poison=True)})
    failed = client.post("/v1/classify", json={"texts": ["a", "h"]})
    assert failed.status_code == 500
    assert "output 'logits' is not finite (NaN or Inf) for text 1" in error_of(failed)
    assert client.post("/v1/classify", json={"texts": ["a"]}).status_code == 200


@pytest.mark.parametrize("given", ["0", "-1", "soon", "1.5"])
def test_a_deadline_is_whole_milliseconds(make_folder: MakeFolder, serve: Serve, given: str) -> None:
    refused = serve({"made": make_folder()}).post("/v1/classify", json={"texts": "a"}, headers={"X-Timeout-Ms": given})
    assert refused.status_code == 400
    assert "X-Timeout-Ms" in error_of(refused)


def test_metrics_count_requests_runs_and_tokens(make_folder: MakeFolder, serve: Serve) -> None:
    client = serve({"made": make_folder()})
    client.post("/v1/classify", json={"texts": ["a b", "c"]})
    client.post("/v1/classify", json={"texts": []})
    page = client.get("/metrics").text
    for line in (
        'losparse_request_seconds_count{model="made",route="/v1/classify",status="200"} 1.0',
        'losparse_batch_rows_sum{model="made"} 2.0',
        'losparse_text_tokens_total{model="made"} 7.0',
        'losparse_rejected_total{model="",reason="client"} 1.0',
        'losparse_queue_rows{model="made"} 0.0',
    ):
        assert line in page


def test_many_clients_at_once_get_their_own_answers(make_folder: MakeFolder, serve: Serve) -> None:
    folder = make_folder()
    client = serve({"made": folder}, max_batch=8)
    texts = [" ".join("abcdefgh"[(number + place) % 8] for place in range(1 + number % 9)) for number in range(64)]
    start = threading.Barrier(16)

    def ask(part: list[str]) -> list[dict[str, float]]:
        start.wait()
        return [client.post("/v1/classify", json={"texts": text}).json()["results"][0]["scores"] for text in part]

    with ThreadPoolExecutor(16) as pool:
        got = [scores for part in pool.map(ask, [texts[place::16] for place in range(16)]) for scores in part]
    wanted = Session(folder.path, threads=1).classify([text for place in range(16) for text in texts[place::16]])
    for scores, each in zip(got, wanted, strict=True):
        assert scores == pytest.approx(each.scores, abs=CLOSE)


def test_the_description_of_the_routes_has_their_bodies(make_folder: MakeFolder, serve: Serve) -> None:
    paths = serve({"made": make_folder()}).get("/openapi.json").json()["paths"]
    body = paths["/v1/classify"]["post"]["requestBody"]["content"]["application/json"]
    assert set(body["schema"]["properties"]) == {"texts", "pairs", "model"}
    assert body["example"]["texts"]


def test_the_page_of_the_routes_needs_no_other_server_and_asks_for_the_token(
    make_folder: MakeFolder, serve: Serve
) -> None:
    client = serve({"made": make_folder()}, token="open-sesame")
    page = client.get("/docs").text
    files = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert files
    for file in files:
        assert file.startswith("/")
        assert client.get(file).status_code == 200, file
    assert client.get("/openapi.json").json()["security"] == [{"token": []}]


def test_answers_are_as_they_are_described(make_folder: MakeFolder, serve: Serve) -> None:
    folders = {
        "classes": make_folder(name="classes"),
        "words": make_folder("token-classification", name="words"),
        "spans": make_folder("question-answering", name="spans"),
        "pairs": make_folder("regression", name="pairs"),
        "vectors": make_folder("feature-extraction", name="vectors"),
    }
    client = serve(folders)
    for route, body, kind in (
        ("classify", {"texts": "a"}, texts.ClassifySaid),
        ("tag", {"texts": "a b"}, texts.TagsSaid),
        ("answer", {"question": "a", "context": "b c"}, texts.AnswerSaid),
        ("rank", {"query": "a", "texts": ["b"]}, texts.RankSaid),
        ("embeddings", {"input": "a"}, embeddings.EmbeddingsSaid),
    ):
        said = client.post(f"/v1/{route}", json=body).json()
        assert kind.model_validate(said).model_dump() == said, route


def test_many_texts_are_read_by_the_runners_and_say_the_same(make_folder: MakeFolder, serve: Serve) -> None:
    folder = make_folder("feature-extraction")
    texts = [" ".join("abcdefgh"[(number + place) % 8] for place in range(1 + number % 9)) for number in range(40)]
    said = serve({"made": folder}, max_batch=8).post("/v1/embeddings", json={"input": texts}).json()
    wanted = Session(folder.path, threads=1).embed(texts)
    np.testing.assert_allclose([each["embedding"] for each in said["data"]], wanted, atol=CLOSE)


def test_an_error_in_reading_many_texts_is_theirs_alone(make_folder: MakeFolder, serve: Serve) -> None:
    client = serve({"made": make_folder(poison=True)})
    failed = client.post("/v1/classify", json={"texts": [*["a"] * 20, "h"]})
    assert failed.status_code == 500
    assert "is not finite (NaN or Inf) for text 20" in error_of(failed)
    assert client.post("/v1/classify", json={"texts": ["a"] * 20}).status_code == 200
