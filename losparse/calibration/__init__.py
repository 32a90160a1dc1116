"""Calibration: batches in, statistics of every layer out.

statistics   what is collected, as plain sums
running      a model without gradients, without its head, and with hooks that come off again
modes        training or evaluation, module by module, and put back
heads        what the logits of a model are distributions over
layout       how a layer's input holds the tokens of a batch: axes of another order, tables, texts the model pads
observe      moments of the inputs, by hooks; masked tokens left out
gradients    squared gradients of weights (labels) and of outputs (no labels)
walk         a model run block by block, so that later blocks see compressed ones
visit        the order in which layers are compressed, with the statistics of each
"""
