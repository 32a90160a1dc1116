"""How well a language model predicts texts, and which of several answers it prefers: one definition for every engine.

likelihood   log-probabilities of tokens, from logits
rows         rows of tokens that a model is asked about, a few at a time
windows      a long row as windows that overlap
perplexity   of texts
choices      right answers to questions of several choices
folder       an exported folder as what is asked

Whoever else can compute logits is asked in the same way (`rows.Scored`): numbers of two engines differ by their logits.
"""
