"""Do a server harm, on this machine alone, and require that it goes on: right answers or clear refusals, none lost.

    python benchmarks/serve_survive.py ONNX_DIR [--other ONNX_DIR] [--texts FILE.csv] [--seconds 60] [--only PART ...]

Parts, each with a server of its own by `losparse serve`; each prints a line, or says what did not hold and ends with 1:

    overload    twice the requests that it can answer, at their times, whether or not earlier ones were answered
    killed      kill -9 of one of two workers under load
    stopped     SIGTERM under load
    replaced    another folder in the place of the served one under load, by a link and by a rename; then a broken one
    hostile     slow heads, half bodies, bodies of 1 GiB, a text of 10,000 tokens, beside requests that are answered

Every answer is compared with what `Session` says of that text alone. `--other` is what replaces the folder, of the same
labels; without it a copy does, and only lost requests are found.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from serving.answers import expect, texts_of
from serving.client import make_request
from serving.contenders import body_of_ours
from serving.hostile import hostile
from serving.processes import divided_cpus, on_cpus
from serving.survival import PATH, Failed, Subject, killed_worker, overload, replaced, stopped

from losparse_runtime import Session

_FEW = 64  # texts


def run(args: argparse.Namespace) -> int:
    """Run the parts; returns the exit code."""
    session = Session(args.folder, threads=1, variant=args.variant, spinning=False)
    expected = expect(session, texts_of(args.texts, session, _FEW, args.most_tokens))
    requests = [make_request(PATH, body_of_ours(text)) for text in expected.texts]
    parts: dict[str, Callable[[Subject], str]] = {
        "overload": overload,
        "killed": killed_worker,
        "stopped": stopped,
        "replaced": lambda subject: replaced(subject, args.other or args.folder),
        "hostile": hostile,
    }
    code = 0
    cpus, client = divided_cpus()
    print(f"{session}; servers on CPUs {cpus}, client on {client}; {args.seconds:g} s a load", flush=True)
    for name in args.only or parts:
        with tempfile.TemporaryDirectory() as logs, on_cpus(client):
            subject = Subject(session, expected, requests, args.seconds, Path(logs))
            try:
                print(f"{name}: {parts[name](subject)}", flush=True)
            except Failed as error:
                code = 1
                print(f"{name}: FAILED: {error}", flush=True)
    return code


def main() -> int:
    """Parse."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="ONNX_DIR")
    parser.add_argument("--variant", metavar="NAME", help="which form of the model (default: the best one here)")
    parser.add_argument("--other", type=Path, metavar="ONNX_DIR", help="what replaces the folder while it is served")
    parser.add_argument("--texts", type=Path, metavar="FILE", help="CSV with a column text (default: made ones)")
    parser.add_argument("--most-tokens", type=int, default=16, metavar="N", help="of a text, special ones included")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="of a load")
    parser.add_argument(
        "--only", nargs="+", choices=("overload", "killed", "stopped", "replaced", "hostile"), metavar="PART"
    )
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
