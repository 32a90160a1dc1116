"""What a request may meet, and the HTTP status that says so: the one table of both.

InputError    400   Unauthorised  401      RunError       500
NotFound      404   TooLarge      413      BusyError      503, with Retry-After
TooSlow       408                          DeadlineError  504
"""

from __future__ import annotations

from http import HTTPStatus

from ..errors import BusyError, DeadlineError, InputError, LosparseRuntimeError


class RequestError(InputError):
    """A request that is wrong in more than an argument; the class says by which status.

    Attributes:
        status: of the answer.
    """

    status = HTTPStatus.BAD_REQUEST


class NotFound(RequestError):  # noqa: N818 - the word of HTTP
    """There is no model, version or route of that name."""

    status = HTTPStatus.NOT_FOUND


class Unauthorised(RequestError):  # noqa: N818 - the word of HTTP
    """The token is missing or another."""

    status = HTTPStatus.UNAUTHORIZED


class TooLarge(RequestError):  # noqa: N818 - the word of HTTP
    """The body is larger than is taken."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class TooSlow(RequestError):  # noqa: N818 - the word of HTTP
    """The body did not come in time."""

    status = HTTPStatus.REQUEST_TIMEOUT


def status_of(error: LosparseRuntimeError) -> HTTPStatus:
    """Return the status that says an error: of the caller (4xx) where an argument was wrong, else of the server."""
    if isinstance(error, RequestError):
        return error.status
    if isinstance(error, BusyError):
        return HTTPStatus.SERVICE_UNAVAILABLE
    if isinstance(error, DeadlineError):
        return HTTPStatus.GATEWAY_TIMEOUT
    return HTTPStatus.BAD_REQUEST if isinstance(error, InputError) else HTTPStatus.INTERNAL_SERVER_ERROR


def kind_of(status: HTTPStatus) -> str:
    """Return what OpenAI's clients call an error of a status."""
    if status == HTTPStatus.UNAUTHORIZED:
        return "authentication_error"
    return "invalid_request_error" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
