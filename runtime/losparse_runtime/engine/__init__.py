"""onnxruntime: opening a model in it, and what must be right for it to be used.

options     how a model is to be opened
providers   execution providers: which are there, and what else is done
settings    the same as onnxruntime has it
opening     a model opened
choice      which variant to open where nobody says
chosen      that one opened
external    the weight files a model file names
cpus        how many CPUs there are, and what they can
cgroups     CPUs and memory that a container grants
alone       texts of a batch one at a time
forks       sessions in forked processes
running     one run of it, plain or bound to a GPU
held        a session while it is open: who uses it, and its end
memory      memory that was freed, given back
"""
