"""Sizes by measurement: what each size of each layer does to the outputs of the whole model.

Every layer is compressed alone, to a few sizes, with all others dense, and the model run on some of the texts. The
errors of single layers are taken to add up, so that the budget can be spent as with any other error (`allocate`).

References:
    Surgical Feature-Space Decomposition (ACL 2024), the rank search of LLM-ROM's authors, goes from the last layer to
    the first and takes the smallest rank whose loss is within a bound; ours meets a budget instead, and needs no
    labels: the error is that of the outputs' distributions, or of each text's mean hidden state where there are none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losparse_runtime.contract.progress import Phases

from ...calibration.heads import decides_each_class, yes_or_no
from ...calibration.observe import Mask, mean_states, spread
from ...calibration.running import Batch, inference, inputs_of
from ...calibration.statistics import LayerStatistics
from ...errors import LosparseError
from ...layers.linear import bias_of, replace_module, weight_of
from .allocate import Candidates, dense_size
from .base import OneShot

SEARCH_TOKENS = 2048
"""About how many tokens of the texts on which every size of every layer is tried."""

_ROWS = 64
"""Rows of logits whose divergence is computed at a time: a vocabulary in fp64 is large."""


class OutputError:
    """The error of a model's outputs against those of the dense model."""

    def __init__(self, model: nn.Module, batches: Sequence[Batch], phases: Phases) -> None:
        """Run the dense model.

        Args:
            model: all of whose layers are dense.
            batches: of texts; some of them are run.
            phases: told how many batches are done.

        Raises:
            LosparseError: no batch.
        """
        if not batches:
            raise LosparseError("allocation='search' runs the model on texts, got none; pass batches")
        self.model, self.phases = model, phases
        self.batches = [batches[number] for number in spread(batches, SEARCH_TOKENS)]
        self.distribution = False
        self.dense = [self._run(batch) for batch in self.batches]

    def candidates(self, method: OneShot, name: str, layer: nn.Module, statistics: LayerStatistics) -> Candidates:
        """Try the sizes of one layer, and put the dense one back."""
        weight = weight_of(layer).detach()
        out_features, in_features = weight.shape
        sizes = method.trials(name, out_features, in_features)
        errors = []
        for size in sizes:
            small = method.factor(name, weight, bias_of(layer), statistics, size)
            replace_module(self.model, layer, small)
            try:
                errors.append(self._error())
            finally:
                replace_module(self.model, small, layer)
            self.phases.more(f"trying sizes of {name}", len(self.batches), len(sizes) * len(self.batches))
        tried = [method.cost(size, out_features, in_features) for size in sizes]
        # Between two sizes that were tried the error is taken to fall evenly, so that a budget can be used up.
        between = [size for size in method.trials(name, out_features, in_features, fine=True) if size >= sizes[0]]
        costs = [*(method.cost(size, out_features, in_features) for size in between), weight.numel()]
        return Candidates(
            [*between, dense_size(out_features)],
            np.array(costs, float),
            np.interp(costs, [*tried, weight.numel()], [*errors, 0.0]),
        )

    def _error(self) -> float:
        """Return the mean error over batches: KL divergence (nats), or squared difference of values or states."""
        pairs = zip((self._run(batch) for batch in self.batches), self.dense, strict=True)
        return sum(self._distance(values, dense) for values, dense in pairs) / len(self.batches)

    def _distance(self, values: Tensor, dense: Tensor) -> float:
        if not self.distribution:
            return float((values.double() - dense.double()).square().mean())
        # In fp64: the divergence of distributions that hardly differ drowns in the rounding of fp32 logarithms.
        total = 0.0
        for mine, theirs in zip(torch.split(values, _ROWS), torch.split(dense, _ROWS), strict=True):
            logs = [F.log_softmax(logits.double(), dim=-1) for logits in (mine, theirs)]
            total += float(F.kl_div(logs[0], logs[1], reduction="sum", log_target=True))
        return max(total, 0.0) / values[..., 0].numel()

    def _run(self, batch: Batch) -> Tensor:
        """Return logits, of real tokens or of texts; without a head the mean hidden state of every text."""
        with inference(self.model):
            output = self.model(**inputs_of(batch))
        logits = getattr(output, "logits", None)
        if logits is None and getattr(output, "start_logits", None) is not None:
            logits = torch.stack([output.start_logits, output.end_logits], dim=1)
        each_class = decides_each_class(self.model)
        self.distribution = logits is not None and (each_class or logits.shape[-1] > 1)
        mask = Mask()
        mask.set(batch)
        if logits is None:
            return mean_states(output[0], mask.real)
        values: Tensor = logits
        real = mask.real
        if real is not None and values.dim() == 3 and values.shape[:2] == real.shape:
            return values[real]
        return yes_or_no(values) if each_class else values
