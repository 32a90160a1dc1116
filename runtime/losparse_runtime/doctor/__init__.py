"""Why a folder does not run well on a machine: what is installed, what the machine has, and the way out.

findings    what was found of one thing
packages    versions, two onnxruntimes, versions that are known to be wrong
providers   execution providers, each with a session of one node
machine     instructions, threads, memory, files
folders     the variant that opens of a folder, and whether it does
examine     all of it
"""
