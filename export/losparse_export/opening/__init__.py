"""From a folder, a hub id or a model in memory to a model that can be traced."""
