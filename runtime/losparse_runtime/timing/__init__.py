"""Times and memory of sessions, of the whole model and node by node.

latency      sessions timed against each other, and memory
benchmark    folders of one model, at several shapes
openvino     a model in another runtime, to be timed beside sessions
profile      time node by node
ratio        is one model slower than another by more than is allowed?
_memory      the child process that measures memory
_openvino_worker  the child process that holds a model in OpenVINO
"""
