"""Open our folder with transformers.js in node, and compare vectors; losparse is not used.

    python tests/clients/check_transformers_js.py OUT PLACE

PLACE holds node_modules with @huggingface/transformers.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from blocks import client_blocks

# The same file in onnxruntime-node 1.30; vectors of length 1. Inputs of 4-bit products are rounded to int8,
# and some to another step where a sum is of another order.
TOLERANCE = {"fp32": ("fp32", 1e-6), "q8": ("int8", 1e-6), "fp16": ("fp16", 1e-6), "q4": ("int4-weights", 1e-2)}


def run_node(out: Path, place: Path, dtype: str, texts: list[str]) -> np.ndarray:
    """Run the block of docs/clients.md with a dtype; returns the vectors."""
    link = place / "OUT"
    link.unlink(missing_ok=True)
    link.symlink_to((out / "transformers-js").resolve())
    block = client_blocks()["transformers_js"].replace('"q8"', f'"{dtype}"')
    script = place / "check.mjs"
    script.write_text(
        f"const texts = {json.dumps(texts)};\n{block}\n"
        'console.log("vectors " + JSON.stringify(vectors), "version", env.version);\n'
    )
    done = subprocess.run(["node", script.name], cwd=place, check=True, capture_output=True, text=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("vectors "))
    vectors, _, version = line.removeprefix("vectors ").partition(" version ")
    print(f"transformers.js {version}, {dtype}: ", end="")
    return np.array(json.loads(vectors))


def main() -> int:
    """Compare every dtype; returns 1 when one differs."""
    out, place = Path(sys.argv[1]), Path(sys.argv[2])
    texts, failed = json.loads((out / "texts.json").read_text()), 0
    for dtype, (form, tolerance) in TOLERANCE.items():
        wanted = np.load(out / f"transformers-js-{form}.npz")["vectors"]
        apart = np.abs(run_node(out, place, dtype, texts) - wanted).max(axis=1)
        # The last text is longer than the model reads: transformers.js cuts it without keeping the token that ends it.
        difference = float(apart[:-1].max())
        failed += not difference <= tolerance  # NaN compares false
        said = "ok" if difference <= tolerance else "FAILED"
        print(f"max difference {difference:.1e} (of a text that is cut {apart[-1]:.1e}): {said}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
