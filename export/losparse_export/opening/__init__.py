"""From a folder, a hub id or a model in memory to a model that can be traced.

load          opens the model, and refuses what would not come out right
kinds         which class opens it, read off names
config        its configuration, without weights
families      the model types whose export is tested
task_model    its task, and the model as a module that returns the tensors of that
sentence      what a folder of sentence-transformers says
evaluation    how a model is run and traced
copies        copies to run, since some models change themselves
"""
