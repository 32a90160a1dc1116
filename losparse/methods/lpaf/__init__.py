"""LPAF: prune first and factor second; method, layer and callback.

algorithm    the paper
method       its settings, as a value without torch
score        the names of its scores
layer        what it trains in the place of a linear layer
callback     prunes, factors and mixes ranks while a Trainer trains
"""
