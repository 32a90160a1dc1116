"""A target is added by one object: no other file changes."""

from __future__ import annotations

from dataclasses import replace

import onnxruntime
import pytest

from losparse.errors import LosparseError
from losparse_export import CPU, Call, Plan, Target, plan_layers
from losparse_export.graph.layer import PlannedLayer
from losparse_export.planning.tune import tune_plan
from losparse_runtime import Session

# A machine that copies slowly and starts nodes for nothing. Its provider stands for any other: onnxruntime has it on
# every machine, and runs on the CPU what it does not take, which is all.
OTHER = Target(
    "other",
    "AzureExecutionProvider",
    replace(CPU.costs, node=0.0, element=1e6, move=1e6, gather=1e6),
    disabled_optimizers=("GeluFusion",),
    plans=("fp32",),
)


@pytest.fixture
def opened(monkeypatch):
    """What onnxruntime is asked to open models with."""
    asked, real = [], onnxruntime.InferenceSession

    def spy(*arguments, **options):
        asked.append((options["providers"], options.get("disabled_optimizers")))
        return real(*arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    return asked


def test_another_machine_takes_other_forms():
    layers = {"a": PlannedLayer(768, 768, 19, 115, "out")}
    chosen = {t.name: plan_layers(layers, calls=Call(1, 1024), target=t).layers["a"].lowering for t in (CPU, OTHER)}
    assert chosen == {"cpu": "gather", "other": "selector"}  # which copies nothing


def test_a_toy_target_is_exported_for_and_opened_with_its_provider(export_bert, opened, tmp_path):
    report = export_bert(tmp_path / "out", target=OTHER)
    assert report.plan.target == "other" and report.parity.max_abs <= report.parity.tolerance
    assert {tuple(providers) for providers, _ in opened} == {("AzureExecutionProvider",)}
    assert report.metadata["session"] == {"disabled_optimizers": ["GeluFusion"], "provider": "AzureExecutionProvider"}
    plan = Plan.read(report.folder / "plan.json")
    assert plan == report.plan and plan.to_dict()["format"] == 3
    with pytest.raises(LosparseError, match=r"^the plan is for target 'other', this export is for 'cpu'; export for"):
        export_bert(tmp_path / "cpu", plan=plan)
    opened.clear()
    Session(report.folder, providers=["AzureExecutionProvider"], threads=1)
    Session(report.folder, threads=1)
    assert opened == [(["AzureExecutionProvider"], ["GeluFusion"]), (["CPUExecutionProvider"], [])]


def test_forms_are_timed_on_its_provider(opened, tmp_path):
    plan = plan_layers({"a": PlannedLayer(8, 6, 2, 3, "out")}, calls=Call(1, 4), target=OTHER)
    tuned = tune_plan(plan, Call(1, 4), target=OTHER, cache=tmp_path / "times.json")
    assert tuned.layers["a"].reason.startswith("fastest of ") and tuned.target == "other"
    assert {tuple(providers) for providers, _ in opened} == {("AzureExecutionProvider",)}
    assert "target other on AzureExecutionProvider" in (tmp_path / "times.json").read_text()
