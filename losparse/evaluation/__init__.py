"""How good a model is, whatever it is: a checkpoint in PyTorch, dense or compressed, or an exported folder.

evaluate     a language model measured on files: what `losparse eval` does
reading      texts and questions from files
labelled     a checkpoint on labelled texts, by the metrics of its task
checkpoint   a language model in PyTorch as what is asked

What is measured, and how, is in `losparse_runtime.evaluation`. A folder is measured without torch.
"""
