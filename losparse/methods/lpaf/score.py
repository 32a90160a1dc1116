"""The names of LPAF's scores: what its settings offer, without torch, and its algorithm adds up."""

from typing import Literal

Score = Literal["movement", "sensitivity"]
