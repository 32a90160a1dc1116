"""A folder as a deployment of Ray Serve, and as an application of that one deployment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import DependencyError
from .settings import RaySettings, parse_settings

_RETRIES = 3
"""Times that a replica whose folder cannot be opened is tried again."""


def deployment(settings: RaySettings) -> Any:
    """Return the deployment of a folder; `.bind()` makes the application, `.options(...)` changes what Ray knows.

    The settings are its `user_config`. A configuration file that changes it there alone (`serve deploy`) gives running
    replicas another folder; whatever else changes starts new replicas, one after the other.

    Args:
        settings: of it.

    Raises:
        DependencyError: Ray Serve is not installed.
    """
    try:
        from ray import serve

        from .app import RayReplica
    except ImportError as error:
        raise DependencyError(f"Ray Serve cannot be imported ({error}): pip install 'ray[serve]'") from error
    return serve.deployment(
        RayReplica,
        name=settings.name,
        user_config=settings.to_dict(),
        ray_actor_options={"num_cpus": settings.cpus},
        max_ongoing_requests=settings.max_ongoing,
        max_queued_requests=settings.max_queued,
        autoscaling_config={
            "min_replicas": settings.min_replicas,
            "initial_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": settings.target_ongoing,
        },
        graceful_shutdown_timeout_s=settings.deadline_s,
        max_constructor_retry_count=_RETRIES,
    )


def build(args: Mapping[str, Any]) -> Any:
    """Return an application, for `serve run losparse_runtime.ray_app:build folder=FOLDER [cpus=2 ...]`.

    Args:
        args: fields of `RaySettings`; numbers may be texts.

    Raises:
        InputError: one is unknown or wrong.
        DependencyError: Ray Serve is not installed.
    """
    return deployment(parse_settings(args)).bind()
