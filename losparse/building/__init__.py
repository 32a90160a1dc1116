"""One recipe, one command: from a model and texts to a folder that one can ship, and a page that shows it.

    open -> (fine-tune) -> compress -> export every variant -> check -> bench -> gate -> report

recipe       what a build does, as data: one definition for files, Python and the command line
starter      a commented recipe to begin with
steps        the steps, in order: what each reads, does and writes
cache        what was done already, and why a step runs again
digests      contents of files and folders, and of the code, as SHA-256
variants     exporting, checking and timing: what the steps do with an ONNX folder
gates        what a variant must reach to be shipped
inputs       what is looked at before any of it
run          the whole
"""
