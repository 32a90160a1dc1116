"""An exported folder on the hub: its model card, and its files in one commit.

settings   what a person says of a model that its folder does not
facts      what the folder, and the build that made it, say
card       README.md: the header that the hub reads, a table of variants, how to use it
hub        the upload
"""
