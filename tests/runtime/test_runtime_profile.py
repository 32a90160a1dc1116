"""Where the time goes, node by node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from losparse_runtime import (
    FolderError,
    InputError,
    NodeTime,
    Options,
    Session,
    profile_nodes,
    profile_sessions,
    time_by,
)

CPU = Options(("CPUExecutionProvider",), 1)


def test_nodes_of_a_folder(make_folder: Callable[..., Any]) -> None:
    nodes = profile_nodes(make_folder().path, CPU, batch=2, length=5, runs=3)
    assert nodes and all(node.ms >= 0 and node.operator and node.name for node in nodes)
    assert len({node.name for node in nodes}) == len(nodes)
    assert sum(time_by(nodes, lambda node: node.operator).values()) == pytest.approx(sum(node.ms for node in nodes))


def test_what_its_exporter_opens_unchecked_is_profiled_too(make_folder: Callable[..., Any]) -> None:
    """`losparse estimate` profiles graphs of random weights, which nothing was compared with."""
    folder = make_folder().edit(lambda data: data.update(parity=None))
    with pytest.raises(FolderError, match="has no comparison with PyTorch"):
        profile_nodes(folder.path, CPU, length=3, runs=1)
    assert profile_nodes(folder.path, Session(folder.path, threads=1, unchecked=True).options, length=3, runs=1)


def test_no_file_is_left(make_folder: Callable[..., Any]) -> None:
    folder = make_folder().path
    before = sorted(path.name for path in folder.iterdir())
    profile_nodes(folder, CPU, length=3, runs=1)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_time_by_puts_the_largest_first() -> None:
    nodes = [NodeTime("a", "Add", 1.0), NodeTime("b", "Gemm", 5.0), NodeTime("c", "Add", 2.0)]
    assert list(time_by(nodes, lambda node: node.operator).items()) == [("Gemm", 5.0), ("Add", 3.0)]


@pytest.mark.parametrize("arguments", [{"runs": 0}, {"batch": 0}, {"length": 0}])
def test_counts_below_one(make_folder: Callable[..., Any], arguments: dict[str, int]) -> None:
    with pytest.raises(InputError, match="batch, length and runs must be at least 1"):
        profile_nodes(make_folder().path, CPU, **arguments)


def test_no_folder(tmp_path: Any) -> None:
    with pytest.raises(FolderError):
        profile_nodes(tmp_path / "nothing", CPU)


def test_models_are_profiled_in_turns_with_and_without_the_profiler(make_folder: Callable[..., Any]) -> None:
    folder = make_folder().path
    before = sorted(path.name for path in folder.iterdir())
    sessions = {name: Session(folder, threads=1) for name in ("a", "b")}
    found = profile_sessions(sessions, batch=2, length=5, runs=3)
    assert list(found) == ["a", "b"] and sorted(path.name for path in folder.iterdir()) == before
    alone = profile_nodes(folder, CPU, batch=2, length=5, runs=3)
    for each in found.values():
        assert [(node.name, node.operator) for node in each.nodes] == [(node.name, node.operator) for node in alone]
        assert each.nodes_ms == pytest.approx(sum(node.ms for node in each.nodes))
        assert each.run_ms > 0 and each.profiled_ms > 0


def test_a_run_is_timed_apart_from_a_profiled_one(make_folder: Callable[..., Any]) -> None:
    """A clock by hand: runs without the profiler take 1, 2, ... ms, and those with it ten times as long."""
    session = Session(make_folder().path, threads=1)
    ticks = iter([0.001 * tick for run in range(1, 6) for tick in (0, run, 0, 10 * run)])
    (found,) = profile_sessions({"a": session}, length=3, runs=3, clock=lambda: next(ticks)).values()
    assert found.run_ms == pytest.approx(4.0) and found.profiled_ms == pytest.approx(40.0)  # of 3, 4 and 5: 2 go before
    with pytest.raises(InputError, match="at least 1"):
        profile_sessions({"a": session}, runs=0)
    with pytest.raises(InputError, match="at least one session"):
        profile_sessions({})
