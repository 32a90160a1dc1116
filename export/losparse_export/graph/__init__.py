"""A graph that holds factored layers: their nodes, where features go, and what nodes are called.

node         a factored layer's node, which is lowered
layer        the same layer as plans and forms see it; loads no onnx
region       which values hold the same list of features
marks        what is known of a node beside what it computes
naming       names that are the same in every export
constants    constants of a graph, and new nodes in it
"""
