"""One connection of a client: uvicorn's protocol, with limits of time and size, and with what is no HTTP/1.1 refused.

limits       what a connection may take
refusals     answers that are given without the application
heads        the head of a request: how large, and what the parser lets pass
reading      the half that reads requests
waits        the timer
wire         the transport: how far an answer is, and a close that loses none
connection   the whole
"""

from .connection import Connection, limited
from .limits import Limits
from .refusals import Refused
from .wire import Stage, has_unread

__all__ = ["Connection", "Limits", "Refused", "Stage", "has_unread", "limited"]
