"""What loads a server and watches it, for serve_load.py and serve_survive.py.

client      connections that say when each request was sent and answered; closed and open loops
processes   servers in processes of their own: start, CPUs, memory, end
answers     texts, what a session says of them, and whether a server says the same
contenders  the servers that are compared, and how each is asked
survival    what a server must survive
hostile     clients that are slow, send halves or too much
memory      resident memory under load
figures     medians, intervals, tables
"""
