"""Processes of the server: one that serves by itself, or workers and a supervisor that starts them again.

serve        which of the two it is
listening    the socket that clients connect to
running      one process serves: from the opened models to the last answered request
supervisor   accepts connections, gives them to workers, starts workers again
seats        the supervisor's side of every connection
child        what it knows of a worker's process
backoff      when a worker is started again
worker       the worker's side
channel      what both say to each other
table        memory that both share
"""

from .serve import serve

__all__ = ["serve"]
