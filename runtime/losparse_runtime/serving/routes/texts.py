"""Tasks on texts: /v1/classify, /v1/tag, /v1/answer and /v1/rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from ...errors import InputError
from ...session import Session
from ...tasks.answer import answer_work
from ...tasks.base import Work
from ...tasks.classify import Classification, classify_work
from ...tasks.rank import Ranked, rank_work
from ...tasks.scoring import ANSWER_STRIDE, MAX_ANSWER_TOKENS
from ...tasks.tag import tag_work
from ..asking import checked_texts, choose, deadline_of, size_of
from ..bodies import body_of
from ..gate import state_of
from ..models import ModelTable, ServedModel
from ..raw import Body, RawRoute, Said, answers, described, json_response, read_body, while_connected
from ..settings import ServeSettings

Model = Annotated[str | None, Field(description="name of the model; the first that does the task where none is named")]
Texts = Annotated[str | list[str], Field(description="a text, or several")]


class ClassifyBody(Body):
    """What to classify."""

    texts: Texts
    pairs: Annotated[str | list[str] | None, Field(description="the second text of each pair")] = None
    model: Model = None


class TagBody(Body):
    """What to tag."""

    texts: Texts
    words: Annotated[bool, Field(description="a label a word; false: a label a token")] = True
    model: Model = None


class AnswerBody(Body):
    """What to answer."""

    question: str
    context: Annotated[str, Field(description="the text that holds the answer")]
    max_tokens: Annotated[int, Field(description="length of the longest answer", ge=1)] = MAX_ANSWER_TOKENS
    stride: Annotated[int, Field(description="overlap of windows over a long context", ge=0)] = ANSWER_STRIDE
    may_be_none: Annotated[bool, Field(description="an empty text where the model prefers no answer")] = False
    model: Model = None


class RankBody(Body):
    """What to sort by how well it goes with a query."""

    query: str
    texts: Texts
    top: Annotated[int | None, Field(description="how many of the best are returned; all by default", ge=1)] = None
    return_texts: Annotated[bool, Field(description="whether the texts come back beside their scores")] = True
    model: Model = None


class ClassSaid(Said):
    """The class of one text."""

    label: str
    score: float
    scores: dict[str, float]


class ClassifySaid(Said):
    """Classes of texts."""

    model: str
    results: list[ClassSaid]
    tokens: Annotated[int, Field(description="of all texts, special ones included")]


class SpanSaid(Said):
    """A part of a text."""

    text: str
    start: Annotated[int, Field(description="its first character, counted from 0")]
    end: Annotated[int, Field(description="one past its last character")]
    score: float


class TagSaid(SpanSaid):
    """A labelled part of a text."""

    label: str


class TagsSaid(Said):
    """Labels of the words of texts."""

    model: str
    results: list[list[TagSaid]]
    tokens: int


class AnswerSaid(Said):
    """The answer to a question."""

    model: str
    result: SpanSaid
    tokens: int


class PlaceSaid(Said):
    """One text of a ranking."""

    index: Annotated[int, Field(description="its place among the texts of the request")]
    score: float
    text: str | None = None


class RankSaid(Said):
    """Texts, the best first."""

    model: str
    results: list[PlaceSaid]
    tokens: int


def router(models: ModelTable, settings: ServeSettings) -> APIRouter:
    """Return the routes.

    Args:
        models: that are served.
        settings: of the server.
    """
    routes = APIRouter(route_class=RawRoute, tags=["texts"])
    limit = settings.texts_in_request

    @routes.post(
        "/v1/classify",
        responses=answers(ClassifySaid),
        openapi_extra=described(ClassifyBody, {"texts": ["a fine film", "two dull hours"]}),
    )
    async def classify(request: Request) -> Response:
        """Classes of texts or pairs: the best label, and the score of every one."""
        body = read_body(ClassifyBody, await body_of(request, settings.body_bytes))
        texts = checked_texts(body.texts, limit)
        model = choose(models, body.model, "classify", request)
        results, tokens = await _do(
            request, model, lambda session: classify_work(session, texts, body.pairs), size_of(texts, body.pairs)
        )
        return _answered(model, [_classified(each) for each in results], tokens)

    @routes.post(
        "/v1/tag",
        responses=answers(TagsSaid),
        openapi_extra=described(TagBody, {"texts": ["Ada Lovelace lived in London."]}),
    )
    async def tag(request: Request) -> Response:
        """Labels of the words of texts, or of their tokens."""
        body = read_body(TagBody, await body_of(request, settings.body_bytes))
        texts = checked_texts(body.texts, limit)
        model = choose(models, body.model, "tag", request)
        results, tokens = await _do(
            request, model, lambda session: tag_work(session, texts, words=body.words), size_of(texts)
        )
        return _answered(model, [[asdict(each) for each in tags] for tags in results], tokens)

    asked_example = {"question": "Where did she live?", "context": "Ada Lovelace lived in London."}

    @routes.post("/v1/answer", responses=answers(AnswerSaid), openapi_extra=described(AnswerBody, asked_example))
    async def answer(request: Request) -> Response:
        """The span of a context that answers a question."""
        body = read_body(AnswerBody, await body_of(request, settings.body_bytes))
        model = choose(models, body.model, "answer", request)
        asked = {"max_tokens": body.max_tokens, "stride": body.stride}

        def prepare(session: Session) -> Work[Any]:
            work = answer_work(session, body.question, body.context, may_be_none=body.may_be_none, **asked)
            if len(work.encodings) > limit:
                raise InputError(
                    f"context must have at most {limit} windows of the model's length, got {len(work.encodings)}; "
                    "send it in parts"
                )
            return work

        result, tokens = await _do(request, model, prepare, len(body.question) + len(body.context))
        return json_response({"model": model.name, "result": asdict(result), "tokens": tokens})

    example = {"query": "Where did she live?", "texts": ["She lived in London.", "It rained."]}

    @routes.post("/v1/rank", responses=answers(RankSaid), openapi_extra=described(RankBody, example))
    async def rank(request: Request) -> Response:
        """Texts by how well they go with a query, the best first."""
        body = read_body(RankBody, await body_of(request, settings.body_bytes))
        texts = checked_texts(body.texts, limit)
        model = choose(models, body.model, "rank", request)
        results, tokens = await _do(
            request,
            model,
            lambda session: rank_work(session, body.query, texts),
            size_of(texts) + len(body.query) * len(texts),
        )
        return _answered(model, [_ranked(each, body.return_texts) for each in results[: body.top]], tokens)

    return routes


async def _do(
    request: Request, model: ServedModel, prepare: Callable[[Session], Work[Any]], characters: int
) -> tuple[Any, int]:
    """Do a task while its client is there."""
    async with while_connected(request):
        result, tokens = await model.do(prepare, characters=characters, deadline_s=deadline_of(request))
    state_of(request.scope).tokens = tokens
    return result, tokens


def _answered(model: ServedModel, results: list[Any], tokens: int) -> Response:
    return json_response({"model": model.name, "results": results, "tokens": tokens})


def _classified(result: Classification) -> dict[str, Any]:
    return {"label": result.label, "score": result.score, "scores": result.scores}


def _ranked(result: Ranked, with_text: bool) -> dict[str, Any]:
    return {"index": result.index, "score": result.score, **({"text": result.text} if with_text else {})}
