"""The files of examples/serving say what the server has: flags, routes, limits that fit each other."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from losparse.cli.main import build_parser
from losparse.cli.serve import _settings
from losparse_runtime.ray_app.settings import parse_settings
from losparse_runtime.serving.settings import ServeSettings

from ..runtime.conftest import MakeFolder
from .conftest import Serve

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "serving"
DOCKERFILES = ["Dockerfile", "Dockerfile.cuda"]
PAUSE_S = 5
"""What a preStop sleeps."""


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((EXAMPLES / name).read_text(encoding="utf-8")))


def instructions(name: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, continued lines joined."""
    text = (EXAMPLES / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def one(name: str, instruction: str) -> str:
    (found,) = (rest for each, rest in instructions(name) if each == instruction)
    return found


def entrypoint(name: str = "Dockerfile") -> list[str]:
    words: list[str] = json.loads(one(name, "ENTRYPOINT"))
    assert words[:2] == ["losparse", "serve"]
    return words[1:]


def container(document: dict[str, Any]) -> dict[str, Any]:
    spec = document["spec"]
    pod = spec["template"]["spec"] if document["kind"] == "Deployment" else spec["predictor"]
    (found,) = pod["containers"]
    return dict(found)


def pods() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The pods of our own server, with their containers."""
    for name in ("kubernetes.yaml", "kserve.yaml"):
        for document in documents(name):
            if document["kind"] == "Deployment":
                yield document["spec"]["template"]["spec"], container(document)
            elif document["kind"] == "InferenceService":
                yield document["spec"]["predictor"], container(document)


def parsed(arguments: list[str], image: str = "Dockerfile") -> ServeSettings:
    """What the command of an image makes of arguments."""
    words = [*entrypoint(image), *arguments]
    return _settings(build_parser(words).parse_args(words))


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_command_of_an_image_is_one_of_ours(name: str) -> None:
    settings = parsed(json.loads(one(name, "CMD")), name)
    assert settings.host == "0.0.0.0" and str(settings.port) == one(name, "EXPOSE")
    assert settings.providers == (("CUDAExecutionProvider",) if "cuda" in name else ("CPUExecutionProvider",))


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_has_the_runtime_and_no_more(name: str) -> None:
    (install,) = (rest for each, rest in instructions(name) if each == "RUN" and "pip install" in rest)
    assert "-c constraints.txt" in install
    extras = set(re.findall(r'"\.\[([\w,]+)\]"', install)[0].split(","))
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras <= set(known) and extras & {"runtime", "gpu"} == ({"gpu"} if "cuda" in name else {"runtime"})
    assert not extras & {"all", "train", "export", "dev"}
    bases = [rest.split()[0] for each, rest in instructions(name) if each == "FROM"]
    assert len(bases) == 2 and all(":" in base and not base.endswith(":latest") for base in bases)
    assert not one(name, "USER").startswith(("root", "0"))
    for each, rest in instructions(name):
        if each == "COPY" and "--from" not in rest:
            assert all((ROOT / source).exists() for source in rest.split()[:-1])


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_an_image_copies_is_sent_to_its_builder(name: str) -> None:
    sent = (EXAMPLES / f"{name}.dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [
        source
        for each, rest in instructions(name)
        if each == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    ]
    assert "*" in sent and {line[1:] for line in sent if line.startswith("!")} == set(copied)


def probes() -> Iterator[str]:
    for _, each in pods():
        yield from (probe["httpGet"]["path"] for key, probe in each.items() if key.endswith("Probe"))
    for name in DOCKERFILES:
        yield from re.findall(r"http://127\.0\.0\.1:8000(/[\w/]+)", one(name, "HEALTHCHECK"))
    yield documents("kubernetes.yaml")[0]["spec"]["template"]["metadata"]["annotations"]["prometheus.io/path"]


def test_probes_are_answered_also_where_a_token_is_set(serve: Serve, make_folder: MakeFolder) -> None:
    client = serve({"small": make_folder()}, token="secret")
    asked = set(probes())
    assert {"/v2/health/live", "/v2/health/ready", "/metrics"} == asked
    assert {path: client.get(path).status_code for path in asked if "health" in path} == dict.fromkeys(
        asked - {"/metrics"}, 200
    )
    assert client.get("/metrics", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_pods_have_the_cpus_of_their_threads_and_time_to_drain() -> None:
    found = list(pods())
    assert len(found) == 2
    for pod, each in found:
        settings = parsed(each["args"])
        cpus = {each["resources"][kind]["cpu"] for kind in ("requests", "limits")}
        assert cpus == {str(settings.threads)}
        pause = PAUSE_S if "lifecycle" in each else 0
        assert pod["terminationGracePeriodSeconds"] > settings.drain_s + pause
        assert {port["containerPort"] for port in each["ports"]} == {settings.port}
        assert pod["securityContext"]["runAsNonRoot"] and each["securityContext"]["readOnlyRootFilesystem"]
        assert f"{pod['securityContext']['runAsUser']}" == one("Dockerfile", "USER").partition(":")[0]
    (sleeps,) = (each["lifecycle"]["preStop"]["exec"]["command"] for _, each in found if "lifecycle" in each)
    assert sleeps == ["sleep", str(PAUSE_S)]


def test_names_of_the_kubernetes_objects_are_those_they_ask_for() -> None:
    deployment, service, scaler, budget = documents("kubernetes.yaml")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    for selector in (deployment["spec"]["selector"]["matchLabels"], service["spec"]["selector"]):
        assert selector == labels
    assert budget["spec"]["selector"]["matchLabels"] == labels
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert deployment["spec"]["replicas"] == scaler["spec"]["minReplicas"] > budget["spec"]["minAvailable"]


def test_compose_has_the_cpus_of_its_threads_and_time_to_drain() -> None:
    (compose,) = documents("compose.yaml")
    server = compose["services"]["losparse"]
    settings = parsed(server["command"])
    assert server["cpus"] == settings.threads
    assert float(server["stop_grace_period"].removesuffix("s")) > settings.drain_s
    assert server["read_only"] and (EXAMPLES / server["build"]["context"] / server["build"]["dockerfile"]).is_file()
    (prometheus,) = documents("prometheus.yml")
    (job,) = prometheus["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"losparse:{settings.port}"]}]


def test_the_ray_example_is_one_deployment_of_ours() -> None:
    (config,) = documents("ray.yaml")
    (application,) = config["applications"]
    (deployment,) = application["deployments"]
    settings = parse_settings(application["args"])
    assert settings.name == deployment["name"]
    assert parse_settings(deployment["user_config"]).folder == settings.folder
    assert application["import_path"] == "losparse_runtime.ray_app:build"


def test_the_command_that_writes_the_repository_exists() -> None:
    text = (EXAMPLES / "kserve-triton.yaml").read_text(encoding="utf-8").replace("\n# ", " ")
    (command,) = re.findall(r"`losparse (package [^`]+)`", text)
    words = shlex.split(command)
    options = build_parser(words).parse_args(words)
    (service,) = documents("kserve-triton.yaml")
    model = service["spec"]["predictor"]["model"]
    assert options.triton and model["storageUri"].endswith(f"/{options.out}")
    assert model["resources"]["limits"]["cpu"] == str(options.threads)


def test_the_readme_names_every_file() -> None:
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w.-]+)`", text))
    files = {path.name for path in EXAMPLES.iterdir() if not path.name.endswith((".dockerignore", ".md"))}
    assert files <= named
