"""Whether a folder is as it was written, reads texts as its reference does, and gives the same numbers.

report           what was found
folder           the files as they were written
tokens           the tokens of texts
preprocessing    what is done before the tokens and behind the numbers
numbers          the outputs on the same inputs
bounds           by what numbers are judged
golden           outputs that were recorded, so that the reference is needed no more
against_golden   a folder compared with them
differences      where two JSON values differ, in words
"""
