"""/v1/embeddings and /v1/models, as OpenAI's clients and those of text-embeddings-inference send and read them.

References:
    https://platform.openai.com/docs/api-reference/embeddings
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray
from pydantic import Field

from ...errors import InputError
from ...session import Session
from ...tasks.base import Work
from ...tasks.embed import embed_work
from ..asking import checked_texts, choose, deadline_of, size_of
from ..bodies import body_of
from ..gate import state_of
from ..models import ModelTable
from ..raw import Body, RawRoute, Said, answers, described, json_response, read_body, while_connected
from ..settings import ServeSettings

_ANY = ("tei", "text-embeddings-inference")
"""Names that users of text-embeddings-inference, which serves one model, give it."""


class EmbeddingsBody(Body):
    """What to embed."""

    input: Annotated[
        str | list[str] | list[int] | list[list[int]],
        Field(description="a text, or several; not token ids, which /v2/models/NAME/infer takes"),
    ]
    model: Annotated[str | None, Field(description="name of the model; the first that embeds where none is named")] = (
        None
    )
    encoding_format: Annotated[
        Literal["float", "base64"], Field(description="numbers, or float32 (little endian) in base64")
    ] = "float"
    dimensions: Annotated[
        int | None,
        Field(description="numbers of a vector that are kept, the first ones, scaled to length 1 again", ge=1),
    ] = None
    user: Annotated[str | None, Field(description="taken, and not used")] = None
    prompt_name: Annotated[str | None, Field(description="of one of the folder's prompts")] = None
    prompt: Annotated[str | None, Field(description="a text to put in front of every text instead")] = None


class VectorSaid(Said):
    """One vector."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class UsageSaid(Said):
    """What was read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsSaid(Said):
    """A vector for each text."""

    object: Literal["list"]
    data: list[VectorSaid]
    model: str
    usage: UsageSaid


def router(models: ModelTable, settings: ServeSettings) -> APIRouter:
    """Return the routes.

    Args:
        models: that are served.
        settings: of the server.
    """
    routes = APIRouter(route_class=RawRoute, tags=["OpenAI"])

    @routes.post(
        "/v1/embeddings",
        responses=answers(EmbeddingsSaid),
        openapi_extra=described(EmbeddingsBody, {"input": ["a fine film", "two dull hours"]}),
    )
    async def embeddings(request: Request) -> Response:
        """A vector for each text."""
        body = read_body(EmbeddingsBody, await body_of(request, settings.body_bytes))
        texts = _texts(body, settings.texts_in_request)
        model = choose(models, None if body.model in _ANY else body.model, "embed", request)

        def prepare(session: Session) -> Work[NDArray[Any]]:
            return embed_work(
                session, texts, prompt_name=body.prompt_name, prompt=body.prompt, size=_size(session, body.dimensions)
            )

        async with while_connected(request):
            vectors, tokens = await model.do(prepare, characters=size_of(texts), deadline_s=deadline_of(request))
        state_of(request.scope).tokens = tokens
        if body.dimensions is not None and model.session.metadata.normalize:
            # As OpenAI's are: what was cut has length 1 again.
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return json_response(
            {
                "object": "list",
                "data": [_entry(place, vector, body.encoding_format) for place, vector in enumerate(vectors)],
                "model": model.name,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        )

    @routes.get("/v1/models")
    async def listed(request: Request) -> Response:
        """The models that are served."""
        state_of(request.scope).route = "/v1/models"
        rows = [{"id": each.name, "object": "model", "created": 0, "owned_by": "losparse"} for each in models]
        return json_response({"object": "list", "data": rows})

    return routes


def _texts(body: EmbeddingsBody, limit: int) -> list[str]:
    given = body.input
    if isinstance(given, list) and not all(isinstance(each, str) for each in given):
        raise InputError("input must be texts, got token ids; send those to /v2/models/NAME/infer")
    return checked_texts(given, limit)  # type: ignore[arg-type]


def _size(session: Session, asked: int | None) -> int | None:
    """Return the numbers of a vector to keep, which may not be more than there are."""
    if asked is None:
        return None
    has = session.outputs[0].shape[-1]
    most = session.metadata.embedding.truncate_dim or (has if isinstance(has, int) else asked)
    if asked > most:
        raise InputError(f"dimensions must be at most {most}, got {asked}")
    return asked


def _entry(place: int, vector: NDArray[Any], form: str) -> dict[str, Any]:
    """Return one vector as it is sent."""
    if form == "base64":
        content: object = base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode()
    else:
        content = vector.tolist()
    return {"object": "embedding", "index": place, "embedding": content}
