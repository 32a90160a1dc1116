"""A target is added by one object: no other file changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from losparse.errors import LosparseError
from losparse_export import CPU, Call, Plan, Target, plan_layers
from losparse_export.graph.layer import PlannedLayer
from losparse_export.planning.tune import time_models, tune_plan
from losparse_runtime import Session

OPENING = "losparse_runtime.engine.opening"

# A machine that copies slowly and starts nodes for nothing. Its provider stands for any other: onnxruntime has it on
# every machine, and runs on the CPU what it does not take, which is all.
OTHER = Target(
    "other",
    "AzureExecutionProvider",
    replace(CPU.costs, node=0.0, element=1e6, move=1e6, gather=1e6),
    disabled_optimizers=("GeluFusion",),
    plans=("fp32",),
)


def test_another_machine_takes_other_forms():
    layers = {"a": PlannedLayer(768, 768, 19, 115, "out")}
    chosen = {t.name: plan_layers(layers, calls=Call(1, 1024), target=t).layers["a"].lowering for t in (CPU, OTHER)}
    assert chosen == {"cpu": "gather", "other": "selector"}  # which copies nothing


def messages_of_opening(caplog):
    return [record.getMessage() for record in caplog.records if record.name == OPENING]


def test_a_toy_target_is_exported_for_and_opened_with_its_provider(export_bert, caplog, tmp_path):
    with caplog.at_level("DEBUG", logger=OPENING):
        report = export_bert(tmp_path / "out", target=OTHER)
    assert report.plan.target == "other" and report.parity.max_abs <= report.parity.tolerance
    opened = messages_of_opening(caplog)
    assert opened and all(": open on AzureExecutionProvider, CPU" in message for message in opened)
    assert report.metadata["session"] == {"disabled_optimizers": ["GeluFusion"], "provider": "AzureExecutionProvider"}
    plan = Plan.read(report.folder / "plan.json")
    assert plan == report.plan and plan.to_dict()["format"] == 3
    refused = (
        r"^the plan is for target 'other', this export is for 'cpu'; export .* \(--target other\), or make another"
    )
    with pytest.raises(LosparseError, match=refused):
        export_bert(tmp_path / "cpu", plan=plan)
    caplog.clear()
    with caplog.at_level("DEBUG", logger=OPENING):
        Session(report.folder, providers=["AzureExecutionProvider"], threads=1)
        Session(report.folder, threads=1)
    on_its_own, elsewhere = (message.partition(": open on ")[2] for message in messages_of_opening(caplog))
    assert on_its_own == "AzureExecutionProvider, CPUExecutionProvider; optimizers switched off: GeluFusion"
    assert elsewhere == "CPUExecutionProvider; optimizers switched off: none"


def test_forms_are_timed_on_its_provider(tmp_path):
    asked = []

    def timer(models, spec, call, provider):
        asked.append(provider)
        return time_models(models, spec, call, provider)

    plan = plan_layers({"a": PlannedLayer(8, 6, 2, 3, "out")}, calls=Call(1, 4), target=OTHER)
    tuned = tune_plan(plan, Call(1, 4), target=OTHER, cache=tmp_path / "times.json", timer=timer)
    assert tuned.layers["a"].reason.startswith("fastest of ") and tuned.target == "other"
    assert set(asked) == {"AzureExecutionProvider"}
    assert "target other on AzureExecutionProvider" in (tmp_path / "times.json").read_text()
