"""Right answers, of a PyTorch model and of the folder exported from it, on labelled texts."""
