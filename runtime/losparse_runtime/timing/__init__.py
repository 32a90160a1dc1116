"""Times and memory of sessions, of the whole model and node by node."""
