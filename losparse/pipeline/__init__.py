"""Whole compressions: a model's folder and files of texts in, a smaller folder and its report out."""
