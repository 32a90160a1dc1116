"""The `losparse` command: one file a command, imported only when that command runs.

main        picks the command, and turns failures into one line and a code
parser      flags of options and of checked dataclasses
output      results on stdout, JSON into files
progress    bars on stderr; `periodic` writes a line a minute where there are none
report      what of the report of a compression is printed
"""
