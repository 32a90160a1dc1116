"""Let lm-evaluation-harness measure an exported folder by `examples/lm_eval/losparse_lm.py`; nothing is fetched.

    python tests/lm_eval/check_lm_eval.py OUT

Runs in an environment of the harness and the runtime, without torch; OUT is what `write_folder.py` wrote.
"""

from __future__ import annotations

import json
import math
import os
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "lm_eval"))

import lm_eval
import losparse_lm
from lm_eval.tasks import TaskManager

# The same rows in the same onnxruntime, run together with others: float32 sums of logits in another order.
TOLERANCE = 1e-4


def main() -> int:
    """Measure, compare, and return 1 when a number differs."""
    out = Path(sys.argv[1]).absolute()
    expected = json.loads((out / "expected.json").read_text())
    losses = expected.pop("made_texts")
    expected["made_texts"] = {
        "word_perplexity,none": math.exp(losses["loss"] / losses["words"]),
        "bits_per_byte,none": losses["loss"] / losses["bytes"] / math.log(2),
    }
    found = lm_eval.simple_evaluate(
        model="losparse",
        model_args=f"folder={out / 'lm-onnx'},threads=1",
        tasks=list(expected),
        task_manager=TaskManager(include_path=str(out / "tasks"), include_defaults=False),
        bootstrap_iters=0,
    )
    assert found is not None and losparse_lm.LosparseLM is not None
    failed = 0
    for task, metrics in expected.items():
        for name, value in metrics.items():
            theirs = found["results"][task][name]
            passed = math.isclose(theirs, value, rel_tol=TOLERANCE)
            failed += not passed
            print(f"{task}, {name}: {theirs:.6g}, ours {value:.6g}: {'ok' if passed else 'FAILED'}")
    print(f"lm_eval {version('lm_eval')}, torch {'there' if find_spec('torch') else 'not there'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
