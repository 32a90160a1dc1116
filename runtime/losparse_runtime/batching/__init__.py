"""Requests of many callers, answered by few runs of a model.

settings    how many texts and tokens a run takes, and how many rows may wait
queue       what waits, sorted by length, with deadlines
batcher     the threads that run it
"""
