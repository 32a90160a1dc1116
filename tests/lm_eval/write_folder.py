"""Write the folder of a tiny language model, tasks for it whose data are local, and what our own measuring says.

    python tests/lm_eval/write_folder.py OUT

Runs where losparse is installed; `check_lm_eval.py` asks lm-evaluation-harness the same.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from losparse_runtime import FolderModel, Question, Session, measure_choices
from losparse_runtime.evaluation.rows import Row, score_rows
from tests.runtime.decoder_models import END, Made, write_decoder

WORDS = ["the", "cat", "sat", "on", "a", "mat,", "and", "that", "was", "all."]
POSITIONS = 64

CHOICES = """
task: made_choices
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{context}}"
doc_to_target: "{{answer}}"
doc_to_choice: "{{choices}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
TEXTS = """
task: made_texts
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - {metric: word_perplexity}
  - {metric: bits_per_byte}
"""
WRITING = """
task: made_writing
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
output_type: generate_until
test_split: test
doc_to_text: "{{context}}"
doc_to_target: "{{written}}"
generation_kwargs: {until: ["e"], max_gen_toks: 12, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


def main() -> None:
    """Write all of it."""
    out = Path(sys.argv[1]).absolute()
    shutil.rmtree(out, ignore_errors=True)
    (out / "tasks").mkdir(parents=True)
    session = Session(write_decoder(out / "lm-onnx", Made(positions=POSITIONS, sharp=2.0)), threads=1)
    choose = random.Random(0)
    contexts = [" ".join(choose.choices(WORDS, k=5)) for _ in range(24)]
    choices = [[" ".join(choose.choices(WORDS, k=choose.randint(1, 3))) for _ in range(3)] for _ in contexts]
    questions = [Question(one, tuple(three), choose.randrange(3)) for one, three in zip(contexts, choices, strict=True)]
    texts = [" ".join(choose.choices(WORDS, k=40)) for _ in range(4)]
    written = [each.text for each in session.generate(contexts, max_new_tokens=12, stop=["e"])]
    _task(out, CHOICES, [vars(each) for each in questions])
    _task(out, TEXTS, [{"text": text} for text in texts])
    _task(out, WRITING, [{"context": one, "written": text} for one, text in zip(contexts, written, strict=True)])
    asked = measure_choices(FolderModel(session), questions)
    expected = {
        "made_choices": {"acc,none": asked.accuracy, "acc_norm,none": asked.accuracy_normalised},
        "made_texts": {"loss": _whole_loss(session, texts), "words": 4 * 40, "bytes": sum(map(len, texts))},
        "made_writing": {"exact_match,none": 1.0},
    }
    (out / "expected.json").write_text(json.dumps(expected))


def _task(out: Path, yaml: str, rows: list[dict[str, Any]]) -> None:
    name = yaml.split()[1]
    data = out / f"{name}.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows))
    (out / "tasks" / f"{name}.yaml").write_text(yaml % data)


def _whole_loss(session: Session, texts: list[str]) -> float:
    """Nats of all texts: of each in parts of 63 tokens, each behind the token before it; the first is an end."""
    rows = []
    for text in texts:
        stream = [END, *text.encode()]
        rows += [
            Row(stream[at : at + POSITIONS], len(stream[at : at + POSITIONS]) - 1)
            for at in range(0, len(stream) - 1, POSITIONS - 1)
        ]
    return -sum(score.log for score in score_rows(FolderModel(session), rows))


if __name__ == "__main__":
    main()
