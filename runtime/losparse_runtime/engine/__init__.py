"""onnxruntime: opening a model in it, and what must be right for it to be used."""
