"""`losparse sign`, `losparse verify`, and commands that verify what they open: what they print and return."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from losparse.cli.main import main
from losparse_runtime import read_folder, record_times
from losparse_runtime.contract.files import write_metadata
from losparse_runtime.contract.gates import PassedGate
from losparse_runtime.contract.variant import DEFAULT_PROVIDER
from losparse_runtime.timing.benchmark import Benchmark, Timing
from losparse_runtime.timing.latency import Latency

from .conftest import MakeFolder
from .test_runtime_signing import relisted

GATES = (PassedGate("max_accuracy_drop", 1.0, -0.25), PassedGate("min_speedup", 3.0, 4.5))


@pytest.fixture
def gated(make_folder: MakeFolder) -> Path:
    """A folder that a build shipped: it says what it was gated by."""
    folder = relisted(make_folder().path)
    contents = read_folder(folder)
    variants = {name: replace(variant, gates=GATES) for name, variant in contents.variants.items()}
    write_metadata(folder, replace(contents, variants=variants))
    return folder


def command(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_keys_a_signature_and_what_is_said_of_it(
    gated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, public = tmp_path / "release.pem", tmp_path / "release.pub.pem"
    assert command("sign", "--new-key", key) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{key}: private key; keep it secret, it signs"
    name = said[1].removeprefix(f"{public}: public key ").partition(";")[0]
    assert name.startswith("sha256:") and len(name) == 7 + 64
    assert command("verify", gated) == 0
    assert "signature: none\npassed\n" in capsys.readouterr().out
    assert command("sign", gated, "--key", key) == 0
    assert (
        capsys.readouterr().out
        == f"{gated}/losparse.json.sig: signature of losparse.json, which lists 4 files by their SHA-256\n"
    )
    assert command("verify", gated) == 0
    assert f"says that it is by {name}; not compared: give --key PUBLIC.pem" in capsys.readouterr().out
    assert command("verify", gated, "--key", public, "--json", tmp_path / "found.json") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1:] == [
        "fp32: passed max_accuracy_drop 1: -0.25",
        "fp32: passed min_speedup 3: 4.5",
        f"signature: by {name}, as asked for",
        "passed",
    ]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["passed"] and found["compared"] and found["signature"] == name
    assert found["gates"] == {"fp32": [vars(gate) for gate in GATES]}


def test_what_is_wrong_is_listed_and_fails(gated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (gated / "config.json").write_text("{}")
    (gated / "extra.bin").write_text("")
    (gated / "README.md").write_text("")
    assert command("verify", gated) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"wrong: {gated}/config.json: has 2 bytes, losparse.json says ")
    assert (
        said[1]
        == f"wrong: {gated}: holds extra.bin, which losparse.json does not list; remove it, or export the folder again"
    )
    assert said[-3:] == ["not vouched for, and not read: README.md", "signature: none", "FAILED"]
    (gated / "losparse.json").write_text("{")
    assert command("verify", gated) == 1
    assert capsys.readouterr().out.splitlines()[0].startswith(f"wrong: {gated}/losparse.json: not valid JSON")
    assert command("verify", tmp_path / "none") == 2
    assert command("verify", gated, "--key", tmp_path / "none.pem") == 2
    assert capsys.readouterr().err.count("\n") == 2


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "one of the arguments --key --new-key is required; see losparse sign --help"),
        (("--key", "k.pem"), "--key signs a folder; name it: losparse sign ONNX_DIR --key KEY.pem"),
        (("OUT", "--new-key", "k.pem"), "--new-key signs nothing; leave ONNX_DIR and --out out, and sign with --key"),
    ],
)
def test_signing_says_what_it_needs(arguments: tuple[str, ...], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = command("sign", *arguments)
    except SystemExit as error:
        code = int(error.code or 0)
    said = capsys.readouterr().err
    assert code == 2 and line in said and said.count("\n") == 1


def test_run_verifies_when_it_is_asked_to(gated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command("sign", "--new-key", tmp_path / "a.pem")
    command("sign", gated, "--key", tmp_path / "a.pem")
    assert command("run", gated, "a b", "--verify-key", tmp_path / "a.pub.pem") == 0
    config = gated / "config.json"
    config.write_text(config.read_text().replace("12", "13"))
    assert command("run", gated, "a b") == 0
    capsys.readouterr()
    for asked in (("--verify",), ("--verify-key", tmp_path / "a.pub.pem")):
        assert command("run", gated, "a b", *asked) == 2
        assert "config.json: SHA-256 is " in capsys.readouterr().err
        assert command("bench", gated, "--runs", 1, "--no-memory", "--length", 4, *asked) == 2
        assert "config.json: SHA-256 is " in capsys.readouterr().err


def test_recorded_times_need_a_new_signature(
    gated: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    command("sign", "--new-key", tmp_path / "a.pem")
    command("sign", gated, "--key", tmp_path / "a.pem")
    fingerprint = read_folder(gated).variants["fp32"].models["model"].fingerprint
    latency = Latency(1.0, 1.0, 1.0, 1.0, 1.0, 10, 1.0, 1.0, 1.0, False, None)
    model = {"folder": str(gated), "fingerprint": fingerprint, "variant": "fp32"}
    record_times(Benchmark((DEFAULT_PROVIDER,), 1, {"fp32": model}, (Timing(1, 4, "fp32", latency),)), "cpu-avx2")
    assert f"{gated}: was signed as it was before; sign it again with `losparse sign`" in caplog.text
    assert read_folder(gated).variants["fp32"].gates == GATES
    assert command("verify", gated, "--key", tmp_path / "a.pub.pem") == 1
    assert "is of an earlier losparse.json than the one beside it" in capsys.readouterr().out
    assert command("sign", gated, "--key", tmp_path / "a.pem") == 0
    assert command("verify", gated, "--key", tmp_path / "a.pub.pem") == 0


@pytest.mark.parametrize(
    "gates", [{}, [1], [{}], [{"gate": "a", "limit": "1", "value": 1}], [{"gate": "\n", "limit": 1, "value": 1}]]
)
def test_gates_that_are_none(gated: Path, gates: object, capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads((gated / "losparse.json").read_text())
    (gated / "losparse.json").write_text(json.dumps(data | {"gates": gates}))
    assert command("verify", gated) == 1
    assert "losparse.json: field 'gates" in capsys.readouterr().out


def test_verifying_needs_neither_torch_nor_onnxruntime(gated: Path) -> None:
    program = (
        "import sys; from losparse.cli.main import main; code = main(sys.argv[1:]); "
        "print(code, sorted({'torch', 'onnxruntime', 'cryptography'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, "verify", gated], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
