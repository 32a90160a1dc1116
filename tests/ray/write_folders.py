"""Write what check_ray.py serves: two models of one task, and a folder that is broken.

python tests/ray/write_folders.py OUT
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.runtime.conftest import write_folder


def main() -> int:
    """Write them anew."""
    out = Path(sys.argv[1])
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for seed, name in enumerate(("first", "second", "broken")):
        write_folder(out / name, seed=seed)
    (out / "broken" / "model.onnx").write_bytes(b"cut short")
    return 0


if __name__ == "__main__":
    sys.exit(main())
