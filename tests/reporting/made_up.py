"""A build's facts, made up: as `losparse build` writes them, of as many variants and blocks as a test wants."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SHAPES = ((1, 16), (1, 128), (8, 128))
ROLES = ("query", "key", "value", "output", "up", "down")
_SPEED = {"dense": 1.0, "dense-int8": 2.9, "openvino-int8": 3.3}


def facts(
    variants: Sequence[str] = ("fp32", "int8", "int8-static"),
    *,
    blocks: int = 6,
    failed: Sequence[str] = (),
    name: str = "minilm-sst2",
    seed: int = 0,
) -> dict[str, Any]:
    draw = random.Random(seed)
    models = {each: _baseline(each, draw) for each in _SPEED}
    models |= {each: _variant(each, place, each in failed, draw) for place, each in enumerate(variants)}
    verdicts = [
        {
            "gate": "max_accuracy_drop", "variant": each, "limit": 0.5, "value": 0.75, "passed": each not in failed,
            "words": f"{each}: accuracy is 0.75 points below the dense model (standard error 0.41)",
        }
        for each in variants
    ]  # fmt: skip
    return {
        "format": 1,
        "name": name,
        "recipe": {
            "model": "models/minilm", "data": {"train": "train.csv", "pair_column": None},
            "compress": {"method": {"name": "losparse", "keep": 0.2}}, "export": {"precision": list(variants)},
        },
        "versions": {"losparse": "0.1.0", "torch": "2.13.0"},
        "machine": {"cpu": "A processor (AVX2, VNNI)", "cpus": 2, "system": "Linux x86_64"},
        "seconds": 200.0,
        "steps": [{"name": "compress", "state": "done", "seconds": 123.4, "key": "0" * 64, "digest": "ab" * 32}],
        "metric": "accuracy",
        "texts": 872,
        "models": models,
        "bench": {"threads": 2, "providers": ["CPUExecutionProvider"], "versions": {"onnxruntime": "1.31.1"},
                  "machine": {}, "models": {}, "results": _results(models, draw)},
        "verdicts": verdicts,
        "details": _details(["dense", *variants], blocks, draw),
    }  # fmt: skip


def write(folder: Path, data: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "build.json").write_text(json.dumps(data))
    return folder


def _accuracy(draw: random.Random, value: float) -> dict[str, Any]:
    return {"value": value + draw.uniform(-0.01, 0.01), "error": 0.0108}


def _baseline(name: str, draw: random.Random) -> dict[str, Any]:
    exact = None if name == "openvino-int8" else _accuracy(draw, 0.893)
    size = {"dense": 90_900_000, "dense-int8": 23_600_000}.get(name)
    return {"kind": "baseline", "precision": "fp32" if name == "dense" else "int8", "bytes": size, "accuracy": exact}


def _variant(name: str, place: int, failed: bool, draw: random.Random) -> dict[str, Any]:
    deltas = {
        "pytorch": {"delta": draw.uniform(-0.002, 0.002), "error": 0.0011},
        "dense": {"delta": -0.0075, "error": 0.0041},
    }
    return {
        "kind": "variant", "precision": name, "file": f"model_{name}.onnx", "bytes": int(60e6 / (place + 1)),
        "parity": {"max_abs": 1.3e-6 * 10**place, "tolerance": 1e-4}, "passed": not failed,
        "accuracy": {**_accuracy(draw, 0.884), "deltas": deltas},
        "failures": [f"{name}: accuracy is 0.75 points below the dense model (standard error 0.41)"] if failed else [],
    }  # fmt: skip


def _results(models: dict[str, Any], draw: random.Random) -> list[dict[str, Any]]:
    rows = []
    for shape, dense in zip(SHAPES, (4.9, 24.7, 180.3), strict=True):
        for place, name in enumerate(models):
            speed = _SPEED.get(name, 3.0 + 1.7 * place) * draw.uniform(0.9, 1.1) if name != "dense" else 1.0
            rows.append(
                {"batch": shape[0], "length": shape[1], "model": name, "median_ms": dense / speed, "speedup": speed,
                 "speedup_low": 0.97 * speed, "speedup_high": 1.04 * speed, "noisy": False}
            )  # fmt: skip
    return rows


def _details(models: Sequence[str], blocks: int, draw: random.Random) -> dict[str, Any]:
    kinds = ("MatMul", "Attention", "DynamicQuantizeMatMul", "LayerNormalization", "Gelu", "Add", "Reshape", "Concat")
    log = [{"step": step, "loss": 2.0 * 0.99**step + 0.05 * draw.random()} for step in range(0, 240, 4)]
    pruned = [{**row, "kept_share": max(0.2, 1 - row["step"] / 150)} for row in log]
    return {
        "parts": {
            name: {"embeddings": 47e6 / (1 + place), "layers": 43e6 / (1 + place), "heads": 6e5, "other": 1e5}
            for place, name in enumerate(models)
        },
        "operators": {
            name: [{"operator": kind, "ms": draw.uniform(0.1, 8), "share": 0.1, "calls": 12} for kind in kinds]
            for name in models
        },
        "layers": [
            {"name": f"encoder.layer.{block}.{role}.dense", "block": block, "role": role, "shape": [384, 384],
             "rank": draw.randint(0, 30), "kept": draw.randint(0, 200), "axis": "out",
             "parameters": draw.randint(10_000, 60_000), "dense_parameters": 147_456, "lowering": "stacked",
             "parity": 1e-6 if role == "down" else None, "error": draw.uniform(0.3, 0.9)}
            for block in range(blocks) for role in ROLES
        ],
        "training": {"dense": {"log": log}, "compressed": {"log": pruned}},
        "keep": [
            {"keep": keep, "ms": 24 * keep + 3, "variant": "fp32", "batch": 1, "length": 128, "how": "timed"}
            for keep in (0.1, 0.2, 0.3, 0.5, 1.0)
        ],
    }  # fmt: skip
