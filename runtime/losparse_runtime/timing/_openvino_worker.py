"""A process that holds one ONNX model in OpenVINO. Run by path under any Python that has OpenVINO; loads no losparse.

A message is one line of JSON, whose "bytes" says how much follows of an .npz archive of arrays. The first request says
what to open: "model" (a path, or "" for none), "precision", "threads", "static", and, for int8, calibration inputs as
arrays "0/input_ids", "1/input_ids" and so on. Its answer tells versions and the precisions there are. Every later one
runs the model on the arrays it brings: "run" answers with the outputs, "time" with the seconds of that run.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np

Arrays = dict[str, "np.typing.NDArray[Any]"]
Infer = Callable[[Arrays], Mapping[Any, Any]]

_NAMES = {"f32": "f32", "bf16": "bf16"}  # by the precision that is asked for; int8 leaves the rest to OpenVINO


def receive(source: BinaryIO) -> tuple[dict[str, Any], Arrays] | None:
    """Read a message; None where the other side is gone."""
    line = source.readline()
    if not line:
        return None
    head: dict[str, Any] = json.loads(line)
    count = int(head.pop("bytes"))
    if not count:
        return head, {}
    with np.load(io.BytesIO(source.read(count)), allow_pickle=False) as archive:
        return head, dict(archive)


def send(target: BinaryIO, head: Mapping[str, Any], arrays: Mapping[str, np.typing.NDArray[Any]]) -> None:
    """Write a message."""
    body = io.BytesIO()
    if arrays:
        np.savez(body, allow_pickle=False, **arrays)
    target.write(json.dumps({**head, "bytes": body.tell()}).encode() + b"\n" + body.getvalue())
    target.flush()


def open_model(core: Any, job: Mapping[str, Any], arrays: Arrays) -> Infer:
    """Compile a model for one call at a time."""
    model = core.read_model(job["model"])
    if job["precision"] == "int8":
        model = quantised(model, arrays)
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": job["threads"],
    }
    if job["precision"] in _NAMES:
        settings["INFERENCE_PRECISION_HINT"] = _NAMES[job["precision"]]
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def infer(feeds: Arrays) -> Mapping[Any, Any]:
        results: Mapping[Any, Any] = request.infer(feeds, share_inputs=True, share_outputs=True)
        return results

    return infer


def quantised(model: Any, arrays: Arrays) -> Any:
    """Quantise a model as NNCF does for a transformer, in one call."""
    import nncf

    feeds: defaultdict[str, Arrays] = defaultdict(dict)
    for name, array in arrays.items():
        run, _, own = name.partition("/")
        feeds[run][own] = array
    data = nncf.Dataset(list(feeds.values()))
    return nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(feeds))


def answer(infer: Infer, head: Mapping[str, Any], feeds: Arrays) -> tuple[dict[str, Any], Arrays]:
    """Run once, and return the outputs or the time."""
    start = time.perf_counter()
    results = infer(feeds)
    seconds = time.perf_counter() - start
    if head["do"] == "time":
        return {"seconds": seconds}, {}
    return {}, {port.get_any_name(): np.array(array) for port, array in results.items()}


def facts(core: Any) -> dict[str, Any]:
    """Return versions, and the precisions that this CPU and these packages have."""
    import openvino

    versions = {"openvino": openvino.__version__.partition("-")[0]}
    precisions = ["f32"]
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        precisions.append("bf16")
    if importlib.util.find_spec("nncf") is not None:
        from importlib.metadata import version

        versions["nncf"] = version("nncf")
        precisions.append("int8")
    return {"versions": versions, "precisions": precisions}


def serve(source: BinaryIO, target: BinaryIO) -> None:
    """Answer requests until the other side is gone; what goes wrong is answered in one line."""
    infer: Infer | None = None
    while (message := receive(source)) is not None:
        head, arrays = message
        try:
            if infer is None:
                # Importing openvino reports that to its makers over the network; without this package it cannot.
                sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
                import openvino

                core = openvino.Core()
                infer = open_model(core, head, arrays) if head["model"] else None
                send(target, facts(core), {})
            else:
                send(target, *answer(infer, head, arrays))
        except Exception as error:  # whatever another library raises
            send(target, {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}, {})


def main() -> None:
    """Keep the pipe for messages: what libraries print goes to the error stream."""
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, pipe)


if __name__ == "__main__":
    main()
