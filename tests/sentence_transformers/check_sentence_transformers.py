"""Compare our vectors and rankings with those of sentence-transformers: runs where that is and losparse is not.

python tests/sentence_transformers/check_sentence_transformers.py OUT
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from cases import CASES, CROSS_ENCODERS, QUERY, TEXTS
from sentence_transformers import CrossEncoder, SentenceTransformer

# fp32 sums in another order, of numbers of magnitude 1 (vectors that are sums over tokens: of that of the sum).
TOLERANCE = 1e-5


def check_rankings(out: Path) -> int:
    """Compare the rankings of cross-encoders; returns how many differ."""
    failed = 0
    for name in CROSS_ENCODERS:
        model = CrossEncoder(str(out / "folders" / name), device="cpu", local_files_only=True)
        wanted = model.rank(QUERY, TEXTS, batch_size=4)
        places, scores = np.load(out / f"{name}.npz").values()
        same = [each["corpus_id"] for each in wanted] == places.tolist()
        difference = float(np.abs(scores - [float(each["score"]) for each in wanted]).max())
        passed = same and difference <= TOLERANCE
        failed += not passed
        print(f"{name}: {difference:.1e}: {'ok' if passed else 'FAILED'}")
    return failed


def main() -> int:
    """Compare every call of every case; returns 1 when one differs."""
    out = Path(sys.argv[1])
    failed = check_rankings(out)
    for case in CASES:
        model = SentenceTransformer(str(out / "folders" / case.name), device="cpu", local_files_only=True)
        ours = list(np.load(out / f"{case.name}.npz").values())
        for call, found in zip(case.calls, ours, strict=True):
            wanted = model.encode(TEXTS, batch_size=4, **call)
            same = found.shape == wanted.shape
            difference = float((np.abs(found - wanted) / max(1, np.abs(wanted).max())).max()) if same else float("inf")
            passed = difference <= TOLERANCE  # NaN compares false
            failed += not passed
            if not passed or not call:
                print(f"{case.name} {call or ''}: {wanted.shape}, {difference:.1e}: {'ok' if passed else 'FAILED'}")
    calls = sum(len(case.calls) for case in CASES)
    print(f"{calls} calls of {len(CASES)} folders, {len(CROSS_ENCODERS)} rankings, {failed} failed")
    print(f"sentence-transformers {version('sentence-transformers')}, transformers {version('transformers')}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
