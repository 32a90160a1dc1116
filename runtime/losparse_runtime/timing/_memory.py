"""Child process of `peak_memory`: open one folder, run it, report the largest resident set as one line of JSON.

Its only argument is the job, as JSON: "folder", "options" (`Options.arguments()`), "batch", "length", "seed", "runs".
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ..contract.feeds import Draw
from ..errors import LosparseRuntimeError, one_line
from ..session import Session


def peak_resident_bytes(status: Path = Path("/proc/self/status")) -> int:
    """Largest resident set of this process since it started, in bytes.

    Args:
        status: the kernel's account of this process; systems without it are asked with getrusage.
    """
    # Not getrusage on Linux: a child's ru_maxrss begins with the parent's, whose memory it was a copy of before exec.
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def report(job: dict[str, Any]) -> dict[str, Any]:
    """Do the job; the report has `peak_memory_bytes`, or `error` with one line."""
    try:
        options = dict(job["options"])
        session = Session(job["folder"], options.pop("providers"), **options)
        feed = session.signature.random_feeds(Draw(job["batch"], job["length"], seed=job["seed"]))
        for _ in range(job["runs"]):
            session.run(feed)
        return {"peak_memory_bytes": peak_resident_bytes()}
    except (LosparseRuntimeError, ImportError) as error:
        return {"error": one_line(error)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(report(json.loads(sys.argv[1]))) + "\n")
