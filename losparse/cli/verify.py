"""`losparse verify ONNX_DIR [--key PUBLIC.pem]`: is it what was written, and who vouches for it? Exit code 1 if not.

Loads neither torch nor onnxruntime.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from losparse_runtime.contract.files import write_json
from losparse_runtime.contract.records import SIGNATURE_FILE

from .output import check_json_target, human_bytes

if TYPE_CHECKING:
    from losparse_runtime.trust.verifying import TrustReport


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "folder", type=Path, metavar="ONNX_DIR", help="what `losparse export` or `losparse build` wrote"
    )
    parser.add_argument(
        "--key",
        type=Path,
        metavar="PUBLIC.pem",
        help="public key that must have signed it, or several in one file (default: compare digests alone)",
    )
    parser.add_argument(
        "--signature", type=Path, metavar="FILE", help=f"of the folder (default: ONNX_DIR/{SIGNATURE_FILE})"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result to this file")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Compare, print, and return 1 if something is wrong."""
    from losparse_runtime.trust.verifying import verify_folder

    check_json_target(options.json)
    report = verify_folder(options.folder, options.key, signature=options.signature)
    for line in report.problems:
        print(f"wrong: {line}")
    if report.contents is not None:
        print(f"files: {report.files}, {human_bytes(report.bytes)}, listed with their SHA-256")
        for name, variant in report.contents.variants.items():
            for gate in variant.gates:
                print(f"{name}: {gate.line}")
    if report.beside:
        print(f"not vouched for, and not read: {', '.join(report.beside)}")
    print(f"signature: {_signed(report, options.key is not None)}")
    print("passed" if report.passed else "FAILED")
    if options.json is not None:
        write_json(options.json, _json(report))
    return 0 if report.passed else 1


def _signed(report: TrustReport, asked: bool) -> str:
    if report.compared:
        return f"by {report.signature}, as asked for"
    if asked:
        return "FAILED"
    if report.signature is None:
        return "none"
    return f"says that it is by {report.signature}; not compared: give --key PUBLIC.pem"


def _json(report: TrustReport) -> dict[str, object]:
    variants = {} if report.contents is None else report.contents.variants
    return {
        "folder": str(report.folder),
        "passed": report.passed,
        "problems": list(report.problems),
        "files": report.files,
        "bytes": report.bytes,
        "gates": {name: [asdict(gate) for gate in variant.gates] for name, variant in variants.items()},
        "beside": list(report.beside),
        "signature": report.signature,
        "compared": report.compared,
    }
