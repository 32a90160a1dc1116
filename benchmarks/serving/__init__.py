"""What loads a server and watches it, for serve_load.py and serve_survive.py.

client      connections that say when each request was sent and answered; closed and open loops
processes   servers in processes of their own: start, CPUs, memory, end
answers     texts, what a session says of them, and whether a server says the same
contenders  the servers that are compared, and how each is asked
figures     medians, intervals, tables
"""
