"""A dense model in OpenVINO, to be timed beside sessions: what a user gets for nothing on many CPUs.

    with OpenVino("dense-onnx", "int8", python="/path/to/python") as opponent:
        measure({"dense": Session("dense-onnx", threads=1), "openvino int8": opponent}, memory=False)

OpenVINO runs in a process of its own, so this package does not need it: any Python that has `openvino` will do, and for
int8 `nncf`. The process waits while others are timed, and tells the time of its own run, so that the way there does not
count. It is told to answer one call at a time, on one stream: latency, as a session is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

from numpy.typing import NDArray

from ..contract.config import read_model_config
from ..contract.feeds import Draw
from ..contract.files import read_metadata
from ..contract.metadata import Metadata
from ..contract.signature import Signature
from ..contract.tensors import Arrays
from ..errors import InputError, RunError
from . import _openvino_worker
from ._openvino_worker import receive, send

PRECISIONS = ("f32", "bf16", "int8")

# Texts and tokens of the runs on random tokens that int8 is calibrated on: speed hardly depends on them.
_CALIBRATION = ((1, 16), (1, 128), (2, 64), (2, 32))


@dataclass(frozen=True)
class OpenVinoFacts:
    """What a Python can do with OpenVINO on this machine.

    Attributes:
        versions: of openvino and, where it is there, nncf.
        precisions: of `PRECISIONS`, those that the CPU and the packages have: bf16 needs a CPU with it, int8 nncf.
    """

    versions: Mapping[str, str]
    precisions: tuple[str, ...]


def openvino_python(python: str | Path | None = None) -> str:
    """Return the Python that is asked for OpenVINO: this one, $LOSPARSE_OPENVINO_PYTHON, or the first of them given."""
    return str(python or os.environ.get("LOSPARSE_OPENVINO_PYTHON") or sys.executable)


def find_openvino(python: str | Path | None = None) -> OpenVinoFacts | None:
    """Return what a Python can do with OpenVINO, or None where it has none.

    Args:
        python: the interpreter; see `openvino_python`.

    Raises:
        InputError: the interpreter cannot be started.
    """
    process = _Process(openvino_python(python))
    try:
        return _facts(process.ask({"model": "", "precision": "f32", "threads": 1}))
    except RunError:
        return None
    finally:
        process.close()


class OpenVino:
    """One exported folder, open in OpenVINO in a process of its own; `measure` takes it beside sessions.

    Args:
        folder: a folder that `losparse export` wrote, in fp32: any operator of onnxruntime's own is refused.
        precision: "f32", "bf16", or "int8": quantised by NNCF after training, in one call, calibrated on random tokens;
            what it leaves in floating point OpenVINO runs in the precision that it likes best.
        threads: of one run.
        python: the interpreter that has OpenVINO; see `openvino_python`.

    Attributes:
        metadata: what the folder says.
        signature: what the model takes.
        facts: versions and precisions.

    Raises:
        FolderError: the folder is missing or damaged.
        InputError: there is no such precision, or the interpreter cannot be started.
        RunError: OpenVINO is not there, or refuses the model.
    """

    def __init__(
        self, folder: Path | str, precision: str, *, threads: int = 1, python: str | Path | None = None
    ) -> None:
        if precision not in PRECISIONS:
            raise InputError(f"precision must be one of {', '.join(PRECISIONS)} for OpenVINO, got {precision!r}")
        self.folder, self.precision = Path(folder), precision
        self.metadata: Metadata = read_metadata(self.folder)
        limits = read_model_config(self.folder).vocabulary, self.metadata.max_length
        self.signature: Signature = self.metadata.signature.within(*limits)
        self._process = _Process(openvino_python(python))
        job = {"model": str(self.folder / self.metadata.model.file), "precision": precision, "threads": threads}
        try:
            self.facts = _facts(self._process.ask(job, self._calibration() if precision == "int8" else {}))
        except BaseException:
            self.close()
            raise

    def _calibration(self) -> Arrays:
        """Return the inputs of all calibration runs, each under the number of its run."""
        arrays: Arrays = {}
        for run, (batch, length) in enumerate(_CALIBRATION):
            draw = Draw(batch, min(length, self.max_length), seed=run, padding="drawn")
            arrays |= {f"{run}/{name}": array for name, array in self.signature.random_feeds(draw).items()}
        return arrays

    @property
    def max_length(self) -> int:
        """Positions the model has, in tokens."""
        return self.metadata.max_length

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Run the model once; see `Session.run`.

        Raises:
            InputError: an input is wrong.
            RunError: the model failed.
        """
        return self._process.ask({"do": "run"}, self.signature.check(inputs))[1]

    def seconds(self, inputs: Mapping[str, NDArray[Any]]) -> float:
        """Run the model once, and return how long that took it, in seconds; the way to its process does not count.

        Raises:
            InputError: an input is wrong.
            RunError: the model failed.
        """
        return float(self._process.ask({"do": "time"}, self.signature.check(inputs))[0]["seconds"])

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self.close()


class _Process:
    """The worker, and the pipe to it."""

    def __init__(self, python: str) -> None:
        self._python = python
        # NNCF and OpenVINO report their use to their makers; NNCF not where this is set.
        environment = {**os.environ, "NNCF_CI": "1"}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the process)
        try:
            self._process = subprocess.Popen(
                [python, "-P", _openvino_worker.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=environment,
            )
        except OSError as error:
            self._errors.close()
            raise InputError(
                f"the Python that has OpenVINO cannot be started: {python} ({error.strerror}); name another"
            ) from error

    def ask(self, head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]] | None = None) -> tuple[Any, Arrays]:
        """Send a request and wait for its answer."""
        try:
            send(cast(BinaryIO, self._process.stdin), head, arrays or {})
            answer = receive(cast(BinaryIO, self._process.stdout))
        except (OSError, json.JSONDecodeError) as error:
            raise RunError(f"OpenVINO in {self._python}: {self._last_words() or error}") from error
        if answer is None:
            raise RunError(f"OpenVINO in {self._python}: its process ended: {self._last_words()}")
        if "error" in answer[0]:
            raise RunError(f"OpenVINO in {self._python}: {answer[0]['error']}")
        return answer

    def _last_words(self) -> str:
        """Return the last line that the process wrote to its error stream."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it said nothing")

    def close(self) -> None:
        """End the process: it stops where nobody asks any more."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                try:
                    pipe.close()
                except OSError:  # what was not sent yet to a process that is gone
                    continue
        self._process.wait()
        self._errors.close()


def _facts(answer: tuple[Any, Arrays]) -> OpenVinoFacts:
    return OpenVinoFacts(answer[0]["versions"], tuple(answer[0]["precisions"]))
