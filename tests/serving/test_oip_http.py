"""The Open Inference Protocol as a client that nobody here wrote speaks it: tritonclient against uvicorn."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from losparse_runtime import Session

from ..runtime.conftest import write_folder
from .oip_bodies import entry, written
from .running import Server, running

MOST = 20_000  # bytes of a body that the server takes
IDS = np.array([[2, 4, 5, 3], [2, 6, 3, 0]], np.int64)
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], np.int64)
FEEDS = {"input_ids": IDS, "attention_mask": MASK, "token_type_ids": np.zeros_like(IDS)}
HEADER = "inference-header-content-length"
INFER = "/v2/models/colours/infer"

# Sums of the same numbers in another order: a row may have been padded beside others.
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("oip")
    return {
        "colours": write_folder(home / "colours").path,
        "vectors": write_folder(home / "vectors", "feature-extraction", types=False, poison=True).path,
    }


@pytest.fixture(scope="module")
def server(folders: dict[str, Path]) -> Iterator[Server]:
    with running(folders, body_bytes=MOST) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.url) as client:
        yield client


@pytest.fixture(scope="module")
def expected(folders: dict[str, Path]) -> NDArray[Any]:
    with Session(folders["colours"], threads=1) as session:
        logits: NDArray[Any] = session.run(FEEDS)["logits"]
        return logits


@pytest.fixture(scope="module")
def version(folders: dict[str, Path]) -> str:
    fingerprint: str = json.loads((folders["colours"] / "losparse.json").read_text())["fingerprint"]
    return fingerprint[:12]


def inputs(binary: bool, **arrays: NDArray[Any]) -> list[triton.InferInput]:
    made = []
    for name, array in (arrays or FEEDS).items():
        each = triton.InferInput(name, list(array.shape), "INT64")
        each.set_data_from_numpy(array, binary_data=binary)
        made.append(each)
    return made


@pytest.mark.parametrize("sent", [False, True])
@pytest.mark.parametrize("got", [False, True])
def test_tensors_come_and_go_as_json_and_as_bytes(
    client: triton.InferenceServerClient, expected: NDArray[Any], sent: bool, got: bool
) -> None:
    wanted = [triton.InferRequestedOutput("logits", binary_data=got)]
    result = client.infer("colours", inputs(sent), outputs=wanted, request_id="seven")
    assert result.as_numpy("logits").dtype == np.float32
    np.testing.assert_allclose(result.as_numpy("logits"), expected, **CLOSE)
    assert result.get_response()["id"] == "seven"


def test_all_outputs_come_as_bytes_where_the_client_names_none(
    client: triton.InferenceServerClient, expected: NDArray[Any]
) -> None:
    result = client.infer("colours", inputs(True))
    assert result.get_output("logits")["parameters"] == {"binary_data_size": expected.nbytes}
    np.testing.assert_allclose(result.as_numpy("logits"), expected, **CLOSE)


def test_inputs_with_a_default_may_be_left_out(client: triton.InferenceServerClient, folders: dict[str, Path]) -> None:
    result = client.infer("colours", inputs(True, input_ids=IDS))
    with Session(folders["colours"], threads=1) as session:
        np.testing.assert_allclose(result.as_numpy("logits"), session.run({"input_ids": IDS})["logits"], **CLOSE)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [False, True])
def test_compressed_requests(
    client: triton.InferenceServerClient, expected: NDArray[Any], algorithm: str, binary: bool
) -> None:
    result = client.infer(
        "colours",
        inputs(binary),
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,  # may be answered without any, and is
    )
    np.testing.assert_allclose(result.as_numpy("logits"), expected, **CLOSE)


def test_several_requests_at_once(client: triton.InferenceServerClient, server: Server, expected: NDArray[Any]) -> None:
    with triton.InferenceServerClient(server.url, concurrency=8) as many:
        asked = [many.async_infer("colours", inputs(True)) for _ in range(32)]
        for each in asked:
            np.testing.assert_allclose(each.get_result().as_numpy("logits"), expected, **CLOSE)


def test_outputs_of_every_token(client: triton.InferenceServerClient, folders: dict[str, Path]) -> None:
    arrays = {name: FEEDS[name] for name in ("input_ids", "attention_mask")}
    result = client.infer("vectors", inputs(True, **arrays))
    with Session(folders["vectors"], threads=1) as session:
        hidden = session.run(arrays)["last_hidden_state"]
    np.testing.assert_allclose(result.as_numpy("last_hidden_state"), hidden, **CLOSE)


def test_what_is_said_of_the_server_and_its_models(client: triton.InferenceServerClient, version: str) -> None:
    said = client.get_server_metadata()
    assert (said["name"], "binary_tensor_data" in said["extensions"]) == ("losparse", True)
    assert client.get_model_metadata("colours") == {
        "name": "colours",
        "versions": [version],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": name, "datatype": "INT64", "shape": [-1, -1]} for name in FEEDS],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}],
    }
    index = [{"name": name, "version": version, "state": "READY", "reason": ""} for name in ("colours", "vectors")]
    assert client.get_model_repository_index() == index


@pytest.mark.parametrize("form", ["digits", "variant"])
def test_a_model_by_its_version(
    client: triton.InferenceServerClient, expected: NDArray[Any], version: str, form: str
) -> None:
    asked = version if form == "digits" else "fp32"
    assert client.is_model_ready("colours", asked)
    assert client.get_model_metadata("colours", asked)["versions"] == [version]
    result = client.infer("colours", inputs(True), model_version=asked)
    assert result.get_response()["model_version"] == version
    np.testing.assert_allclose(result.as_numpy("logits"), expected, **CLOSE)


def test_live_and_ready(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("vectors")


@pytest.mark.parametrize("said", [("smells", ""), ("colours", "2")])
def test_models_and_versions_that_are_not_there(client: triton.InferenceServerClient, said: tuple[str, str]) -> None:
    assert not client.is_model_ready(*said)
    for ask in (lambda: client.get_model_metadata(*said), lambda: client.infer(said[0], inputs(True), said[1])):
        with pytest.raises(InferenceServerException, match="colours") as caught:
            ask()
        assert caught.value.status() == "404"


def test_what_is_wrong_reaches_the_client(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match=r"'input_ids' must be in 0\.\.11, got 12 at \(0, 1\)") as caught:
        client.infer("colours", inputs(True, input_ids=np.array([[2, 12]])))
    assert caught.value.status() == "400"


def test_the_time_that_a_request_gives_itself_bounds_its_wait(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer("colours", inputs(True), timeout=1)  # a microsecond: no thread wakes up in that
    assert caught.value.status() == "504"
    assert client.infer("colours", inputs(True), timeout=60_000_000).as_numpy("logits").shape == (2, 3)


def test_an_answer_that_json_cannot_say(client: triton.InferenceServerClient) -> None:
    poisoned = inputs(True, input_ids=np.array([[2, 11, 3]]))
    assert np.isnan(client.infer("vectors", poisoned).as_numpy("last_hidden_state")[0, 1]).all()
    with pytest.raises(InferenceServerException, match="NaN or infinity, which JSON cannot say") as caught:
        client.infer("vectors", poisoned, outputs=[triton.InferRequestedOutput("last_hidden_state", False)])
    assert caught.value.status() == "500"


def test_json_needs_no_content_type(server: Server, expected: NDArray[Any]) -> None:
    answer = server.ask("POST", INFER, written(*(entry(array, name) for name, array in FEEDS.items())))
    assert (answer.status, answer.headers["content-type"], HEADER in answer.headers) == (200, "application/json", False)
    np.testing.assert_allclose(np.reshape(answer.json["outputs"][0]["data"], (2, 3)), expected, **CLOSE)


@pytest.mark.parametrize("name", ["gzip", "deflate"])
@pytest.mark.parametrize("size", [MOST + 1, 500 * MOST])
def test_a_body_that_inflates_beyond_the_bound_is_refused(server: Server, name: str, size: int) -> None:
    body = (gzip if name == "gzip" else zlib).compress(b" " * size)
    answer = server.ask("POST", INFER, body, {"Content-Encoding": name})
    assert (answer.status, answer.json) == (413, {"error": f"the body must inflate to at most {MOST} bytes"})


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_routes_that_take_texts_take_compressed_bodies_too(server: Server, name: str) -> None:
    body = json.dumps({"texts": ["a b", "c"]}).encode()
    packed = (gzip if name == "gzip" else zlib).compress(body)
    answer = server.ask("POST", "/v1/classify", packed, {"Content-Encoding": name})
    assert answer.json == server.ask("POST", "/v1/classify", body).json
    bomb = (gzip if name == "gzip" else zlib).compress(b" " * (MOST + 1))
    refused = server.ask("POST", "/v1/classify", bomb, {"Content-Encoding": name})
    assert (refused.status, refused.json["error"]["code"]) == (413, 413)


BROKEN = {
    "no gzip": (b"{}", "gzip", "the body must be gzip, as Content-Encoding says: Error -3 "),
    "half": (gzip.compress(b"{}" * 40)[:-9], "gzip", "the body must be one whole gzip stream"),
    "more behind": (zlib.compress(b"{}") + b"{}", "deflate", "the body must be one whole deflate stream"),
    "another": (b"{}", "br", "Content-Encoding must be one of gzip, deflate, got 'br'"),
    "two": (b"{}", "gzip, gzip", "Content-Encoding must be one of gzip, deflate, got 'gzip, gzip'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_compression(server: Server, case: str) -> None:
    body, encoding, said = BROKEN[case]
    answer = server.ask("POST", INFER, body, {"Content-Encoding": encoding})
    assert answer.status == 400 and answer.json["error"].startswith(said)


@pytest.mark.parametrize("length", ["", "x", "-1", "+5", "1.5", "٣", "9" * 30])
def test_lengths_of_json_that_are_none(server: Server, length: str) -> None:
    headers = {HEADER: length.encode().decode("latin-1")}
    answer = server.ask("POST", INFER, written(entry(IDS)), headers)
    assert answer.status == 400 and "Inference-Header-Content-Length must be" in answer.json["error"]


def test_more_rows_than_may_wait_are_refused(folders: dict[str, Path]) -> None:
    with running({"colours": folders["colours"]}, queue=3) as server:
        rows = [server.ask("POST", INFER, written(entry(np.full((count, 2), 4)))) for count in (3, 4)]
    assert [answer.status for answer in rows] == [200, 400]
    assert rows[1].json["error"] == "inputs must have at most 3 rows in one request, got 4; send them in parts"


def test_an_answer_that_would_fill_the_memory_is_refused(folders: dict[str, Path]) -> None:
    many = {"input_ids": np.full((8, 16), 4)}
    served = running({"vectors": folders["vectors"]}, answer_bytes=8 * 16 * 4 * 4)
    with served as server, triton.InferenceServerClient(server.url) as client:
        assert client.infer("vectors", inputs(True, **many)).as_numpy("last_hidden_state").shape == (8, 16, 4)
        as_json = [triton.InferRequestedOutput("last_hidden_state", binary_data=False)]
        with pytest.raises(InferenceServerException, match="34816 bytes of memory, at most 2048 are granted"):
            client.infer("vectors", inputs(True, **many), outputs=as_json)


@pytest.mark.parametrize("binary", [False, True])
def test_large_answers_are_right_too(folders: dict[str, Path], binary: bool) -> None:
    many = {"input_ids": np.random.default_rng(0).integers(4, 11, (1024, 16))}
    served = running({"vectors": folders["vectors"]}, queue=1024)
    with served as server, triton.InferenceServerClient(server.url) as client:
        output = triton.InferRequestedOutput("last_hidden_state", binary_data=binary)
        result = client.infer("vectors", inputs(True, **many), outputs=[output]).as_numpy("last_hidden_state")
    with Session(folders["vectors"], threads=1) as session:
        np.testing.assert_allclose(result, session.run(many)["last_hidden_state"], **CLOSE)


def test_the_page_shows_requests_that_work_as_they_stand(server: Server) -> None:
    paths = httpx.get(f"http://{server.url}/openapi.json").json()["paths"]
    shown = {path: said for path, said in paths.items() if path.startswith("/v2")}
    assert len(shown) == 10
    for path, said in shown.items():
        for method, operation in said.items():
            names = {each["name"]: each.get("example", "fp32") for each in operation.get("parameters", ())}
            content = operation.get("requestBody", {}).get("content", {})
            body = json.dumps(content["application/json"]["example"]).encode() if content else None
            answer = server.ask(method.upper(), path.format(**names), body)
            assert answer.status == 200, (path, answer.body)
            assert str(answer.status) in operation["responses"]
