"""An exported language model in lm-evaluation-harness: what it measures of others, of an ONNX folder, without torch.

    pip install lm_eval "losparse[runtime]"
    python examples/lm_eval/losparse_lm.py run --model losparse --model_args folder=OUT,threads=4 --tasks piqa

All of the harness's own options follow. Its tasks are fetched from the hub, unless `--include_path` names a folder of
tasks whose data are local. A checkpoint, dense or compressed, needs none of this: after `import losparse` the harness's
model `hf` opens it.
"""

from __future__ import annotations

from typing import Any

from lm_eval.__main__ import cli_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from losparse_runtime import FolderModel, InputError, Session
from losparse_runtime.evaluation.choices import all_first, beginning, continuation_row
from losparse_runtime.evaluation.rows import Row, score_rows
from losparse_runtime.evaluation.windows import windows

# Of the longest text that is read at once: longer ones are read in windows, or lose their beginning.
MOST_TOKENS = 2048
# Tokens that a text gets where a task does not say.
MOST_NEW = 256


@register_model("losparse")
class LosparseLM(LM):
    """A folder that `losparse export` wrote.

    Args:
        folder: of a causal language model.
        variant: which form of it; default: the one that is best here.
        threads: of one run; default: all CPUs granted.
        max_length: tokens that are read at once; default: 2048, or all positions of a model that has fewer.
        batch_size, max_batch_size, device: what the harness gives every model, and of no matter here: how many texts
            run together follows from their lengths.
    """

    def __init__(
        self,
        folder: str,
        variant: str | None = None,
        threads: int | None = None,
        max_length: int | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        self.session = Session(folder, variant=variant, threads=None if threads is None else int(threads))
        self.model = FolderModel(self.session)
        self.window = min(int(max_length or MOST_TOKENS), self.model.positions)
        self._begin = beginning(self.model)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return how likely each continuation is behind its context, and whether it is what the model would write."""
        rows = [self._row(*request.args) for request in requests]
        return [(score.log, all_first(score)) for score in score_rows(self.model, rows)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return how likely each whole text is; every token of it counts once."""
        rows: list[tuple[int, Row]] = []
        for number, request in enumerate(requests):
            (text,) = request.args
            stream = [self._front(), *self.model.tokens(text, special=False)]
            if len(stream) > 1:
                cut = windows(len(stream), self.window, self.window - 1)
                rows += [(number, Row(stream[each.begin : each.end], each.counted)) for each in cut]
        found = [0.0] * len(requests)
        for (number, _), score in zip(rows, score_rows(self.model, [row for _, row in rows]), strict=True):
            found[number] += score.log
        return found

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continue each context until one of its texts comes, or it has as many tokens as it may."""
        texts: list[str] = []
        for request in requests:  # each may have settings of its own
            context, settings = request.args
            texts.append(self._continued(context, dict(settings)))
        return texts

    def _continued(self, context: str, settings: dict[str, Any]) -> str:
        until = settings.get("until") or []
        temperature = float(settings.get("temperature") or 0.0) if settings.get("do_sample", True) else 0.0
        most = min(int(settings.get("max_gen_toks", MOST_NEW)), self.window - 1)
        ids = [*self._begin, *self.model.tokens(context, special=False)] or [self._front()]
        (result,) = self.session.generate(
            [ids[most - self.window :]],
            max_new_tokens=most,
            temperature=temperature,
            stop=[until] if isinstance(until, str) else [stop for stop in until if stop],
        )
        return result.text

    def _row(self, context: str, continuation: str) -> Row:
        before = context.rstrip()
        text = context[len(before) :] + continuation
        row = continuation_row(self.model, self._begin, before, text, "a request")
        return Row(row.tokens[-self.window :], row.counted) if row.counted < self.window else row

    def _front(self) -> int:
        """Return what stands before the first token of a text."""
        front = self._begin[-1] if self._begin else self.model.end
        if front is None:
            raise InputError(f"{self.model.name}: has no token that begins or ends a text")
        return front


if __name__ == "__main__":
    cli_evaluate()
