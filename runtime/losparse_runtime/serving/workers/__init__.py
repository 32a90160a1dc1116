"""Processes of the server: one that serves by itself, or workers and a supervisor that starts them again.

listening   the socket that clients connect to
running     one process serves: from the opened models to the last answered request
serve       which of the two it is
"""

from .serve import serve

__all__ = ["serve"]
