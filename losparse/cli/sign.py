"""`losparse sign ONNX_DIR --key KEY.pem`: vouch for an exported folder. Loads no torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from losparse_runtime.contract.records import SIGNATURE_FILE

from ..errors import LosparseError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "folder", type=Path, nargs="?", metavar="ONNX_DIR", help="what `losparse export` or `losparse build` wrote"
    )
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument(
        "--key",
        type=Path,
        metavar="KEY.pem",
        help="private key of ed25519; the passphrase of one that has it is read from LOSPARSE_KEY_PASSPHRASE",
    )
    how.add_argument(
        "--new-key",
        type=Path,
        metavar="KEY.pem",
        help="sign nothing: write a private key, and the public one with it",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"where the signature goes (default: ONNX_DIR/{SIGNATURE_FILE})"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Sign, or make keys, and print what was written."""
    from losparse_runtime.trust.keys import new_key, read_public
    from losparse_runtime.trust.signing import sign_folder

    if options.new_key is not None:
        if options.folder is not None or options.out is not None:
            raise LosparseError("--new-key signs nothing; leave ONNX_DIR and --out out, and sign with --key afterwards")
        private, public = new_key(options.new_key)
        print(f"{private}: private key; keep it secret, it signs")
        print(f"{public}: public key {read_public(public)[0].id}; give it to whoever verifies")
        return 0
    if options.folder is None:
        raise LosparseError("--key signs a folder; name it: losparse sign ONNX_DIR --key KEY.pem")
    file, report = sign_folder(options.folder, options.key, out=options.out)
    print(f"{file}: signature of losparse.json, which lists {report.files} files by their SHA-256")
    return 0
