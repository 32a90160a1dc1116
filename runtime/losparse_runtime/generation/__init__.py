"""Texts continued by a language model, token by token: prompts, the cache, the choice of tokens, the end of a text."""
