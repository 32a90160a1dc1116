"""What a user is told of a method before he picks one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """A method in words.

    Attributes:
        summary: what it does.
        needs: what it takes of the user: "labels", "texts", "gradients", "training", in any combination.
        cost: the time it takes, in words.
        reference: where it comes from.
    """

    summary: str
    needs: tuple[str, ...]
    cost: str
    reference: str
