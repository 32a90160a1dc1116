"""Labelled texts: from files to what a trainer takes, and what its predictions are measured by.

loading     from files to what a trainer takes, whatever the task
tables      rows of csv, tsv, jsonl and text files, or of the hub
columns     which column holds what
labels      which class a label is
examples    texts and labels of one split
tokens      tokenised rows
metrics     metrics that several tasks share
tasks       one file a task
"""
