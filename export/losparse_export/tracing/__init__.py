"""From a transformers model to a graph, by torch's exporter."""
