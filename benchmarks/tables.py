"""Write the tables of README.md and docs/ from the results files, so that every figure in them was measured.

They are the blocks between <!-- name --> and <!-- /name --> of a page.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable

import _tables_accuracy as accuracy
import _tables_bytes as sizes
import _tables_encoders as encoders
import _tables_speed as speed
from _table import ROOT

BLOCKS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {
        "speed-short": encoders.speed_short,
        "accuracy-short": accuracy.accuracy_short,
        "worth": encoders.worth,
    },
    "docs/speed.md": {
        "encoders": encoders.encoders,
        "bytes": sizes.bytes_by_part,
        "latency": speed.latency,
        "front": speed.front,
        "times": speed.times,
    },
    "docs/accuracy.md": {
        "sst2": accuracy.sst2,
        "finetuned": accuracy.finetuned,
        "oneshot-lm": accuracy.oneshot_lm,
        "oneshot-embed": accuracy.oneshot_embed,
        "training-cost": speed.training_cost,
    },
}


def render(page: str, text: str) -> str:
    """Return a page with its blocks filled in.

    Raises:
        ValueError: a block has no place in the page.
    """
    for name, block in BLOCKS[page].items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        filled = block()
        text, places = pattern.subn(lambda m, body=filled: m[1] + (body + "\n" if body else "") + m[2], text)
        if places != 1:
            raise ValueError(f"{page}: block {name!r} must stand there once, found {places} times")
    return text


def main() -> int:
    """Rewrite or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page is not what they say")
    check = parser.parse_args().check
    changed = False
    for page in BLOCKS:
        path = ROOT / page
        old = path.read_text(encoding="utf-8")
        new = render(page, old)
        changed |= new != old
        if not check:
            path.write_text(new, encoding="utf-8")
    return int(changed and check)


if __name__ == "__main__":
    sys.exit(main())
