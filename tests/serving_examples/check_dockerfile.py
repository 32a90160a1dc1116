"""Do by hand what a Dockerfile does, where no image can be built: its steps, its command, its health check.

    python tests/serving_examples/check_dockerfile.py WORK FOLDER

The files it copies are copied to WORK/src and nothing else is there; its RUN lines put their environment below WORK
instead of /opt. Then its command serves FOLDER, its health check passes, one request is answered, and SIGTERM ends the
server with 0. Users are not changed, and the base image is the Python that runs this.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "examples" / "serving" / "Dockerfile"
HEAVY = {"torch", "transformers", "onnx", "datasets", "scipy"}
LONG_S = 60.0


def instructions() -> list[tuple[str, str]]:
    """The instructions, continued lines joined."""
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def build(work: Path) -> Path:
    """Do the steps of the first stage; returns the environment they made."""
    source, environment = work / "src", work / "losparse"
    source.mkdir(parents=True)
    steps = instructions()
    second = [place for place, (name, _) in enumerate(steps) if name == "FROM"][1]
    for name, rest in steps[:second]:
        if name == "COPY":
            *files, target = rest.split()
            for file in files:
                place = source / target / file if target == "./" else source / target
                if (ROOT / file).is_dir():
                    shutil.copytree(ROOT / file, place, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / file, place)
        elif name == "RUN":
            line = rest.replace("/opt/losparse", str(environment)).replace(
                "python -m venv", f"{sys.executable} -m venv"
            )
            subprocess.run(["bash", "-euc", line], cwd=source, check=True)
    return environment


def check_contents(environment: Path) -> None:
    """Say what was installed, and refuse what a serving machine has not."""
    listed = subprocess.run(
        [environment / "bin" / "python", "-m", "pip", "list", "--format=json"], capture_output=True, check=True
    )
    names = {each["name"].lower() for each in json.loads(listed.stdout)}
    assert not names & HEAVY, names & HEAVY
    subprocess.run([environment / "bin" / "python", "-m", "pip", "check"], check=True)
    size = sum(file.stat().st_size for file in environment.rglob("*") if file.is_file() and not file.is_symlink())
    print(f"{len(names)} packages, {size / 1e6:.0f} MB")


def serve(environment: Path, folder: Path) -> None:
    """Start the command of the image, wait for its health check, ask it, and end it."""
    found = dict(instructions())
    command = [*json.loads(found["ENTRYPOINT"]), *json.loads(found["CMD"])]
    port = found["EXPOSE"]
    check = json.loads(found["HEALTHCHECK"].partition(" CMD ")[2])
    path = {"PATH": f"{environment / 'bin'}:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    # The loopback alone is listened on here: an image has a network of its own.
    server = subprocess.Popen([*command, "--host", "127.0.0.1"], cwd=folder.parent, env=path)
    try:
        begin = time.monotonic()
        while subprocess.run(check, env=path, stderr=subprocess.DEVNULL, check=False).returncode:
            assert server.poll() is None and time.monotonic() - begin < LONG_S, "the health check never passed"
            time.sleep(0.1)
        print(f"healthy after {time.monotonic() - begin:.1f} s")
        body = json.dumps({"texts": ["a b"]}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/classify", body, timeout=LONG_S) as answer:
            print(answer.read().decode())
        server.send_signal(signal.SIGTERM)
        code = server.wait(LONG_S)
        assert code == 0, f"SIGTERM ended it with {code}"
        print("SIGTERM ends it with 0")
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


def main() -> int:
    """Check all; an assertion says what failed."""
    work, folder = map(Path, sys.argv[1:3])
    shutil.rmtree(work, ignore_errors=True)
    environment = build(work.resolve())
    check_contents(environment)
    (work / "models").mkdir()
    place = work.resolve() / "models" / json.loads(dict(instructions())["CMD"])[0]
    shutil.copytree(folder, place)
    serve(environment, place)
    return 0


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
