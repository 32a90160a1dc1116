"""What becomes of every factored layer: chosen by estimate or by timing, read and edited as a file, carried out.

plan      the form of every layer, and why not the others
choose    the cheapest form that applies
tune      the same by timing
file      what the file of a plan may say
edits     what of it may be edited
lower     carries it out
"""
