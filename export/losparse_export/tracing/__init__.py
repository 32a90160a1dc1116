"""From a transformers model to a graph, by torch's exporter.

trace      the graph, with one node a factored layer
capture    the program that torch saw, whole for all lengths
exact      torch's optimiser kept exact
factors    other factored layers in a graph that was traced before
"""
