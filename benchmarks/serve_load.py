"""Load servers of one model in turns, on this machine alone: ours with and without batching, and others.

    python benchmarks/serve_load.py ONNX_DIR [--variant NAME] [--mixed] [--texts FILE.csv] [--clients 1 8 64]
                                    [--seconds 5] [--rounds 5] [--threads 1] [--json FILE] [--markdown FILE]
                                    [--litserve-python PATH] [--bentoml-python PATH] [--latency]

The others are FastAPI with onnxruntime as most people write it, LitServe and BentoML (benchmarks/serving/peers). All
have the same model file, tokenizer, threads and settings of onnxruntime, and none waits busily. LitServe and BentoML
are left out where no Python that has them is named; `make serve-load` makes such environments.

All servers are up from beginning to end, and take turns: in every round each is loaded for `--seconds`, in another
order, while the others stand still (SIGSTOP).
The client is one process with a closed loop: each of its connections sends a text when the last one was answered.
Servers have all CPUs but the last, the client has the last one. Every answer is compared with what `Session` says of
that text alone, before a number is told; a wrong or missing one ends the run with 1. Ratios are medians over rounds, in
each of which both sides met the same machine, with the interval of 95 %.

`--latency` measures instead what the server adds for one client: the median over HTTP, minus that of
`Session.classify` in this process on the server's CPUs, in turns of a few requests.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvloop
from _results import kind_of, locked, machine
from serving.answers import Expected, expect, texts_of
from serving.client import ClosedLoop
from serving.contenders import ALONE, OURS, Contender, ours, peers
from serving.figures import Median, counters, percentile_ms, table
from serving.processes import Server, divided_cpus, free_port, on_cpus, started
from serving.versions import versions_of

from losparse_runtime import Session

_WARM_S = 0.5
_BLOCK = 20  # requests of one turn of --latency


class Wrong(Exception):  # noqa: N818 - says what it is
    """A server gave a wrong answer or none."""


def checked(contender: Contender, loop: ClosedLoop, expected: Expected) -> float:
    """Return the largest difference of a score.

    Raises:
        Wrong: an answer is wrong, or missing.
    """
    wrong, worst = expected.wrong(loop.replies, contender.read, contender.tolerance)
    if wrong or not loop.replies:
        raise Wrong(f"{contender.name}: {len(wrong)} of {len(loop.replies)} answers are wrong: {'; '.join(wrong[:3])}")
    return worst


@contextmanager
def awake(server: Server) -> Iterator[None]:
    """Let a server go on for its turn; otherwise it stands still, since some take CPU time while nobody asks them."""
    server.resume()
    try:
        yield
    finally:
        server.pause()


def turn(contender: Contender, server: Server, expected: Expected, clients: int, seconds: float) -> dict[str, Any]:
    """Load one server for some seconds."""
    loop = ClosedLoop(server.port, contender.requests(expected.texts), clients)
    before = counters(server.port) if contender.metrics else {}
    cpu = server.cpu_s()
    took = uvloop.run(loop.run(seconds))
    cpu = server.cpu_s() - cpu
    worst = checked(contender, loop, expected)
    times = [each.seconds for each in loop.replies]
    found = {
        "requests": len(times),
        "per_s": len(times) / took,
        "p50_ms": percentile_ms(times, 50),
        "p99_ms": percentile_ms(times, 99),
        "cpu_ms": 1000 * cpu / len(times),
        "score_off": worst,
    }
    if contender.metrics:
        after = counters(server.port)
        gone = {name: after[name] - before.get(name, 0.0) for name in after}
        runs = max(1.0, gone["losparse_batch_rows_count"])
        found["rows_in_run"] = gone["losparse_batch_rows_sum"] / runs
        found["run_ms"] = 1000 * gone["losparse_run_seconds_sum"] / runs
    return found


def load(
    contenders: Sequence[Contender], servers: Mapping[str, Server], expected: Expected, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Load all servers in turns at every number of clients; returns a row a server and number."""
    rows: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for clients in args.clients:
        for each in contenders:  # the first runs of every size are slow
            with awake(servers[each.name]):
                turn(each, servers[each.name], expected, clients, min(_WARM_S, args.seconds))
        for number in range(args.rounds):
            shift = number % len(contenders)
            for each in (*contenders[shift:], *contenders[:shift]):
                with awake(servers[each.name]):
                    found = turn(each, servers[each.name], expected, clients, args.seconds)
                rows.setdefault((clients, each.name), []).append(found)
            print(f"{clients} clients: round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
    return [{"clients": clients, "server": name, "rounds": rounds} for (clients, name), rounds in rows.items()]


def ratio(ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]], what: str) -> Median:
    """Return how many times the other's number ours is, round by round."""
    return Median.of(one[what] / other[what] for one, other in zip(ours, theirs, strict=True))


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table a number of clients."""
    parts = []
    for clients in dict.fromkeys(row["clients"] for row in rows):
        here = {row["server"]: row["rounds"] for row in rows if row["clients"] == clients}
        lines = []
        for name, rounds in here.items():
            middle = {key: Median.of(each[key] for each in rounds).value for key in rounds[0]}
            cells = [name, *(f"{middle[key]:.{digits}f}" for key, digits in _COLUMNS.items() if key in middle)]
            cells += [""] * (len(_COLUMNS) + 1 - len(cells))
            cells.append("" if name == OURS else str(ratio(here[OURS], rounds, "per_s")))
            cells.append("" if name == OURS else str(ratio(here[OURS], rounds, "p99_ms")))
            lines.append([*cells, f"{max(each['score_off'] for each in rounds):.1e}"])
        titles = ["server", "requests/s", "p50, ms", "p99, ms", "CPU ms a request", "texts a run"]
        more = ["ours / it, requests/s", "ours / it, p99", "largest difference of a score"]
        parts.append(f"{clients} client{'s' if clients > 1 else ''}:\n\n{table([*titles, *more], lines)}")
    return "\n\n".join(parts)


_COLUMNS = {"per_s": 0, "p50_ms": 2, "p99_ms": 2, "cpu_ms": 2, "rows_in_run": 1}


def idle_shares(servers: Mapping[str, Server], seconds: float) -> dict[str, float]:
    """Return how much of a CPU each server takes while nobody asks it."""
    before = {name: each.cpu_s() for name, each in servers.items()}
    time.sleep(seconds)
    return {name: (each.cpu_s() - before[name]) / seconds for name, each in servers.items()}


def added(contender: Contender, server: Server, session: Session, expected: Expected, seconds: float) -> dict[str, Any]:
    """Measure what the server adds at the median for one client, in turns with the session in this process."""
    requests = contender.requests(expected.texts)
    blocks: list[tuple[float, float]] = []
    cpus = divided_cpus()[0]
    until, at = time.perf_counter() + seconds, 0
    while time.perf_counter() < until or not blocks:
        places = [(at + each) % len(requests) for each in range(_BLOCK)]
        at += _BLOCK
        http = _ask([requests[place] for place in places], server.port, contender, expected, places)
        with on_cpus(cpus):
            here = []
            for place in places:
                begin = time.perf_counter()
                session.classify(expected.texts[place])
                here.append(time.perf_counter() - begin)
        blocks.append((percentile_ms(http, 50), percentile_ms(here, 50)))
    differences = Median.of(one - other for one, other in blocks)
    middle = [Median.of(each).value for each in zip(*blocks, strict=True)]
    print(
        f"{contender.name}: one client, {middle[0]:.3f} ms over HTTP, {middle[1]:.3f} ms in this process; "
        f"the server adds {differences.value:.3f} ms (95 % interval {differences.low:.3f} to {differences.high:.3f}, "
        f"{len(blocks)} turns of {_BLOCK} requests)"
    )
    return {"http_ms": middle[0], "session_ms": middle[1], "added_ms": asdict(differences), "turns": len(blocks)}


def _ask(
    requests: list[bytes], port: int, contender: Contender, expected: Expected, places: Sequence[int]
) -> list[float]:
    """Send requests one after the other on one connection; returns their seconds."""

    async def ask() -> ClosedLoop:
        loop = ClosedLoop(port, requests, 1, once=True)
        await loop.run(60)
        return loop

    loop = uvloop.run(ask())
    for each in loop.replies:
        each.number = places[each.number]
    checked(contender, loop, expected)
    return [each.seconds for each in loop.replies]


def run(args: argparse.Namespace) -> int:
    """Start all, load or ask them, and tell."""
    session = Session(args.folder, threads=args.threads, variant=args.variant, spinning=False)
    expected = expect(session, texts_of(args.texts, session, args.count, args.most_tokens))
    contenders = ours(session, args.threads, mixed=args.mixed, options=tuple(args.serve or ()))
    contenders += peers(session, args.threads, litserve=args.litserve_python, bentoml=args.bentoml_python)
    if args.latency:
        contenders = [each for each in contenders if each.name not in (ALONE, *args.without)]
    contenders = [each for each in contenders if each.name not in args.without]
    cpus, client = divided_cpus()
    found: dict[str, Any] = {
        "machine": machine(),
        "cpus": {"servers": cpus, "client": client},
        "threads": args.threads,
        "variant": session.variant,
        "mixed": args.mixed,
        "texts": {"count": len(expected.texts), "most_tokens": args.most_tokens},
        "seconds": args.seconds,
        "versions": versions_of(args.litserve_python, args.bentoml_python),
    }
    with ExitStack() as stack:
        stack.enter_context(on_cpus(client))
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = {}
        for number, each in enumerate(contenders):
            port = free_port()
            log = logs / f"{number}.log"
            servers[each.name] = stack.enter_context(started(each.command(port), port, log, cpus, each.environment))
        print(f"{machine()}; servers on CPUs {cpus}, client on {client}; {args.threads} thread(s) a run")
        print(f"{session}; {len(expected.texts)} texts of at most {args.most_tokens} tokens")
        time.sleep(min(3.0, args.seconds))  # some go on with starting after they take connections
        found["idle_cpu"] = idle_shares(servers, min(2.0, args.seconds))
        print(
            "of a CPU, idle: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in found["idle_cpu"].items())
        )
        if args.latency:
            seconds = args.seconds * args.rounds
            found["latency"] = {
                each.name: added(each, servers[each.name], session, expected, seconds) for each in contenders
            }
        else:
            found["rows"] = load(contenders, servers, expected, args)
            shown = tables(found["rows"])
            print(shown)
            if args.markdown:
                args.markdown.write_text(shown + "\n", encoding="utf-8")
    if args.json:
        name = args.name or f"{session.folder.resolve().name} {session.variant}{' mixed' if args.mixed else ''}"
        with locked(args.json) as data:
            data.setdefault("kinds", {}).setdefault(kind_of(machine()), {}).setdefault(name, {}).update(found)
    return 0


def main() -> int:
    """Parse, and say in one line what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="ONNX_DIR")
    parser.add_argument("--variant", metavar="NAME", help="which form of the model (default: the best one here)")
    parser.add_argument("--mixed", action="store_true", help="let ours share runs also where texts then mix (int8)")
    parser.add_argument("--texts", type=Path, metavar="FILE", help="CSV with a column text (default: made ones)")
    parser.add_argument("--count", type=int, default=256, metavar="N", help="texts that are asked in turn")
    parser.add_argument("--most-tokens", type=int, default=16, metavar="N", help="of a text, special ones included")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64], metavar="N")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="of a turn")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of a run")
    parser.add_argument("--latency", action="store_true", help="measure what the server adds for one client")
    parser.add_argument("--litserve-python", type=Path, metavar="PATH")
    parser.add_argument("--bentoml-python", type=Path, metavar="PATH")
    parser.add_argument("--without", nargs="*", default=[], metavar="SERVER", help="names of servers to leave out")
    parser.add_argument("--serve", nargs="*", metavar="OPTION", help="more options of ours, each as --serve=--option")
    parser.add_argument("--json", type=Path, metavar="FILE", help="results are added there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the tables are written there")
    parser.add_argument("--name", help="of the results in the file (default: folder and variant)")
    try:
        return run(parser.parse_args())
    except Wrong as error:
        print(f"serve_load: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
