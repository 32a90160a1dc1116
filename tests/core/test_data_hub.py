"""Data sets of the hub: how they are asked for, and what is said where that fails."""

from __future__ import annotations

import sys

import datasets
import pytest

from losparse.data.columns import Columns
from losparse.data.tables import read_table
from losparse.data.tasks.registry import find_data
from losparse.errors import LosparseError


class Hub:
    """Stands for `datasets.load_dataset`: one data set under every name but one.

    Attributes:
        asked: name, configuration and split of every call.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None, str]] = []

    def __call__(self, name: str, config: str | None, *, split: str) -> datasets.Dataset:
        self.asked.append((name, config, split))
        if name == "no/such":
            raise FileNotFoundError("Dataset 'no/such' doesn't exist\non the Hub")
        label = datasets.ClassLabel(names=["neg", "pos"])
        features = datasets.Features({"sentence": datasets.Value("string"), "label": label})
        return datasets.Dataset.from_dict({"sentence": ["a", "b", "c"], "label": [1, 0, 1]}, features=features)


def test_hub_data_sets_bring_their_class_names() -> None:
    hub = Hub()
    table = read_table("owner/name", split="validation", open_hub=hub)
    examples = find_data("text-classification").read(table, Columns(), None)
    assert (examples.labels, examples.label_names) == ([1, 0, 1], ("neg", "pos"))
    read_table("owner/name@sst2:test", open_hub=hub)
    assert hub.asked == [("owner/name", None, "validation"), ("owner/name", "sst2", "test")]


def test_hub_failures_are_one_line() -> None:
    with pytest.raises(LosparseError, match=r"no data file 'no/such', .* as a hub data set: Dataset.*Hub"):
        read_table("no/such", open_hub=Hub())


def test_without_datasets_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # what Python has where an import fails
    with pytest.raises(LosparseError, match="pip install"):
        read_table("owner/name")
