"""What running a folder takes: installed bytes part by part, the first answer of a cold process, memory, sharing.

    python benchmarks/runtime_footprint.py FOLDER [--variant NAME] [--venv DIR] [--runs 5] [--processes 4] [--json FILE]

DIR gets a virtual environment with `.[runtime]` alone, unless there is one. Every run of `losparse run` there is a new
process: "warm" has the files in the page cache, "cold" had them dropped from it first, as far as the system drops pages
that others do not use. Resident memory is the largest that the kernel saw. Then several processes open one model at
once, by onnxruntime alone, with one thread each: PSS counts a page that several share in parts, so its sum is what they
take together. Asserted: the first answer comes within LIMIT_S, warm and cold; resident memory is at most FACTOR times
the model and ROOM; all processes give the same numbers. Times need a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from _results import machine, versions

from losparse_runtime.contract.files import read_metadata
from losparse_runtime.engine.choice import choose_variant
from losparse_runtime.engine.cpus import cpu_class

ROOT = Path(__file__).parents[1]
LIMIT_S, FACTOR, ROOM = 2.0, 1.5, 150_000_000
TEXT = "a fine film"
_MB = 1_000_000
PARTS = """
import json
from importlib.metadata import distributions
sizes = {}
for each in distributions():
    files = [each.locate_file(file) for file in each.files or ()]
    sizes[each.name] = sum(file.stat().st_size for file in files if file.is_file())
print(json.dumps(sizes))
"""
OPENED = """
import json, os, sys
import numpy as np
import onnxruntime
job = json.loads(sys.argv[1])
settings = onnxruntime.SessionOptions()
settings.intra_op_num_threads = settings.inter_op_num_threads = 1
settings.log_severity_level = 3
for name, value in job["config"].items():
    settings.add_session_config_entry(name, value)
session = onnxruntime.InferenceSession(job["model"], settings, providers=["CPUExecutionProvider"])
children = []
for _ in range(job["forks"]):
    child = os.fork()
    if child == 0:
        children = None
        break
    children.append(child)
if children:
    for child in children:
        os.waitpid(child, 0)
    sys.exit(0)
made = {"input_ids": np.full((1, 64), 5), "attention_mask": np.ones((1, 64), np.int64)}
made["token_type_ids"] = np.zeros((1, 64), np.int64)
out = session.run(None, {node.name: made[node.name] for node in session.get_inputs()})[0]
os.write(1, (json.dumps([os.getpid(), out.ravel()[:8].tolist()]) + "\\n").encode())
os.read(0, 1)
os._exit(0)
"""


def installed_bytes(python: Path) -> dict[str, int]:
    """Return the bytes of every distribution in an environment, the largest first."""
    found = json.loads(subprocess.run([python, "-c", PARTS], capture_output=True, text=True, check=True).stdout)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def make_environment(place: Path) -> Path:
    """Return the Python of an environment with the extra `runtime` alone, which is made where it is not there."""
    python = place / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", f"{ROOT}[runtime]"], check=True)
    return python


def drop_from_cache(*places: Path) -> None:
    """Ask the system to drop the pages of all files below some folders."""
    for file in (file for place in places for file in place.rglob("*") if file.is_file()):
        handle = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def run_once(python: Path, folder: Path, variant: str) -> tuple[float, int]:
    """Run `losparse run` in a new process; returns its seconds and the largest resident memory, in bytes."""
    command = [str(python.parent / "losparse"), "run", str(folder), TEXT, "--variant", variant]
    # Not the sources here: what is installed there.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0 and TEXT.encode() in said, said
    return seconds, used.ru_maxrss * 1024


def first_answers(python: Path, folder: Path, variant: str, runs: int) -> dict[str, Any]:
    """Time first answers, with the files in the page cache and without."""
    run_once(python, folder, variant)
    found: dict[str, list[tuple[float, int]]] = {"warm": [], "cold": []}
    for _ in range(runs):
        found["warm"].append(run_once(python, folder, variant))
        drop_from_cache(python.parents[1] / "lib", folder)
        found["cold"].append(run_once(python, folder, variant))
    return {
        name: {"median_s": statistics.median(s for s, _ in each), "resident_bytes": max(memory for _, memory in each)}
        for name, each in found.items()
    }


def memory_of(pid: int) -> dict[str, int]:
    """Return what the kernel says of a process's memory, in bytes."""
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    told = {name.rstrip(":"): int(value) * 1024 for name, value, *_ in lines}
    return {"rss": told["Rss"], "pss": told["Pss"], "private": told["Private_Clean"] + told["Private_Dirty"]}


@contextmanager
def opened(model: Path, config: Mapping[str, str], forks: int) -> Iterator[list[Any]]:
    """Open a model in a process of its own, or in one that is forked after that; yield what the processes say."""
    job = json.dumps({"model": str(model), "config": config, "forks": forks})
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", OPENED, job], text=True, **pipes)
    assert process.stdout is not None and process.stdin is not None
    try:
        yield [json.loads(process.stdout.readline()) for _ in range(max(1, forks))]
    finally:
        process.stdin.close()
        process.wait()


def shared(model: Path, config: Mapping[str, str], processes: int, *, forked: bool) -> dict[str, Any]:
    """Return the memory of several processes that hold one model, on average and in all."""
    with ExitStack() as stack:
        sets = [config] if forked else [config] * processes
        said = [each for one in sets for each in stack.enter_context(opened(model, one, processes if forked else 0))]
        found = [memory_of(pid) for pid, _ in said]
        numbers = [value for _, value in said]
    assert all(value == numbers[0] for value in numbers), "processes differ"
    mean = {f"{name}_bytes": statistics.mean(each[name] for each in found) for name in found[0]}
    return {**mean, "together_bytes": sum(each["pss"] for each in found), "first": numbers[0][0]}


def write_beside(model: Path, out: Path) -> dict[str, Path]:
    """Write a model once more with its weights beside it, and as onnxruntime packed them for this CPU."""
    beside, packed = out / "beside.onnx", out / "packed.onnx"
    options = {"all_tensors_to_one_file": True, "location": "beside.data", "size_threshold": 1024}
    onnx.save(onnx.load(model), beside, save_as_external_data=True, **options)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = 1, 3
    settings.optimized_model_filepath = str(packed)
    for name, value in (
        ("optimized_model_external_initializers_file_name", "packed.data"),
        ("optimized_model_external_initializers_min_size_in_bytes", "1024"),
        ("save_external_prepacked_constant_initializers", "1"),
    ):
        settings.add_session_config_entry(f"session.{name}", value)
    onnxruntime.InferenceSession(str(beside), settings, providers=["CPUExecutionProvider"])
    return {"beside": beside, "packed": packed}


def sharing(model: Path, processes: int) -> dict[str, Any]:
    """Return the memory of processes that hold a model whose weights lie in the file, beside it, or packed."""
    unpacked = {"session.disable_prepacking": "1"}
    with tempfile.TemporaryDirectory() as place:
        other = write_beside(model, Path(place))
        rows = {
            "in the file": (model, {}, False),
            "in the file, not packed": (model, unpacked, False),
            "beside it": (other["beside"], {}, False),
            "beside it, not packed": (other["beside"], unpacked, False),
            "beside it, packed on disk": (other["packed"], {}, False),
            "in the file, forked after opening": (model, {}, True),
            "beside it, forked after opening": (other["beside"], {}, True),
        }
        found = {name: shared(file, config, processes, forked=forked) for name, (file, config, forked) in rows.items()}
    first = found["in the file"]["first"]
    # Products of packed and of plain matrices add in another order.
    assert all(abs(each.pop("first") - first) < 1e-3 for each in found.values())
    return found


def main() -> None:
    """Measure, print, and check the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--variant")
    parser.add_argument("--venv", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    variant = (
        arguments.variant or choose_variant(read_metadata(folder).folder, cpu_class(), ["CPUExecutionProvider"]).name
    )
    metadata = read_metadata(folder, variant)
    place = arguments.venv or Path(tempfile.mkdtemp())
    python = make_environment(place.absolute())
    sizes = installed_bytes(python)
    print(f"installed, {sum(sizes.values()) / _MB:.0f} MB:", {name: round(n / _MB, 1) for name, n in sizes.items()})
    answers = first_answers(python, folder, variant, arguments.runs)
    if arguments.venv is None:
        shutil.rmtree(place)
    most = int(FACTOR * metadata.model_bytes + ROOM)
    for name, each in answers.items():
        seconds, memory = each["median_s"], each["resident_bytes"] / _MB
        print(
            f"first answer of {variant}, {name}: {seconds:.2f} s, {memory:.0f} MB resident of at most {most / _MB:.0f}"
        )
    found = sharing(folder / metadata.model.file, arguments.processes)
    for name, each in found.items():
        numbers = (f"{part} {each[f'{part}_bytes'] / _MB:.0f}" for part in ("rss", "pss", "private", "together"))
        print(f"{arguments.processes} processes, weights {name}, MB: {', '.join(numbers)}")
    if arguments.json is not None:
        about = {"machine": machine(), "versions": versions(), "variant": variant, "model_bytes": metadata.model_bytes}
        parts = {"installed_bytes": sizes, "first_answer": answers, "sharing": found}
        arguments.json.write_text(json.dumps({**about, **parts}, indent=2) + "\n")
    for name, each in answers.items():
        assert each["median_s"] < LIMIT_S, f"{name}: first answer after {each['median_s']:.2f} s"
        assert each["resident_bytes"] <= most, f"{name}: {each['resident_bytes']:,} bytes resident"


if __name__ == "__main__":
    main()
