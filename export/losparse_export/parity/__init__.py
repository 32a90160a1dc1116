"""The comparison with PyTorch: the gate an export must pass, and what it reports beside it."""
