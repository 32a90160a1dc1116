"""Messages about recipe files say the line."""

from pathlib import Path

import pytest

from losparse.errors import LosparseError
from losparse.training.recipe import Recipe


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "task: text-classification\ntraining:\n  epochs: 2\n  batchsize: 3\n",
            "line 4: unknown key 'training.batchsize'; did you mean 'batch_size'?",
        ),
        ("training: {epochs: -1}\n", "r.yaml, line 1: training.epochs must be a number above 0, got -1"),
        (
            "method:\n  name: losparse\n  kep: 0.3\n",
            "line 3: unknown key 'method.kep' of 'losparse'; did you mean 'keep'?",
        ),
        ("targets:\n  - a\n  - 3\n", "r.yaml, line 3: targets[1] must be a text, got 3"),
        ("training:\n  lora_also: small\n", "r.yaml, line 2: training.lora_also 'small' does nothing at lora_rank 0"),
        ("epochs: 1\nepochs: 2\n", "r.yaml, line 2: key 'epochs' stands there a second time; leave one of the two out"),
    ],
)
def test_message_says_the_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(LosparseError) as caught:
        Recipe.read(tmp_path / "r.yaml")
    assert message in str(caught.value)


def test_json_says_the_line_too(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"task": "text-classification",\n "training": {\n  "epochz": 1}}')
    with pytest.raises(LosparseError, match=r"r\.json, line 3: unknown key 'training.epochz'"):
        Recipe.read(tmp_path / "r.json")


def test_json_that_is_no_yaml_says_the_file(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{\n\t"epochz":\t1}')
    with pytest.raises(LosparseError, match=r"r\.json.*: unknown key 'epochz'"):
        Recipe.read(tmp_path / "r.json")
