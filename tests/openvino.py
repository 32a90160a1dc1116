"""A stand-in for OpenVINO and NNCF that computes with onnxruntime, for the process that holds a model in OpenVINO."""

from __future__ import annotations

from pathlib import Path

import pytest

OPENVINO = """
import json, os, sys, time
import onnxruntime

assert sys.modules.get("openvino_telemetry", "there") is None  # what would tell of this import over the network

__version__ = "2026.4.1-1-releases"


class Port:
    def __init__(self, name): self.name = name
    def get_any_name(self): return self.name


class Core:
    def get_property(self, device, name):
        return os.environ.get("CAPABILITIES", "FP32 INT8").split()
    def read_model(self, path):
        return path
    def compile_model(self, model, device, settings):
        print("libraries print what they like")
        quantised = isinstance(model, tuple)
        with open(os.environ["SEEN"], "w") as seen:
            json.dump({"settings": settings, "runs": model[1] if quantised else []}, seen)
        self.session = onnxruntime.InferenceSession(model[0] if quantised else model)
        return self
    def create_infer_request(self):
        return self
    def infer(self, feeds, share_inputs, share_outputs):
        time.sleep(0.02)
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(map(Port, names), self.session.run(names, feeds)))
"""

NNCF = """
__version__ = "3.4.0"


class ModelType: TRANSFORMER = "transformer"


class Dataset:
    def __init__(self, runs): self.runs = runs


def quantize(model, data, model_type, subset_size):
    assert model_type == "transformer" and subset_size == len(data.runs)
    return model, [{name: list(array.shape) for name, array in run.items()} for run in data.runs]
"""


def use_stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put both packages on the path of child processes; returns the file where the settings of a model are written."""
    place, seen = folder / "packages", folder / "seen.json"
    place.mkdir()
    (place / "openvino.py").write_text(OPENVINO)
    (place / "nncf.py").write_text(NNCF)
    info = place / "nncf-3.4.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nncf\nVersion: 3.4.0\n")
    monkeypatch.setenv("PYTHONPATH", str(place))
    monkeypatch.setenv("SEEN", str(seen))
    monkeypatch.delenv("LOSPARSE_OPENVINO_PYTHON", raising=False)
    return seen
