"""Whether a folder is as it was written, reads texts as its reference does, and gives the same numbers."""
