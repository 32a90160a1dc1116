"""How often `compare_latency` is wrong on this machine: equal models called slower, slower ones let pass.

    python benchmarks/equal_pairs.py ONNX_DIR [--pairs 50] [--at-most 1.1] [--slower 1.3]

A pair is two sessions of one folder. In the slower pairs one of them works on after each run, for a share of the time
that the run took: so it is slower by just as much, on any machine. Exit code 1 where a pair of equal models failed, or
a slower one passed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import Any

from losparse_runtime import Session, compare_latency
from losparse_runtime.timing.ratio import DEFAULT_RATIO, RatioVerdict


class Slower(Session):
    """A session whose runs take a multiple of their time, spent in work."""

    multiple = 1.0

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run, and work on."""
        began = time.perf_counter()
        outputs = super().run(inputs)
        until = began + (time.perf_counter() - began) * self.multiple
        while time.perf_counter() < until:
            pass
        return outputs


def compare_pairs(options: argparse.Namespace, multiple: float) -> list[RatioVerdict]:
    """Compare one folder with itself so many times, and print each verdict; see `Slower` for the multiple."""
    found = []
    for place in range(options.pairs):
        one = (Session if multiple == 1 else Slower)(options.folder, threads=options.threads, variant=options.variant)
        if isinstance(one, Slower):
            one.multiple = multiple
        other = Session(options.folder, threads=options.threads, variant=options.variant)
        found.append(
            compare_latency(
                one,
                other,
                batch=options.batch,
                length=options.length,
                at_most_ratio=options.at_most,
                min_seconds=options.min_seconds,
                seed=place,
            )
        )
        print(f"{place + 1:3} {'passed' if found[-1].passed else 'FAILED'}: {found[-1].words}", flush=True)
    return found


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="ONNX_DIR", help="any exported folder")
    parser.add_argument("--pairs", type=int, default=50, metavar="N")
    parser.add_argument("--at-most", type=float, default=DEFAULT_RATIO, metavar="RATIO")
    parser.add_argument("--slower", type=float, default=1.3, metavar="RATIO", help="of the slower pairs; 1 for none")
    parser.add_argument("--batch", type=int, default=1, metavar="N")
    parser.add_argument("--length", type=int, default=128, metavar="N")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--variant", metavar="NAME", help="the one to time; by default the one for this CPU")
    parser.add_argument("--min-seconds", type=float, metavar="S", help="timed a model and measurement")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, and count."""
    options = options_of(arguments)
    equal = compare_pairs(options, 1.0)
    right = sum(verdict.passed for verdict in equal)
    again = sum(len(verdict.measurements) > 1 for verdict in equal)
    print(f"equal models: {right} of {len(equal)} passed at {options.at_most:g}, {again} measured again")
    caught = options.pairs
    if options.slower != 1:
        caught = sum(not verdict.passed for verdict in compare_pairs(options, options.slower))
        print(f"{options.slower:g} times slower: {caught} of {options.pairs} caught")
    return int(right < options.pairs or caught < options.pairs)


if __name__ == "__main__":
    raise SystemExit(main())
