"""Settings of an export: what they take, what they refuse in one line, and what each variant is."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest

from losparse.errors import LosparseError
from losparse.validation.fields import field_types
from losparse_export import Call, ExportSettings
from losparse_export.graph.opsets import IR_VERSIONS, NEWEST
from losparse_export.precision.base import EMBEDDINGS, INT8_BITS
from losparse_export.precision.table import PRECISION_TABLE
from losparse_export.precision.variants import variant_forms, variant_purposes


def test_settings_go_through_plain_data():
    settings = ExportSettings(precision=("fp32", "int8", "int8-vnni"), tune=True, length=64, threads=2)
    assert ExportSettings.from_dict(settings.to_dict()) == settings
    assert ExportSettings.from_dict({}) == ExportSettings()
    assert ExportSettings.from_dict({"precision": "int8"}).precision == ("int8",)
    assert settings.call == Call(1, 64, threads=2)


def test_every_precision_is_a_variant_and_every_file_its_own():
    forms = variant_forms()
    assert {form.precision for form in forms.values()} == set(PRECISION_TABLE)
    assert len({form.file for form in forms.values()}) == len(forms)
    assert set(variant_purposes()) == set(forms) and all(variant_purposes().values())


@pytest.mark.parametrize(
    ("given", "bits"),
    [
        ({"precision": ["fp32"]}, {"fp32": None}),
        ({"precision": ["int8"]}, {"int8": 7}),
        ({"precision": ["int8"], "weight_bits": 8}, {"int8": 8}),
        ({"precision": ["int8-vnni"]}, {"int8-vnni": 8}),
        ({"precision": ["int8", "int8-vnni", "fp16"]}, {"int8": 7, "int8-vnni": 8, "fp16": None}),
        ({"precision": ["fp32", "int8-static"], "weight_bits": 8}, {"fp32": None, "int8-static": 8}),
        ({"precision": ["int8-weights", "int4-weights"]}, {"int8-weights": None, "int4-weights": None}),
    ],
)
def test_variants_have_the_bits_of_their_names(given, bits):
    assert {form.name: form.weight_bits for form in ExportSettings.from_dict(given).forms} == bits


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"precision": ["fp32", "int9"]}, r"^precision\[1\] must be one of fp32, int8, .*got 'int9'; did you mean"),
        ({"precision": []}, r"^precision must be the name of a form, or a list of them, got \[\]$"),
        ({"precision": None}, r"^precision must be the name of a form, or a list of them, got None$"),
        ({"precision": ["int8", "int8"]}, r"^precision must name every form once, got 'int8' twice$"),
        (
            {"weight_bits": 8},
            r"^weight_bits 8 is for int8-rows, int8-static, and int8 where it is alone, got it with fp32;",
        ),
        (
            {"precision": ["fp32", "int8"], "weight_bits": 8},
            r"got it with fp32, int8; leave it out, or name int8-vnni$",
        ),
        ({"weight_bits": 6}, r"^weight_bits must be one of 7, 8, got 6$"),
        ({"precision": "fp16", "embeddings": "int8"}, r"^embeddings 'int8' is not for fp16, whose tables are in half"),
        ({"opset": 21}, r"^opset must be one of 23, 18, got 21$"),
        ({"threads": 2}, r"^threads 2 does nothing without tune; add that, or leave it out$"),
        ({"batch": 0}, r"^batch must be a whole number of 1 or more, got 0$"),
        ({"precison": "int8"}, r"^unknown key 'precison'; did you mean 'precision'\?$"),
    ],
)
def test_settings_that_are_refused(given, message):
    with pytest.raises(LosparseError, match=message):
        ExportSettings.from_dict(given)


def test_what_the_types_list_is_what_there_is():
    types = field_types(ExportSettings)
    assert set(get_args(types["opset"])) == set(IR_VERSIONS) and ExportSettings().opset == NEWEST
    assert get_args(types["weight_bits"]) == INT8_BITS and get_args(types["embeddings"]) == EMBEDDINGS


def test_the_schema_describes_every_key():
    schema = ExportSettings.json_schema()
    assert list(schema["properties"]) == list(ExportSettings().to_dict())
    assert all(entry["description"] for entry in schema["properties"].values())
    listed, alone = schema["properties"]["precision"]["anyOf"]
    assert listed["items"] == alone and alone["enum"] == list(variant_forms())


def test_settings_are_read_without_torch_and_onnx():
    heavy = "torch", "onnx", "onnx_ir", "onnxruntime", "transformers"
    code = (
        "import sys; from losparse_export import ExportSettings; ExportSettings.from_dict({'precision': 'int8'}); "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
