"""Right answers, of a PyTorch model and of the folder exported from it, on labelled texts.

measure    the metric of a task, for both
rows       metrics of tasks whose logits are scored row by row
answers    right answers to questions
texts      the user's texts, with labels or without, and as inputs of runs
"""
