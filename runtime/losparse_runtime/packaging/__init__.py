"""An exported folder as other servers want it.

triton      a model of NVIDIA Triton's repository: version folders, `config.pbtxt`, a note for those who send requests
settings    what may be set of it
config      `config.pbtxt`
note        README.md beside it, with a client that tokenises
contents    the part of a folder that one variant needs, as a folder of its own
staging     whole or not at all
"""
