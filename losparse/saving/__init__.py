"""Save and load compressed models as the ecosystem does, and refuse what does not fit.

quantizer          losparse in transformers' own saving and loading
opening            a folder opened with transformers, whole or refused
placing            empty factored layers for its tensors
outputs            a few numbers by which a load is known to be right
source             where a model is: here, or on the hub
folder, headers    what lies in a folder, read without torch
schema             what `config.json` may say
names              one layer under the names of several models
contents           what a folder stores, layer by layer
pooling            the files of sentence-transformers
staging            a folder whole or not at all
"""
