"""Search under a target: which compression reaches a latency, speed-up or size, and costs the least accuracy.

settings     what is searched, and the target
candidates   forms of a model, timed with random weights before anyone trains
halving      few of them trained a little, the better half more, until one is left
run          the whole: found, written, and built
result       table and picture
"""
