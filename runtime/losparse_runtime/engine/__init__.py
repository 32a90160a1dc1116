"""onnxruntime: opening a model in it, and what must be right for it to be used.

opening     a model opened, with providers and options
choice      which variant to open where nobody says
chosen      that one opened
external    the weight files a model file names
cpus        how many CPUs there are, and what they can
alone       texts of a batch one at a time
forks       sessions in forked processes
"""
