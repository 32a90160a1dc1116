"""The comparison with PyTorch: the gate an export must pass, and what it reports beside it.

gate       what an export must pass to be kept
lengths    the shapes at which it is compared
pytorch    the reference: PyTorch with its own tokenizer
locate     the layer at which a difference begins
mates      how far a text's answers move with the others of its batch
scales     fixed scales of activations beside dynamic ones
vectors    how far vectors of texts agree
"""
