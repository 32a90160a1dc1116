"""What transformers' models do otherwise for quantised layers, and a compressed model must do from the start.

Jamba and Falcon-Mamba multiply by the weight of a layer themselves, and call the layer where the config says that the
model is quantised, which every loaded quantised model's does. Calibration must see those calls, and a model in memory
must give the numbers of the same model after it was saved and opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PretrainedConfig

_FLAG = "_is_quantized"  # transformers sets it while it loads, and leaves it out when it saves


@contextmanager
def computed_as_quantised(model: nn.Module) -> Iterator[None]:
    """Let a model compute as a quantised one from here on; as before, if what is done in here fails."""
    configs: dict[int, Any] = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        if isinstance(config, PretrainedConfig) and not hasattr(config, _FLAG):  # a plain module's may be anything
            configs[id(config)] = config
    for config in configs.values():
        setattr(config, _FLAG, True)
    try:
        yield
    except BaseException:
        for config in configs.values():
            delattr(config, _FLAG)
        raise
