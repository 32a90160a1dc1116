"""The same behind LitServe: `python litserve_app.py PORT SETTINGS MAX_BATCH TIMEOUT_S`; MAX_BATCH 1 for no batching."""

from __future__ import annotations

import json
import sys
from typing import Any

import litserve
from classifier import Classifier


class Api(litserve.LitAPI):
    """Classifies texts."""

    def setup(self, device: str) -> None:
        """Open the model in the worker's process."""
        self.classifier = Classifier(**json.loads(sys.argv[2]))

    def decode_request(self, request: dict[str, str]) -> str:
        """Take the text out of a body."""
        return request["text"]

    def predict(self, x: Any) -> Any:
        """Classify one text, or those of a batch."""
        return self.classifier([x])[0] if isinstance(x, str) else self.classifier(x)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """Return the result as it is."""
        return output


if __name__ == "__main__":
    api = Api(max_batch_size=int(sys.argv[3]), batch_timeout=float(sys.argv[4]))
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=len(sys.argv) > 5)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
