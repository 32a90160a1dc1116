"""Methods that need no training: a metric per layer, a budget, and one solver."""
