"""Write the tables of README.md from the results files, so that every figure in it was measured.

python benchmarks/readme.py            rewrites the blocks between <!-- name --> and <!-- /name -->
python benchmarks/readme.py --check    exits 1 when the README is not what the results say
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def load(name: str) -> dict[str, Any]:
    """Read a results file; empty when it is not there yet."""
    path = RESULTS / name
    data: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return data


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines)


def sst2() -> str:
    """Accuracy of every row beside the best dense model."""
    data = load("sst2.json")
    if "dense" not in data:
        return ""
    best = data["dense_test_accuracy"]

    def line(name: str, keep: str, row: dict[str, Any]) -> list[str]:
        share = row["test_accuracy"] / best
        return [
            name,
            keep,
            f"{row['dev_accuracy']:.1%}",
            f"{row['test_accuracy']:.1%}",
            f"{share:.1%}",
            f"{row['file_bytes'] / 1e6:.1f} MB",
        ]

    rows = [line("dense", "1", data["dense"])]
    if "dense_as_much_training" in data:
        rows.append(line("dense, trained as long as the rows below", "1", data["dense_as_much_training"]))
    order = {"losparse+distillation": 0, "losparse": 1, "svd": 2, "pruning": 3}
    for row in sorted(data["rows"], key=lambda r: (-r["keep"], order.get(r["method"], 9), r["structure"], r["seed"])):
        structure = "" if row["method"] == "svd" else ", foldable" if row["structure"] == "foldable" else ", rows"
        name = row["method"] + structure
        rows.append(line(name, f"{row['keep']:g}", row))
    text = table(["model", "keep", "dev", "test", "of dense", "file"], rows)
    settings = data["settings"]["rows"]
    torch, transformers = data["versions"]["torch"], data["versions"]["transformers"]
    return (
        f"{text}\n\n{settings['epochs']:g} epochs, learning rate {settings['learning_rate']:g}, batch "
        f"{settings['batch_size']}, seed {settings['seed']}, embeddings frozen, fp32; torch {torch}, "
        f"transformers {transformers}."
    )


def latency() -> str:
    """Speed of the exported SST-2 models against the dense export."""
    data = load("sst2_export.json")
    if not data:
        return ""
    models = data["models"]
    shapes = list(next(iter(models.values()))["latency"])
    rows = []
    for name, row in models.items():
        cells = [f"{row['latency'][s]['median_ms']:.1f} ms, {row['latency'][s]['speedup']:.2f}x" for s in shapes]
        difference = f"{row['max_abs_difference']:.0e}"
        rows.append([name, f"{row['test_accuracy']:.1%}", f"{row['onnx_bytes'] / 1e6:.1f} MB", difference, *cells])
    head = ["exported model", "test accuracy", "model.onnx", "max difference to PyTorch", *shapes]
    return (
        "The same models exported, fp32, batch x tokens, median and speed-up over the dense export timed in turns in "
        f"one run at {data['threads']} thread on {data['machine']}, onnxruntime {data['versions']['onnxruntime']}. The "
        f"difference is the largest on any logit of the whole test set; predictions are identical.\n\n"
        + table(head, rows)
    )


def render(text: str) -> str:
    """Return the README with its blocks filled in."""
    for name, block in (("sst2", sst2), ("latency", latency)):
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        filled = block()
        text = pattern.sub(lambda m, body=filled: m[1] + (body + "\n" if body else "") + m[2], text)
    return text


def main() -> int:
    """Rewrite or check."""
    readme = ROOT / "README.md"
    old = readme.read_text()
    new = render(old)
    if "--check" in sys.argv:
        return 0 if new == old else 1
    readme.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
