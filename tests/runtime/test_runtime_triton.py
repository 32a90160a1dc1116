"""Model repositories for Triton: what stands where, and that Triton's own schema reads every configuration."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from onnx.external_data_helper import set_external_data

from losparse.cli.main import main
from losparse_runtime import FolderError, InputError, Session, read_folder, verify_files
from losparse_runtime.contract.files import record_files, write_metadata
from losparse_runtime.contract.signature import Signature
from losparse_runtime.contract.tensors import TensorSpec
from losparse_runtime.packaging.config import config_text
from losparse_runtime.packaging.settings import TritonSettings
from losparse_runtime.packaging.staging import put_folder, work_folder
from losparse_runtime.packaging.triton import package_triton

from .conftest import MakeFolder
from .several import put_together

TASKS = ["text-classification", "token-classification", "question-answering", "feature-extraction", "regression"]
FEEDS = {"input_ids": np.array([[2, 4, 5, 3], [2, 6, 3, 0]]), "attention_mask": np.array([[1, 1, 1, 1], [1, 1, 1, 0]])}


@pytest.fixture(scope="session")
def schema() -> ModuleType:
    """Triton's schema of configurations, which its client carries; the module beside it would need grpc."""
    client = importlib.util.find_spec("tritonclient")
    assert client is not None and client.submodule_search_locations is not None
    file = Path(client.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def parse(schema: ModuleType) -> Callable[[Path], Any]:
    return lambda model: text_format.Parse((model / "config.pbtxt").read_text(encoding="utf-8"), schema.ModelConfig())


def tensors(config: Any, kind: str) -> list[tuple[str, int, list[int]]]:
    return [(each.name, each.data_type, list(each.dims)) for each in getattr(config, kind)]


@pytest.mark.parametrize("task", TASKS)
def test_a_configuration_says_what_the_folder_takes_and_gives(
    make_folder: MakeFolder, tmp_path: Path, parse: Callable[[Path], Any], schema: ModuleType, task: str
) -> None:
    folder = make_folder(task).path
    written = package_triton(folder, tmp_path / "repository")
    config = parse(written.folder)
    assert (config.name, config.backend, config.default_model_filename) == ("made", "onnxruntime", "model.onnx")
    (graph,) = read_folder(folder).graphs.values()
    types = {"int64": schema.TYPE_INT64, "float32": schema.TYPE_FP32}
    for kind, specs in (("input", graph.inputs), ("output", graph.outputs)):
        promised = [
            (spec.name, types[spec.dtype], [each if isinstance(each, int) else -1 for each in spec.shape[1:]])
            for spec in specs
        ]
        assert tensors(config, kind) == promised
    assert config.max_batch_size == 32
    assert list(config.dynamic_batching.preferred_batch_size) == [32]
    assert [(each.count, each.kind) for each in config.instance_group] == [(1, schema.ModelInstanceGroup.KIND_CPU)]
    assert config.version_policy.latest.num_versions == 1


def test_settings_are_in_the_configuration(
    make_folder: MakeFolder, tmp_path: Path, parse: Callable[[Path], Any], schema: ModuleType
) -> None:
    settings = TritonSettings(
        name="other", provider="cpu", max_batch=8, max_wait_ms=1.5, queue=7, deadline_s=2, instances=3, threads=2
    )
    config = parse(package_triton(make_folder().path, tmp_path / "repository", settings).folder)
    batching = config.dynamic_batching
    policy = batching.default_queue_policy
    assert (config.name, config.max_batch_size, config.instance_group[0].count) == ("other", 8, 3)
    assert batching.max_queue_delay_microseconds == 1500
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (7, 2_000_000)
    assert policy.timeout_action == schema.ModelQueuePolicy.REJECT and policy.allow_timeout_override
    assert {key: value.string_value for key, value in config.parameters.items()} == {
        "intra_op_thread_count": "2",
        "inter_op_thread_count": "1",
        "execution_mode": "0",
    }


def test_on_a_gpu_there_are_instances_of_it_and_no_threads(
    make_folder: MakeFolder, tmp_path: Path, parse: Callable[[Path], Any], schema: ModuleType
) -> None:
    written = package_triton(make_folder().path, tmp_path / "repository", TritonSettings(provider="cuda"))
    config = parse(written.folder)
    assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_GPU
    assert "intra_op_thread_count" not in config.parameters
    assert not any("threads" in remark for remark in written.remarks)


def test_tensors_without_further_axes_and_names_with_quotes(schema: ModuleType) -> None:
    signature = Signature(
        (TensorSpec('a "b"\\', "int32", ("batch", 3)),), (TensorSpec("mean\n", "float16", ("batch",)),)
    )
    config = text_format.Parse(config_text("m", signature, TritonSettings(), joined=True), schema.ModelConfig())
    assert tensors(config, "input") == [('a "b"\\', schema.TYPE_INT32, [3])]
    assert tensors(config, "output") == [("mean\n", schema.TYPE_FP16, [1])]
    assert config.output[0].HasField("reshape") and list(config.output[0].reshape.shape) == []


def test_a_graph_without_an_axis_of_texts_is_not_batched(schema: ModuleType) -> None:
    signature = Signature((TensorSpec("x", "float64", ("sequence", 3)),), (TensorSpec("y", "bool", (2,)),))
    config = text_format.Parse(config_text("m", signature, TritonSettings(), joined=False), schema.ModelConfig())
    assert config.max_batch_size == 0 and not config.HasField("dynamic_batching")
    assert tensors(config, "input") == [("x", schema.TYPE_FP64, [-1, 3])]
    with pytest.raises(FolderError, match="'y' has no axes"):
        config_text("m", Signature(signature.inputs, (TensorSpec("y", "bool", ()),)), TritonSettings(), joined=False)


def test_a_model_that_mixes_texts_gets_one_text_a_run(
    make_folder: MakeFolder, tmp_path: Path, parse: Callable[[Path], Any]
) -> None:
    folder = make_folder().edit(lambda data: data.update(precision="int8", weight_bits=7)).path
    alone = package_triton(folder, tmp_path / "repository")
    config = parse(alone.folder)
    assert config.max_batch_size == 1 and config.dynamic_batching.default_queue_policy.max_queue_size == 512
    assert "one text" in alone.batching and "--mixed" in alone.batching
    assert any("26.07" in remark for remark in alone.remarks)
    mixed = package_triton(folder, tmp_path / "repository", TritonSettings(name="mixed", mixed=True))
    assert parse(mixed.folder).max_batch_size == 32 and "depend on each other" in mixed.batching
    whole = make_folder(name="whole").edit(lambda data: data.update(precision="int8", weight_bits=7, mixes_texts=False))
    assert parse(package_triton(whole.path, tmp_path / "repository").folder).max_batch_size == 32


def test_a_variant_that_does_not_mix_is_taken_before_one_that_does(
    make_folder: MakeFolder, tmp_path: Path, parse: Callable[[Path], Any]
) -> None:
    folders = {name: make_folder(name=name).path for name in ("int8", "int8-rows")}
    mixes, whole = ({"precision": "int8", "weight_bits": 7, "mixes_texts": mixed} for mixed in (True, False))
    folder = put_together(tmp_path / "both", folders, int8=mixes, int8_rows=whole)
    written = package_triton(folder, tmp_path / "repository")
    assert written.variant == "int8-rows" and parse(written.folder).max_batch_size == 32
    asked = package_triton(folder, tmp_path / "repository", TritonSettings(name="int8", variant="int8"))
    assert asked.batching.endswith("; take a variant whose answers do not (int8-rows), or let them with --mixed")


def test_a_folder_that_pads_on_the_left_gets_one_text_a_run(
    make_folder: MakeFolder, tmp_path: Path, parse: Callable[[Path], Any]
) -> None:
    folder = make_folder().edit(lambda data: data.update(padding_side="left"), "tokenizer_config.json")
    assert parse(package_triton(folder.path, tmp_path / "repository").folder).max_batch_size == 1


def test_a_version_is_an_exported_folder_of_one_variant(make_folder: MakeFolder, tmp_path: Path) -> None:
    one, two = make_folder(name="one").path, make_folder(name="two", seed=1).path
    folder = put_together(tmp_path / "several", {"fp32": one, "fp16": two}, fp16={"precision": "fp16"})
    written = package_triton(folder, tmp_path / "repository", TritonSettings(variant="fp16"))
    version = tmp_path / "repository" / "several" / "1"
    assert sorted(path.name for path in version.iterdir()) == [
        "config.json",
        "losparse.json",
        "model.onnx",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert written.variant == "fp16" and list(read_folder(version).variants) == ["fp16"]
    verify_files(version)
    answers = [Session(each, threads=1, variant="fp16").run(FEEDS)["logits"] for each in (folder, version)]
    np.testing.assert_array_equal(*answers)  # the same file, so the same numbers
    assert (version / "model.onnx").stat().st_ino == (folder / "model_fp16.onnx").stat().st_ino
    copied = package_triton(folder, tmp_path / "copies", TritonSettings(variant="fp16", copy=True))
    assert (copied.folder / "1" / "model.onnx").stat().st_nlink == 1


def outside(folder: Path, data: str) -> None:
    """Move the weights of a folder's model to a file beside it."""
    model = onnx.load(folder / "model.onnx")
    (words,) = (each for each in model.graph.initializer if each.name == "words")
    (folder / data).write_bytes(words.raw_data)
    set_external_data(words, location=data, offset=0, length=len(words.raw_data))
    words.ClearField("raw_data")
    onnx.save(model, folder / "model.onnx")


def test_weights_beside_the_model_keep_the_name_it_knows_them_by(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder().path
    before = Session(folder, threads=1).run(FEEDS)["logits"]
    outside(folder, "shared.onnx.data")
    write_metadata(folder, replace(read_folder_again(folder), files=record_files(folder)))
    version = package_triton(folder, tmp_path / "repository").folder / "1"
    assert (version / "shared.onnx.data").is_file()
    np.testing.assert_array_equal(Session(version, threads=1).run(FEEDS)["logits"], before)


def read_folder_again(folder: Path) -> Any:
    """What the folder said before its files changed."""
    from losparse_runtime.contract.fields import read_json
    from losparse_runtime.contract.folder import parse_folder

    return parse_folder(read_json(folder / "losparse.json"))


def test_weights_that_are_not_listed_are_refused(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder().path
    outside(folder, "shared.onnx.data")
    contents = replace(read_folder_again(folder), files={"model.onnx": record_files(folder)["model.onnx"]})
    write_metadata(folder, contents)
    with pytest.raises(FolderError, match=r"'shared\.onnx\.data', which losparse\.json does not list"):
        package_triton(folder, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_a_second_export_becomes_the_next_version(make_folder: MakeFolder, tmp_path: Path) -> None:
    out = tmp_path / "repository"
    settings = TritonSettings(name="m")
    first, second = make_folder(name="first").path, make_folder(name="second", seed=1)
    second.edit(lambda data: data.update(fingerprint="0" * 64))
    assert package_triton(first, out, settings).version == 1
    with pytest.raises(InputError, match="version 1 is this model already"):
        package_triton(first, out, settings)
    assert package_triton(second.path, out, replace(settings, max_batch=4)).version == 2
    assert "max_batch_size: 4" in (out / "m" / "config.pbtxt").read_text()
    with pytest.raises(InputError, match="version 1 is there"):
        package_triton(second.path, out, replace(settings, version=1))
    replaced = package_triton(second.path, out, replace(settings, version=1, overwrite=True))
    assert replaced.version == 1
    assert (out / "m" / "1" / "model.onnx").read_bytes() == (second.path / "model.onnx").read_bytes()
    assert package_triton(first, out, replace(settings, version=7)).version == 7
    assert sorted(path.name for path in (out / "m").iterdir()) == ["1", "2", "7", "README.md", "config.pbtxt"]
    assert [path.name for path in out.iterdir()] == ["m"]


def test_another_interface_is_no_version_of_a_model(make_folder: MakeFolder, tmp_path: Path) -> None:
    out, settings = tmp_path / "repository", TritonSettings(name="m")
    package_triton(make_folder(name="first").path, out, settings)
    before = (out / "m" / "config.pbtxt").read_text()
    with pytest.raises(FolderError, match="has other inputs or outputs"):
        package_triton(make_folder("token-classification", name="second").path, out, settings)
    assert (out / "m" / "config.pbtxt").read_text() == before


def test_what_is_no_model_of_triton_is_left_alone(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder().path
    (tmp_path / "repository" / "made").mkdir(parents=True)
    with pytest.raises(FolderError, match="is no model of Triton's"):
        package_triton(folder, tmp_path / "repository")
    (tmp_path / "repository" / "made" / "1").mkdir()
    (tmp_path / "repository" / "made" / "config.pbtxt").write_text("")
    with pytest.raises(FolderError, match="losparse did not write it"):
        package_triton(folder, tmp_path / "repository")


def test_nothing_is_left_of_a_model_that_cannot_be_written(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder()
    (folder.path / "config.json").write_bytes((folder.path / "config.json").read_bytes())
    model = folder.path / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    with pytest.raises(FolderError, match="the file changed after the export"):
        package_triton(folder.path, tmp_path / "a" / "repository")
    assert not (tmp_path / "a").exists()
    with pytest.raises(InputError, match="must lie outside"):
        package_triton(make_folder(name="other").path, tmp_path / "other" / "repository")
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match="cannot be written"):
        package_triton(make_folder(name="third").path, tmp_path / "file")


def test_a_version_that_cannot_be_put_leaves_the_configuration(make_folder: MakeFolder, tmp_path: Path) -> None:
    out, settings = tmp_path / "repository", TritonSettings(name="m")
    package_triton(make_folder(name="first").path, out, settings)
    before = {name: (out / "m" / name).read_text() for name in ("config.pbtxt", "README.md")}
    (out / "m" / "2").write_text("a file in the way")
    second = make_folder(name="second", seed=1).edit(lambda data: data.update(fingerprint="0" * 64))
    with pytest.raises(FolderError, match="cannot be written"):
        package_triton(second.path, out, replace(settings, max_batch=4, version=2))
    assert {name: (out / "m" / name).read_text() for name in before} == before
    assert (out / "m" / "2").read_text() == "a file in the way"


def test_what_a_killed_run_leaves_is_no_model(tmp_path: Path) -> None:
    """Triton takes every folder of a repository for a model, and does not start where one cannot be opened."""
    out = tmp_path / "a" / "repository"
    with work_folder(out) as work:
        assert work.parent == out.parent and work.name.startswith(".") and list(out.iterdir()) == []
    assert [path.name for path in out.parent.iterdir()] == ["repository"]


def test_two_runs_at_once_do_not_replace_each_other(tmp_path: Path) -> None:
    work, place = tmp_path / "work", tmp_path / "2"
    for folder in (work, place):
        folder.mkdir()
        (folder / "model.onnx").write_text(folder.name)
    with pytest.raises(OSError, match="not empty"):
        put_folder(work, place)
    assert (place / "model.onnx").read_text() == "2"
    put_folder(work, place, overwrite=True)
    assert (place / "model.onnx").read_text() == "work" and [path.name for path in tmp_path.iterdir()] == ["2"]


def test_the_command_prints_what_it_wrote(
    make_folder: MakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], parse: Callable[[Path], Any]
) -> None:
    folder, out = str(make_folder().path), tmp_path / "repository"
    options = ["--max-batch", "8", "--max-wait-ms", "2", "--queue", "9", "--deadline", "0.5", "--instances", "2"]
    assert main(["package", folder, str(out), "--triton", "--name", "small", "--threads", "1", *options]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{out / 'small'}: version 1, variant fp32, ")
    assert said[1] == "batching: requests of equal shapes share a run, up to 8 texts"
    config = parse(out / "small")
    policy = config.dynamic_batching.default_queue_policy
    assert (config.max_batch_size, config.instance_group[0].count, policy.max_queue_size) == (8, 2, 9)
    assert (config.dynamic_batching.max_queue_delay_microseconds, policy.default_timeout_microseconds) == (2000, 500000)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "say --triton"),
        (["--triton", "--overwrite"], "--overwrite replaces one version; say which with --version N"),
        (["--triton", "--provider", "tpu"], "invalid choice: 'tpu'"),
        (["--triton", "--name", "a b"], "name must be letters"),
        (["--triton", "--variant", "int4"], "variant must be one of those the folder has"),
        (["--triton", "--max-wait-ms", "-1"], "max_wait_ms must be a number >= 0"),
    ],
)
def test_wrong_commands_are_one_line(
    make_folder: MakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert main(["package", str(make_folder().path), str(tmp_path / "repository"), *options]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "a/b"}, "name must be letters"),
        ({"name": ""}, "name must be letters"),
        ({"provider": "tpu"}, "provider must be one of cpu, cuda, got 'tpu'"),
        ({"max_batch": 0}, "max_batch must be a whole number >= 1, got 0"),
        ({"max_batch": 1.5}, "max_batch must be a whole number >= 1, got 1.5"),
        ({"max_wait_ms": float("nan")}, "max_wait_ms must be a number >= 0, got nan"),
        ({"version": 0}, "version must be a whole number >= 1, got 0"),
        ({"version": 2**63}, "version must be at most"),
        ({"deadline_s": 0}, "deadline_s must be a number of seconds above 0, got 0"),
    ],
)
def test_wrong_settings(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        TritonSettings(**values)


def test_a_variant_that_is_not_right_everywhere_is_taken_when_asked_for(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    one, two = make_folder(name="one").path, make_folder(name="two").path
    wide = {"precision": "int8", "weight_bits": 8, "mixes_texts": False}
    folder = put_together(tmp_path / "both", {"int8-vnni": one, "fp32": two}, int8_vnni=wide)
    assert package_triton(folder, tmp_path / "repository").variant == "fp32"
    written = package_triton(folder, tmp_path / "repository", TritonSettings(name="wide", variant="int8-vnni"))
    assert written.variant == "int8-vnni" and any("CPUs with VNNI" in remark for remark in written.remarks)
    with pytest.raises(InputError, match=r"variant must be one of those the folder has .* got 'int4'"):
        package_triton(folder, tmp_path / "repository", TritonSettings(name="none", variant="int4"))
