"""Models that do something else for long texts than for short ones: compared beyond their switch, or refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from losparse.errors import LosparseError
from losparse_export import TaskModel, trace_model
from losparse_export.opening.copies import private_copy
from losparse_export.parity.lengths import choose_cases, telling_lengths
from losparse_export.tracing.capture import capture_program
from losparse_runtime.contract.signature import Signature
from losparse_runtime.contract.task import TASKS
from losparse_runtime.contract.tensors import TensorSpec

from .builders import SIZES, build_model

_DECODER = {**SIZES, "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SWITCH = 5 * 4 + 2 * 4 * 2  # BigBird attends to everything up to here: (5 + 2 random) blocks of 4


def big_bird() -> Any:
    torch.manual_seed(0)
    sizes = {**SIZES, "max_position_embeddings": 128, "block_size": 4, "num_random_blocks": 2}
    config = transformers.BigBirdConfig(**sizes, attention_type="block_sparse")
    return transformers.BigBirdForSequenceClassification(config).eval()


def tokens(length: int) -> dict[str, Tensor]:
    ids = torch.arange(1, length + 1)[None] % 100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_a_trace_that_holds_one_branch_is_refused_and_leaves_the_model_alone():
    """Tracing 7 tokens turned the model to full attention for good, and the gate compared with that."""
    model = big_bird()
    message = r"^BigBirdForSeq\w+: takes one way through its code below 37 tokens and another from there to its 128, .*"
    with pytest.raises(LosparseError, match=message):
        trace_model(TaskModel(model, TASKS["text-classification"]))
    assert SWITCH + 1 == 37 and model.bert.attention_type == "block_sparse"


def test_the_reference_does_not_depend_on_what_was_run_before():
    model = TaskModel(big_bird(), TASKS["text-classification"])
    expected = TaskModel(big_bird(), model.task).reference(tokens(60))["logits"]
    model.reference(tokens(7))
    assert torch.equal(model.reference(tokens(60))["logits"], expected)
    model.model.bert.set_attention_type("original_full")
    assert not torch.allclose(model.reference(tokens(60))["logits"], expected, atol=1e-3)  # the switch shows


_TOY = Signature((TensorSpec("input_ids", "int64", ("batch", "sequence")),))


class Toy(nn.Module):
    """Returns what a function makes of the tokens."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, input_ids: Tensor) -> Tensor:
        result: Tensor = self.function(input_ids)
        return result


@pytest.mark.parametrize(
    ("function", "refused"),
    [
        (lambda ids: ids + ids[:, :20], "one way through its code below 21 tokens and another from there to its 50"),
        (lambda ids: ids * 2 if ids.shape[1] > 30 else ids, "one way through its code below 31 tokens"),
        (lambda ids: ids + ids.shape[1] if ids.shape[1] == 7 else ids, r"depends on the number of tokens itself"),
        (lambda ids: ids * 2 if ids.shape[0] == 2 else ids, r"depends on the number of rows"),
    ],
)
def test_what_a_program_takes_for_granted_is_heard(function, refused):
    """Also an assertion inside the program, which no graph has: 20 of more tokens do not fit the others."""
    sample = {"input_ids": torch.arange(14).reshape(2, 7)}
    with pytest.raises(LosparseError, match=rf"^toy: .*{refused}"):
        capture_program(Toy(function), sample, signature=_TOY, longest=50, name="toy")


def test_another_way_for_the_shortest_texts_is_left_to_the_comparison():
    sample = {"input_ids": torch.arange(14).reshape(2, 7)}
    program = capture_program(
        Toy(lambda ids: ids * 2 if ids.shape[1] < 5 else ids), sample, signature=_TOY, longest=50, name="toy"
    )
    assert torch.equal(program.module()(input_ids=torch.ones(1, 40).long()), torch.ones(1, 40).long())


def test_a_program_for_all_lengths_passes():
    sample = {"input_ids": torch.arange(14).reshape(2, 7)}
    program = capture_program(Toy(lambda ids: ids + ids[:, :20].sum()), sample, signature=_TOY, longest=50, name="toy")
    assert torch.equal(program.module()(input_ids=torch.ones(1, 40).long()), torch.full((1, 40), 21))


def test_what_no_trace_can_follow_is_said_in_one_line():
    with pytest.raises(LosparseError, match=r"^torch\.export cannot trace toy: no such token$") as caught:
        capture_program(Toy(_fail), {"input_ids": torch.ones(2, 7).long()}, signature=_TOY, longest=50, name="toy")
    assert "\n" not in str(caught.value)


def _fail(_ids: Tensor) -> Tensor:
    raise ValueError("no such token")


def test_a_private_copy_shares_the_weights_alone():
    model = build_model("bert", factored=False)
    model.kept = model.classifier.weight * 2  # not a leaf, which torch does not copy by itself
    copied = private_copy(model)
    assert copied.classifier.weight is model.classifier.weight and torch.equal(copied.kept, model.kept)
    copied.config.pad_token_id = 7
    copied.bert.embeddings.position_ids.zero_()
    copied.bert.embeddings.word_embeddings.padding_idx = 3
    assert model.config.pad_token_id == 0 and model.bert.embeddings.word_embeddings.padding_idx == 0
    assert model.bert.embeddings.position_ids[0, 1] == 1


def test_what_cannot_be_copied_is_refused():
    model = build_model("bert", factored=False)
    model.handle = (each for each in ())
    with pytest.raises(LosparseError, match=r"^BertForSeq\w+: holds something that cannot be copied \(cannot pickle"):
        private_copy(model)


def test_cases_cover_batches_lengths_and_masks():
    cases = list(choose_cases(512))
    assert {(case.batch, case.length) for case in cases} == {(b, n) for b in (1, 2, 3) for n in (2, 7, 24, 128)}
    assert {case.padded for case in cases if case.batch > 1} == {True, False}
    assert max(case.length for case in choose_cases(40)) == 40
    assert {case.length for case in choose_cases(5)} == {2, 5}


def test_cases_go_beyond_every_switch():
    cases = [(case.batch, case.length) for case in choose_cases(2000, [1, 24, 65, 1500, 3000])]
    assert cases[-5:] == [(1, 1), (2, 1), (1, 65), (2, 65), (1, 1500)]  # 24 is usual, 3000 too long


@pytest.mark.parametrize(
    ("config", "longest", "lengths", "far"),
    [
        (transformers.MistralConfig(**_DECODER, sliding_window=16), 40, [1, 17, 40], []),
        (transformers.BigBirdConfig(block_size=64), 4096, [1, 65, 4096], []),
        (transformers.LongformerConfig(attention_window=[8, 32]), 512, [1, 9, 33, 512], []),
        (transformers.DebertaV2Config(position_buckets=256), 512, [1, 257, 512], []),
        (transformers.MistralConfig(sliding_window=8192), 32768, [1, 4097], [8192]),
        (
            transformers.LlamaConfig(
                max_position_embeddings=64,
                rope_parameters={
                    "rope_type": "yarn",
                    "rope_theta": 1e4,
                    "factor": 4.0,
                    "original_max_position_embeddings": 16,
                },
            ),
            64,
            [1, 17, 64],
            [],
        ),
        (SimpleNamespace(to_dict=dict), 512, [1, 512], []),
    ],
)
def test_lengths_are_read_off_the_configuration(config, longest, lengths, far):
    assert telling_lengths(nn.Linear(4, 4), config, longest) == (lengths, far)


def test_the_farthest_length_costs_seconds():
    """A tenth of a billion weights, tables aside, at about a thousand tokens; never fewer than 128."""
    model = nn.ModuleDict(
        {"table": nn.Embedding(10**9, 1, device="meta"), "in": nn.Linear(10**4, 10**4, device="meta")}
    )
    config = SimpleNamespace(to_dict=dict)
    assert telling_lengths(model, config, 8192)[0][-1] == 10**11 // (10**8 + 10**4)
    model["out"] = nn.Linear(10**5, 10**5, device="meta")
    assert telling_lengths(model, config, 8192)[0][-1] == 128
