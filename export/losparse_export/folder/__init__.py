"""What is written: the model, what stands beside it, and what the folder says about itself.

write       the folder whole, in its order
model       the graph with its weights inside or beside it
assets      the tokenizer, and how long a text may be
metadata    what `losparse.json` and `config.json` say
"""
