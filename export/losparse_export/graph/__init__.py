"""A graph that holds factored layers: their nodes, where features go, and what nodes are called."""
