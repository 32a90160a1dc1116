"""A language model in PyTorch, dense or compressed, as what is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from losparse_runtime.contract.task import CAUSAL_LM
from losparse_runtime.contract.tensors import MASK, TOKENS
from losparse_runtime.evaluation.rows import Ints
from losparse_runtime.text.panics import panics_caught

from ..errors import LosparseError
from ..models.positions import NO_LIMIT, count_positions
from ..saving.folder import read_checkpoint
from ..training.opening import fit_padding, load_model, load_tokenizer, transformers_quiet


class CheckpointModel:
    """A causal language model of transformers as a `losparse_runtime.evaluation.rows.Scored`.

    Args:
        model: in evaluation mode; it stays on its device.
        tokenizer: a fast one.
        name: what messages call it.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        self.model = model
        self.name = name
        self._tokenizer = tokenizer

    @property
    def positions(self) -> int:
        """See `Scored`."""
        return count_positions(self.model) or NO_LIMIT

    @property
    def end(self) -> int | None:
        """See `Scored`."""
        end = self._tokenizer.eos_token_id
        return end if isinstance(end, int) else None

    def tokens(self, text: str, *, special: bool = True) -> list[int]:
        """See `Scored`."""
        try:
            with panics_caught():
                # It would warn of texts longer than the model takes.
                return list(self._tokenizer(text, add_special_tokens=special, verbose=False)[TOKENS])
        except Exception as error:  # the Rust side raises plain Exception
            reason = " ".join(str(error).split())[:200]
            raise LosparseError(
                f"the tokenizer of {self.name} fails on a text ({reason}); leave that text out"
            ) from error

    @torch.no_grad()
    def logits(self, ids: Ints, mask: Ints) -> NDArray[Any]:
        """See `Scored`."""
        feeds = {name: torch.from_numpy(each).to(self.model.device) for name, each in ((TOKENS, ids), (MASK, mask))}
        found: torch.Tensor = self.model(**feeds, use_cache=False).logits
        return found.float().cpu().numpy()


def open_checkpoint(folder: Path) -> CheckpointModel:
    """Open a checkpoint, dense or compressed, in fp32, on the accelerator where torch has one.

    Raises:
        LosparseError: it cannot be opened, or is no language model that reads from left to right.
    """
    with transformers_quiet():
        checkpoint = read_checkpoint(folder)
        tokenizer = load_tokenizer(folder, pads=False)
        model = fit_padding(load_model(checkpoint, CAUSAL_LM, (), 0, head=True), tokenizer)
    device: Any = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    return CheckpointModel(model.to(device).eval(), tokenizer, str(folder))
