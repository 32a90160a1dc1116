"""Compare our vectors and rankings with those of sentence-transformers: runs where that is and losparse is not.

python tests/sentence_transformers/check_sentence_transformers.py OUT
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from cases import (
    CALLS,
    CASES,
    CROSS_CALLS,
    CROSS_ENCODER,
    CROSS_ENCODERS,
    ENCODER,
    QUERY,
    SIMILARITIES,
    TEXTS,
    Case,
    flat,
)
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


def check_calls(out: Path) -> int:
    """Compare calls of the classes that stand for theirs; returns how many differ."""
    encoder = SentenceTransformer(str(out / "folders" / ENCODER), device="cpu", local_files_only=True)
    cross = CrossEncoder(str(out / "folders" / CROSS_ENCODER), device="cpu", local_files_only=True)
    failed = 0
    for kind, model, calls in (("call", encoder, CALLS), ("cross", cross, CROSS_CALLS)):
        for number, (method, options) in enumerate(calls):
            wanted = flat(getattr(model, method)(**options))
            said = ", ".join(f"{name}={str(value)[:30]}" for name, value in options.items())
            failed += not same_arrays(f"{method}({said})", wanted, np.load(out / f"{kind}-{number}.npz"))
    vectors, others = encoder.encode(TEXTS), encoder.encode_query(TEXTS)
    for name in SIMILARITIES:
        encoder.similarity_fn_name = name
        both = encoder.similarity(vectors, others[:3]), encoder.similarity_pairwise(vectors, others)
        failed += not same_arrays(
            f"similarity {name}", [np.asarray(each) for each in both], np.load(out / f"similarity-{name}.npz")
        )
    return failed


def same_arrays(name: str, wanted: list[Any], found: Any) -> bool:
    """Compare arrays: numbers within the tolerance, bits and texts exactly."""
    arrays = list(found.values())
    same = [each.shape for each in arrays] == [each.shape for each in wanted]
    for ours, theirs in zip(arrays, wanted, strict=True) if same else ():
        if theirs.dtype.kind == "f":
            scale = max(1.0, float(np.abs(theirs).max(initial=0)))
            same = same and ours.dtype == theirs.dtype and bool((np.abs(ours - theirs) <= TOLERANCE * scale).all())
        else:
            same = same and ours.dtype == theirs.dtype and bool((ours == theirs).all())
    print(f"{name}: {[each.shape for each in wanted][:3]}: {'ok' if same else 'FAILED'}")
    return same


def check_case(out: Path, folder: str, case: Case) -> int:
    """Compare every call of a case; returns how many differ."""
    model = SentenceTransformer(str(out / folder / case.name), device="cpu", local_files_only=True)
    ours = list(np.load(out / f"{case.name}.npz").values())
    failed = 0
    for call, found in zip(case.calls, ours, strict=True):
        wanted = model.encode(TEXTS, batch_size=4, **call)
        same = found.shape == wanted.shape
        difference = float((np.abs(found - wanted) / max(1, np.abs(wanted).max())).max()) if same else float("inf")
        passed = difference <= TOLERANCE  # NaN compares false
        failed += not passed
        if not passed or not call:
            name = f"{folder}/{case.name} {call or ''}"
            print(f"{name}: {wanted.shape}, {difference:.1e}: {'ok' if passed else 'FAILED'}")
    return failed


def main() -> int:
    """Compare every call of every case; returns 1 when one differs."""
    out = Path(sys.argv[1])
    failed = check_rankings(out) + check_calls(out)
    for folder in ("folders", "exported"):  # the source, and its weights with the files that the export wrote
        failed += sum(check_case(out, folder, case) for case in CASES)
    calls = sum(len(case.calls) for case in CASES)
    print(
        f"{calls} calls of {len(CASES)} folders and of as many exports, {len(CROSS_ENCODERS)} rankings, "
        f"{len(CALLS) + len(CROSS_CALLS)} other calls, {failed} failed"
    )
    print(f"sentence-transformers {version('sentence-transformers')}, transformers {version('transformers')}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
