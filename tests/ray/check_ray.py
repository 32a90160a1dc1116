"""Serve folders with a local Ray: two replicas, one killed under load; another folder, and a broken one, under load.

Then more requests than are taken, and replicas that come and go with them.

python tests/ray/check_ray.py OUT

It has two CPUs, no dashboard, and stops by itself. Requests go to the loopback alone.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}  # this machine alone, and tell nobody

import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ServeDeploySchema

from losparse_runtime import InputError, Session

CPUS = 2
STORE_BYTES = 80 * 1024 * 1024
LONG_S = 90.0  # of anything that is waited for
CLIENTS = 8
WORDS = ["a", "b", "c", "d", "e", "f", "g"]
# Sums of the same numbers in another order: a row may have been padded beside others.
CLOSE = 1e-6
APP = "app"
OPTIONS = {"min_replicas": "2", "max_replicas": "2", "cpus": "1"}  # texts, as on a command line


class Load:
    """Clients that ask without a pause, half of them over HTTP and half by a handle, and judge every answer."""

    def __init__(self, handle: Any, port: int, wanted: list[dict[str, dict[str, float]]]) -> None:
        self.outcomes: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self._ended = 0
        self._handle = handle
        self._port = port
        self._wanted = wanted
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(LONG_S)
        assert not any(thread.is_alive() for thread in self._threads), "a request was never answered"
        assert self._ended == CLIENTS, "a client ended by an error of another kind: it is printed above"

    @property
    def right(self) -> int:
        return sum(count for outcome, count in self.outcomes.items() if outcome.startswith("right"))

    def after(self, more: int) -> None:
        """Wait until so many more answers were right."""
        goal = self.right + more
        until(lambda: self.right >= goal, f"{more} more right answers; so far {self.outcomes} {self.errors}")

    def _ask(self, number: int) -> None:
        random_texts = random.Random(number)
        texts_of_all = list(self._wanted[0])
        while not self._stop.is_set():
            texts = random_texts.sample(texts_of_all, random_texts.randint(1, 4))
            outcome, error = self._judged(texts, over_http=number % 2 == 0)
            time.sleep(0.01 if error else 0)  # whoever is refused comes back a little later
            with self._lock:
                self.outcomes[outcome] += 1
                if error:
                    self.errors[error] += 1
        with self._lock:
            self._ended += 1

    def _judged(self, texts: list[str], *, over_http: bool) -> tuple[str, str]:
        """Return what an answer was: "right, of model N", "wrong" or "error", and the error."""
        try:
            if over_http:
                found = [each["scores"] for each in post(self._port, {"texts": texts})["results"]]
            else:
                results = self._handle.do.remote(texts=texts).result(timeout_s=LONG_S)
                found = [each.scores for each in results]
        except urllib.error.HTTPError as error:
            return "error", f"HTTP {error.code} {error.read().decode().partition('(')[0].strip()[:80]}"
        except (ray.exceptions.RayError, RayServeException, ConnectionError) as error:
            return "error", type(error).__name__
        for number, wanted in enumerate(self._wanted):
            if all(near(scores, wanted[text]) for scores, text in zip(found, texts, strict=True)):
                return f"right, of model {number}", ""
        return "wrong", ""


def near(found: dict[str, float], wanted: dict[str, float]) -> bool:
    return found.keys() == wanted.keys() and all(abs(found[key] - wanted[key]) <= CLOSE for key in wanted)


def post(port: int, body: Any) -> Any:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=LONG_S) as answer:
        return json.load(answer)


def get(port: int) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=LONG_S) as answer:
        return json.load(answer)


def until(holds: Callable[[], bool], what: str) -> float:
    """Wait until something holds; returns the seconds that it took."""
    begin = time.monotonic()
    while not holds():
        assert time.monotonic() - begin < LONG_S, f"not within {LONG_S:g} s: {what}"
        time.sleep(0.05)
    return time.monotonic() - begin


def running() -> int:
    """Return how many replicas run."""
    applications = serve.status().applications
    deployments = applications[APP].deployments if APP in applications else {}
    return sum(each.replica_states.get("RUNNING", 0) for each in deployments.values())


def status() -> str:
    return str(serve.status().applications[APP].status.value)


def replicas() -> list[str]:
    named = ray.util.list_named_actors(all_namespaces=True)
    return [each["name"] for each in named if each["name"].startswith(f"SERVE_REPLICA::{APP}#")]


def pid_of(name: str) -> int:
    actor = ray.get_actor(name, namespace="serve")
    return int(ray.get(actor.__ray_call__.remote(lambda _: os.getpid()), timeout=LONG_S))


@contextmanager
def cluster() -> Iterator[int]:
    """Start Ray and its HTTP proxy on a free port, and stop both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    ray.init(num_cpus=CPUS, object_store_memory=STORE_BYTES, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield port
    finally:
        serve.shutdown()
        ray.shutdown()


def answers(folder: Path, texts: list[str]) -> dict[str, dict[str, float]]:
    with Session(folder, threads=1) as session:
        return {text: session.classify([text])[0].scores for text in texts}


def check_refusals(port: int, handle: Any) -> None:
    for body, words in (({"text": ["a"]}, "classify takes texts"), ([], "must be an object")):
        try:
            post(port, body)
            raise AssertionError(f"{body} was taken")
        except urllib.error.HTTPError as error:
            said = json.load(error)["error"]
            assert error.code == 400 and words in said, (error.code, said)
    try:
        handle.do.remote(texts=[1]).result(timeout_s=LONG_S)
        raise AssertionError("a number was taken for a text")
    except InputError as error:  # Ray's error is one of ours too
        assert "must hold strings only" in str(error)
    print("refusals: 400 with one line, InputError by a handle")


def check_kill(load: Load) -> None:
    """Kill a replica: what it had under way fails clearly, nothing is wrong or lost, and there are two again."""
    before = set(replicas())
    load.after(200)
    errors = load.errors.total()
    os.kill(pid_of(min(before)), signal.SIGKILL)
    until(lambda: set(replicas()) != before, "Ray sees that a replica is gone")
    took = until(lambda: running() == 2 and len(set(replicas()) - before) == 1, "two replicas again")
    failed = load.errors.total() - errors
    load.after(200)
    late = load.errors.total() - errors - failed
    assert failed <= 64 and not late, (load.errors, late)  # what one replica takes at a time is 64
    print(f"a replica killed -9: {failed} requests failed ({dict(load.errors)}), two again {took:.1f} s later")


def deploy(config: dict[str, Any]) -> None:
    """Give Ray a configuration file's contents, as `serve deploy` does; its own way there needs the dashboard."""
    application = {"name": APP, "route_prefix": "/", "import_path": "losparse_runtime.ray_app:build", **config}
    _get_global_client().deploy_apps(ServeDeploySchema(applications=[application]))


def check_replacement(load: Load, port: int, out: Path, config: dict[str, Any]) -> None:
    """Deploy another folder, then a broken one: running replicas take the one and refuse the other; nobody notices."""
    before, errors = set(replicas()), load.errors.total()
    deploy({**config, "deployments": [{"name": "losparse", "user_config": {**OPTIONS, "folder": str(out / "second")}}]})
    until(lambda: load.outcomes["right, of model 1"] > 0, "the new model answers")
    load.after(50)
    until(lambda: status() == "RUNNING", "the deployment is done")
    old = load.outcomes["right, of model 0"]
    load.after(200)
    assert load.outcomes["right, of model 0"] == old, "the old model answered behind the new one"
    assert set(replicas()) == before and load.errors.total() == errors, (before, replicas(), load.errors)
    print("another folder: no request failed, the same replicas")
    deploy({**config, "deployments": [{"name": "losparse", "user_config": {**OPTIONS, "folder": str(out / "broken")}}]})
    refused = until(
        lambda: "model.onnx: must have" in str(get(port)["refused"]) and status() == "RUNNING", "it is refused"
    )
    load.after(200)
    assert load.outcomes["right, of model 0"] == old and load.errors.total() == errors, load.errors
    assert set(replicas()) == before, (before, replicas())
    print(f"a broken folder: refused after {refused:.1f} s, no request failed, the same replicas")


def check_overload(load_of: Callable[[], Load], folder: str) -> None:
    """Take one request at a time and let one wait: of eight clients' every request is right, or refused as busy."""
    deploy({"args": {**OPTIONS, "folder": folder, "max_ongoing": "1", "max_queued": "1"}})
    until(lambda: status() == "RUNNING" and running() == 2, "two replicas")
    with load_of() as load:
        until(lambda: load.errors.total() >= 100 and load.right >= 100, "refusals beside right answers")
    assert not load.outcomes["wrong"] and all("503" in said or "BackPressure" in said for said in load.errors), (
        load.errors
    )
    print(f"overload: {load.right} right, {load.errors.total()} refused ({', '.join(load.errors)})")


def check_autoscaling(load_of: Callable[[], Load], folder: str) -> None:
    """Begin with one replica; clients make it two, and their absence one again."""
    quick = {"upscale_delay_s": 1, "downscale_delay_s": 2, "metrics_interval_s": 1, "look_back_period_s": 2}
    args = {**OPTIONS, "folder": folder, "min_replicas": "1", "target_ongoing": "1"}
    bounds = {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 1}
    deploy({"args": args, "deployments": [{"name": "losparse", "autoscaling_config": {**bounds, **quick}}]})
    until(lambda: status() == "RUNNING" and running() == 1, "one replica")
    with load_of() as load:
        more = until(lambda: running() == 2, "a second replica")
        load.after(100)
    assert not load.outcomes["wrong"] and not load.errors, load.errors
    less = until(lambda: running() == 1, "one replica again")
    print(f"autoscaling: two replicas {more:.1f} s after the first request, one again {less:.1f} s after the last")


def main() -> int:
    """Check all; an assertion says what failed."""
    out = Path(sys.argv[1]).resolve()
    generator = random.Random(0)
    texts = [" ".join(generator.choices(WORDS, k=generator.randint(1, 12))) for _ in range(50)]
    wanted = [answers(out / name, texts) for name in ("first", "second")]
    config = {"args": {**OPTIONS, "folder": str(out / "first")}}
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # a line for every refusal is too much
    begin = time.monotonic()
    with cluster() as port:
        deploy(config)
        until(lambda: running() == 2 and status() == "RUNNING", "two replicas")
        handle = serve.get_app_handle(APP)
        print(f"two replicas after {time.monotonic() - begin:.1f} s")
        check_refusals(port, handle)
        with Load(handle, port, wanted) as load:
            check_kill(load)
            check_replacement(load, port, out, config)
        assert not load.outcomes["wrong"], load.outcomes
        check_overload(lambda: Load(handle, port, wanted), str(out / "first"))
        check_autoscaling(lambda: Load(handle, port, wanted), str(out / "first"))
        print(f"{load.outcomes.total()} requests: {dict(load.outcomes)}")
    print(f"ray {version('ray')}, onnxruntime {version('onnxruntime')}, {time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
