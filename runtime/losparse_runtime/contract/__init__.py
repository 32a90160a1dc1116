"""What crosses the packages: the facts of an exported folder. numpy and the standard library only.

task             what a model is for
signature        what a graph takes and returns; `tensors` are its parts
feeds, checks    made-up inputs; and what is wrong with given ones
folder           `losparse.json`, read and written
variant          its graphs in one precision
metadata         what it says of one graph in one variant
embedding        what is done before tokens and behind pooling
config           what is read of `config.json`
gates            what a build let it pass
files            the files of a folder, `records` what it lists of them; `fields` reads JSON
inside           names and links that stay in a folder, and how its files are opened
progress         how far long work is
"""
