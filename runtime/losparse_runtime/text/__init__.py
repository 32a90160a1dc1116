"""Texts to token ids, by the tokenizers package, from several threads and without surprises."""
