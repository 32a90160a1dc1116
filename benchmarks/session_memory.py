"""Resident memory of a session over thousands of random shapes, for each of its ways to keep memory.

    python benchmarks/session_memory.py FOLDER [--variant fp32 int8] [--memory fast flat] [--shapes 5000]
                                        [--tokens 4096] [--json FILE]

Every way has a process of its own, which opens the folder, warms up the largest shapes, and then runs batches of 1 to
32 rows of 1 to 512 tokens, at most so many tokens in a run. All processes run one shape in turns, so that ratios of
times are of the same moment. Asserted: all ways give the same numbers to the last bit, and `flat` stays within
BOUND of what was resident after the warm-up; for `fast` it is only reported. Times need a quiet machine, memory
does not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from _results import machine, versions

from losparse_runtime import Draw, Session, read_folder
from losparse_runtime.engine.options import FAST, MEMORY

BATCH, LENGTH = 32, 512
SEED = 0
REPORTS = 10
BOUND = 1.10
"""Resident memory over that after the warm-up: the arena's regions are of powers of two, and holes are of any size."""
_MB = 1_000_000


def resident() -> int:
    """Return the resident memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def draw_shapes(count: int, tokens: int) -> list[tuple[int, int]]:
    """Return random pairs of batch and length with at most so many tokens."""
    random = np.random.default_rng(SEED)
    shapes: list[tuple[int, int]] = []
    while len(shapes) < count:
        batch, length = int(random.integers(1, BATCH + 1)), int(random.integers(1, LENGTH + 1))
        if batch * length <= tokens:
            shapes.append((batch, length))
    return shapes


def child(job: dict[str, Any]) -> None:
    """Open a folder; run a shape for each line of stdin; write time, resident memory and a checksum of the outputs."""
    longest = job["longest"]
    largest = [(BATCH, min(longest, job["tokens"] // BATCH)), (max(1, job["tokens"] // longest), longest)]
    session = Session(job["folder"], threads=1, variant=job["variant"], memory=job["memory"], warmup=largest)
    print(json.dumps(resident()), flush=True)
    for number, line in enumerate(sys.stdin):
        batch, length = json.loads(line)
        feeds = session.signature.random_feeds(Draw(batch, min(length, longest), seed=number, padding="drawn"))
        begin = time.perf_counter()
        outputs = session.run(feeds)
        seconds = time.perf_counter() - begin
        assert all(np.isfinite(array).all() for array in outputs.values())
        check = zlib.crc32(b"".join(array.tobytes() for array in outputs.values()))
        print(json.dumps([seconds, resident(), check]), flush=True)


class Way:
    """One way to keep memory, in a process of its own."""

    def __init__(self, job: dict[str, Any]) -> None:
        command = [sys.executable, __file__, "--child", json.dumps(job)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.seconds: list[float] = []
        self.memory: list[int] = []
        self.warm = int(self.read())

    def read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process ended with {self.process.wait()}")
        return json.loads(line)

    def run(self, shape: tuple[int, int]) -> int:
        """Run a shape; returns the checksum of its outputs."""
        assert self.process.stdin is not None
        print(json.dumps(shape), file=self.process.stdin, flush=True)
        seconds, memory, check = self.read()
        self.seconds.append(seconds)
        self.memory.append(memory)
        return int(check)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def run_variant(folder: Path, variant: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run all ways of one variant in turns, and print what is resident ten times."""
    longest = min(LENGTH, read_folder(folder).max_length, arguments.tokens)
    job = {"folder": str(folder), "variant": variant, "tokens": arguments.tokens, "longest": longest}
    ways = {memory: Way({**job, "memory": memory}) for memory in arguments.memory}
    print(f"{variant}, MB resident after the warm-up:", {name: way.warm // _MB for name, way in ways.items()})
    shapes = draw_shapes(arguments.shapes, arguments.tokens)
    step = max(1, len(shapes) // REPORTS)
    for number, shape in enumerate(shapes, 1):
        turn = list(ways.values()) if number % 2 else list(ways.values())[::-1]
        checks = {way.run(shape) for way in turn}
        assert len(checks) == 1, f"{variant}: ways differ at shape {shape}"
        if number % step == 0:
            now = {name: f"{way.memory[-1] // _MB} (most {max(way.memory) // _MB})" for name, way in ways.items()}
            print(f"{number:6} shapes, MB resident:", now, flush=True)
    for way in ways.values():
        way.close()
    first = next(iter(ways.values()))
    return {
        name: {
            "resident_warm_bytes": way.warm,
            "resident_bytes": way.memory[step - 1 :: step],
            "resident_most_bytes": max(way.memory),
            "time_ratio": statistics.median(a / b for a, b in zip(way.seconds, first.seconds, strict=True)),
            "total_ratio": sum(way.seconds) / sum(first.seconds),
        }
        for name, way in ways.items()
    }


def main() -> None:
    """Run every variant, print, and check the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--variant", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--memory", nargs="+", choices=MEMORY, default=list(MEMORY))
    parser.add_argument("--shapes", type=int, default=5000)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    variants = arguments.variant or list(read_folder(arguments.folder).variants)
    found = {variant: run_variant(arguments.folder, variant, arguments) for variant in variants}
    about = {"machine": machine(), "versions": versions(), "shapes": arguments.shapes, "seed": SEED, "bound": BOUND}
    for variant, ways in found.items():
        for name, way in ways.items():
            most = way["resident_most_bytes"] / way["resident_warm_bytes"]
            print(
                f"{variant} {name}: at most {most:.2f} of the warm-up, {way['time_ratio']:.3f} times as long (median)"
            )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({**about, "variants": found}, indent=2) + "\n")
    for variant, ways in found.items():
        for name, way in ways.items():
            assert name == FAST or way["resident_most_bytes"] <= BOUND * way["resident_warm_bytes"], (
                f"{variant} {name}: not flat, {way['resident_most_bytes']:,} bytes after {way['resident_warm_bytes']:,}"
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(json.loads(sys.argv[2]))
    else:
        main()
