"""Times and memory of sessions, of the whole model and node by node.

latency      sessions timed against each other, and memory
benchmark    folders of one model, at several shapes
profile      time node by node
_memory      the child process that measures memory
"""
