"""LPAF: prune first and factor second; method, layer and callback."""
