"""LoSparse: low-rank plus structured sparse, trained together; method, layer and callback.

algorithm    the paper
method       its settings, as a value without torch
layer        what it trains in the place of a linear layer
coupling     which layers decide together what they keep
attentions   the attentions whose heads can go whole
heads        what is kept of such an attention
shares       the rank part's share, by kind of layer
callback     prunes while a Trainer trains
pruning      the same without the low-rank part
"""
