"""Methods that need no training: a metric per layer, a budget, and one solver.

base                what all of them share
svd, fwsvd          weights alone; and by the gradients of labels
asvd, rom           by the size of inputs; by the principal outputs
losparse            low rank and kept rows; `rows` chooses these
metric              what an error of a layer counts
low_rank            the one solver, in that metric
allocate, search    a size for every layer, by rule or by measurement
units               layers that are factored as one
layer               the small layers
factorise           from calibration batches to small layers
"""
