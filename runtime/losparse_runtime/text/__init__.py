"""Texts to token ids, by the tokenizers package, from several threads and without surprises.

encoder       texts to token ids by the folder's own tokenizer
truncation    without reading what is cut off
cuts          how many texts were cut
panics        panics of the package as errors
"""
