"""Methods of compression, one folder each: its configuration, its layer, its callback and its mathematics.

base        what every method says of itself
registry    all of them by name, and as plain data
forms       the layers of those that train, by name
trainer     what the callbacks of trained methods need of a Trainer
losparse    low rank plus structured sparse, trained together
lpaf        a matrix that is pruned first, then factored
one_shot    everything that needs no training
"""

from .base import Description, NamesLayers, TrainedMethod
from .losparse.method import LoSparse
from .losparse.pruning import StructuredPruning
from .lpaf.method import LPAF
from .one_shot.asvd import ASVD
from .one_shot.base import OneShot
from .one_shot.fwsvd import FWSVD
from .one_shot.losparse import OneShotLoSparse
from .one_shot.rom import ROM
from .one_shot.svd import SVD
from .registry import METHOD, METHODS, NO_METHOD, Method, method_from_dict, method_to_dict

__all__ = [
    "ASVD",
    "FWSVD",
    "LPAF",
    "METHOD",
    "METHODS",
    "NO_METHOD",
    "ROM",
    "SVD",
    "Description",
    "LoSparse",
    "Method",
    "NamesLayers",
    "OneShot",
    "OneShotLoSparse",
    "StructuredPruning",
    "TrainedMethod",
    "method_from_dict",
    "method_to_dict",
]
