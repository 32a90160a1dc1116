"""Put folders that tests/clients/write_folders.py wrote into a model repository.

python tests/triton/write_repository.py CLIENTS OUT
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from losparse_runtime import TritonSettings, package_triton

FOLDERS = ("fp32", "fp32-opset-18", "int8", "fp16")


def main() -> int:
    """Write it anew."""
    clients, out = map(Path, sys.argv[1:3])
    shutil.rmtree(out, ignore_errors=True)
    for name in FOLDERS:
        package_triton(clients / name, out, TritonSettings(name=name, threads=1))
    package_triton(clients / "variants", out, TritonSettings(name="int4", variant="int4-weights", threads=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
