"""The example workflows are YAML, and have what both systems want; `make check-workflows` asks their schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

CI = Path(__file__).parent.parent / "examples" / "ci"


def read(name: str) -> dict[str, Any]:
    data = yaml.safe_load((CI / name).read_text(encoding="utf-8"))
    assert isinstance(data, dict)
    return data


def test_github_jobs_have_runners_and_steps() -> None:
    data = read("github.yml")
    assert True in data or "on" in data  # YAML 1.1 reads the key `on` as true
    for job in data["jobs"].values():
        assert job["runs-on"] and job["timeout-minutes"] > 0
        assert all(("uses" in step) != ("run" in step) for step in job["steps"])


def test_gitlab_jobs_have_stages_and_scripts() -> None:
    data = read("gitlab.yml")
    jobs = {name: job for name, job in data.items() if name != "stages"}
    assert [job["stage"] for job in jobs.values()] == data["stages"]
    assert all(job["script"] and job["image"] for job in jobs.values())


def test_both_run_the_same_commands() -> None:
    said = [(CI / name).read_text(encoding="utf-8") for name in ("github.yml", "gitlab.yml")]
    for command in ("losparse build recipe.yaml built", "pytest tests/test_model.py --junitxml=junit.xml", "report.md"):
        assert all(command in text for text in said)
    compile((CI / "test_model.py").read_text(encoding="utf-8"), "test_model.py", "exec")
