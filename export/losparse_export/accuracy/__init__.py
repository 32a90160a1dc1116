"""Right answers, of a PyTorch model and of the folder exported from it, on labelled texts.

variants   all variants of a folder beside PyTorch and other folders, with standard errors
measure    a PyTorch model and one variant, by the metric of a task
outcomes   what a model said of every example: metrics, and how certain they are
model      a session, or PyTorch on its tokens, as what is asked
rows       outcomes of tasks whose logits are scored row by row
answers    right answers to questions
texts      the user's texts, with labels or without, and as inputs of runs
"""

from .variants import measure_variants

__all__ = ["measure_variants"]
