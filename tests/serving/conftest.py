"""Servers in the process of the test: an application with its models open, and a client of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from starlette.testclient import TestClient

from losparse_runtime.serving.app import create_app
from losparse_runtime.serving.models import ModelPlace
from losparse_runtime.serving.settings import ServeSettings

from ..runtime.conftest import make_folder

__all__ = ["make_folder"]

Serve = Callable[..., TestClient]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start an application: `serve({"name": folder}, max_batch=4)`; its options are those of `ServeSettings`."""
    with ExitStack() as stack:

        def start(folders: dict[str, Any], **settings: Any) -> TestClient:
            places = [ModelPlace(name, getattr(folder, "path", folder)) for name, folder in folders.items()]
            app = create_app(places, ServeSettings(**{"threads": 1, **settings}))
            return stack.enter_context(TestClient(app, raise_server_exceptions=False))

        yield start
