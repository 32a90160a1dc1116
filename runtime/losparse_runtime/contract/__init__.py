"""What crosses the packages: the facts of an exported folder. numpy and the standard library only.

task             what a model is for
signature        what a graph takes and returns; `tensors` are its parts
feeds, checks    made-up inputs; and what is wrong with given ones
folder           `losparse.json`, read and written
variant          its graphs in one precision
metadata         what it says of one graph in one variant
embedding        what is done before tokens and behind pooling
config           what is read of `config.json`
files            the files of a folder; `fields` reads JSON
progress         how far long work is
"""
