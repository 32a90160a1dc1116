"""FastAPI and onnxruntime, as most people begin: `python plain_fastapi.py PORT SETTINGS`."""

from __future__ import annotations

import json
import sys
from typing import Any

import uvicorn
from classifier import Classifier
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
classifier = Classifier(**json.loads(sys.argv[2]))


class Body(BaseModel):
    """A text."""

    text: str


@app.post("/classify")
def classify(body: Body) -> dict[str, Any]:
    """Classify it; FastAPI runs this in a thread of its pool."""
    return classifier([body.text])[0]


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="warning")
