"""LoSparse: low-rank plus structured sparse, trained together; method, layer and callback."""
