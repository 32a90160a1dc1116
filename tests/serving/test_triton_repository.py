"""What `config.pbtxt` promises is what our own server says and takes of tritonclient; the client of the note runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from google.protobuf import text_format

from losparse_runtime import Draw, Session, TritonSettings, package_triton

from ..runtime.conftest import write_folder
from ..runtime.test_runtime_triton import TASKS, schema
from .running import Server, running

__all__ = ["schema"]

MOST = 4
TEXTS = ["a b", "c d e f g a b c d e f g a b c d e f g", "h", "a [SEP] b", ""]
NAMES = {"TYPE_INT64": "INT64", "TYPE_FP32": "FP32"}
# Sums of the same numbers in another order: a row may have been padded beside others.
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models by the names of their tasks, and one whose runs have one text."""
    home = tmp_path_factory.mktemp("triton")
    for task in TASKS:
        folder = write_folder(home / task, task).path
        package_triton(folder, home / "repository", TritonSettings(max_batch=MOST))
    alone = write_folder(home / "alone").edit(lambda data: data.update(precision="int8", weight_bits=7))
    package_triton(alone.path, home / "repository", TritonSettings(max_batch=MOST))
    return home / "repository"


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    with running({model.name: model / "1" for model in repository.iterdir()}) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.url) as client:
        yield client


def config_of(model: Path, schema: Any) -> Any:
    return text_format.Parse((model / "config.pbtxt").read_text(encoding="utf-8"), schema.ModelConfig())


def promised(config: Any, schema: Any, kind: str) -> list[dict[str, Any]]:
    """What Triton itself says of a model in its metadata: the axis of texts is before those of the configuration."""
    return [
        {
            "name": each.name,
            "datatype": NAMES[schema.DataType.Name(each.data_type)],
            "shape": [-1, *each.dims],
        }
        for each in getattr(config, kind)
    ]


@pytest.mark.parametrize("name", [*TASKS, "alone"])
def test_the_server_says_what_the_configuration_says(
    repository: Path, client: triton.InferenceServerClient, schema: Any, name: str
) -> None:
    config, said = config_of(repository / name, schema), client.get_model_metadata(name)
    assert said["inputs"] == promised(config, schema, "input")
    assert said["outputs"] == promised(config, schema, "output")


@pytest.mark.parametrize("name", [*TASKS, "alone"])
def test_every_shape_of_the_configuration_is_taken(
    repository: Path, client: triton.InferenceServerClient, schema: Any, name: str
) -> None:
    config = config_of(repository / name, schema)
    with Session(repository / name / "1", threads=1) as session:
        for batch, length, binary in product({1, config.max_batch_size}, (2, 7), (False, True)):
            feeds = session.signature.random_feeds(Draw(batch=batch, length=length))
            inputs = []
            for each in config.input:
                sizes = [length if size == -1 else size for size in each.dims]
                inputs.append(triton.InferInput(each.name, [batch, *sizes], "INT64"))
                inputs[-1].set_data_from_numpy(feeds[each.name], binary_data=binary)
            asked = [triton.InferRequestedOutput(each.name, binary_data=binary) for each in config.output]
            found = client.infer(name, inputs, outputs=asked)
            for each in config.output:
                array = found.as_numpy(each.name)
                assert list(array.shape) == [batch, *(length if size == -1 else size for size in each.dims)]
                np.testing.assert_allclose(array, session.run(feeds)[each.name], **CLOSE)


@pytest.mark.parametrize("name", [*TASKS, "alone"])
def test_the_client_of_the_note_gives_the_numbers_of_a_session(repository: Path, server: Server, name: str) -> None:
    """It has tokenizers and tritonclient, not losparse; texts longer than the model are cut alike."""
    (block,) = re.findall(r"```python\n(.*?)```", (repository / name / "README.md").read_text(), re.DOTALL)
    assert "losparse" not in block
    done = subprocess.run(
        [sys.executable, "-c", block, server.url, *TEXTS],
        cwd=repository,
        env={"PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[Any]] = {}
    for line in done.stdout.splitlines():
        output, _, values = line.partition(" ")
        found.setdefault(output, []).extend(json.loads(values))
    with Session(repository / name / "1", threads=1) as session:
        wanted = [session.run(session.encode([text])) for text in TEXTS]
        for output, rows in found.items():
            assert len(rows) == len(TEXTS)
            for row, alone in zip(rows, wanted, strict=True):
                own = alone[output][0]
                padded = np.asarray(row)[: len(own)] if output in session.metadata.token_outputs else np.asarray(row)
                np.testing.assert_allclose(padded, own, **CLOSE)
        assert set(found) == set(wanted[0])
