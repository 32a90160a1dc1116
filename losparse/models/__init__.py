"""What a transformer is made of, and what it can lose.

roles            what a linear layer is for, by its name: the one table of all architectures
signature        the inputs a model reads; positions counts how long a text it takes
depth, neurons   fewer blocks, and narrower ones; choices names the ways
coverage         how much of a model was looked at; unfactored finds the rest, report counts what is stored
embeddings       the tables that fine-tuning may leave alone
quantised        what transformers' models do otherwise for quantised layers
"""
