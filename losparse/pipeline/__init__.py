"""Whole compressions: a model's folder and files of texts in, a smaller folder and its report out.

job                  what is read, done and written, and what fits together
run                  one compression, with training or without
one_shot, trained    its two ways
dropping             blocks and neurons that are not kept
texts                texts read, split and tokenised
steps                training that says how far it is
work                 OUT.partial, from where a training goes on
outcome, result      what the report says, and what the caller gets
"""
