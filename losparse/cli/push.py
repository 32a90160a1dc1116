"""`losparse push OUT REPO`: an exported folder as a model on the hub. Loads no torch."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..publishing.settings import CardSettings
from .output import human_bytes, print_table
from .parser import add_dataclass_flags, given


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("folder", type=Path, metavar="OUT", help="what `losparse export` or `losparse build` wrote")
    parser.add_argument("repo", metavar="REPO", help="hub id, owner/name; made where there is none")
    parser.add_argument(
        "--private",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether a repository that is made is private (default: what its owner has set)",
    )
    parser.add_argument("--revision", metavar="NAME", help="branch; made where there is none (default main)")
    parser.add_argument("--message", metavar="TEXT", help="of the commit")
    parser.add_argument(
        "--dry-run", action="store_true", help="send nothing: write the card, README.md, and list the files"
    )
    add_dataclass_flags(parser, "card", CardSettings)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Push, and print what was sent. The token is that of `hf auth login`, or of HF_TOKEN."""
    from ..publishing.hub import push_to_hub

    message = {} if options.message is None else {"message": options.message}
    done = push_to_hub(
        options.folder,
        options.repo,
        CardSettings(**given(options, "card")),
        private=options.private,
        revision=options.revision,
        dry_run=options.dry_run,
        **message,
    )
    sent = "would be sent" if done.url is None else "sent"
    rows = [[name, human_bytes(size)] for name, size in done.files.items()]
    print_table(f"{done.folder}: {sent} to {done.repo}", ["file", "size"], rows)
    for name in done.removed:
        print(f"removed there: {name}")
    if done.url is None:
        print(f"the card is {done.folder / 'README.md'}; change it as you like: it is sent as it stands")
    else:
        print(done.url)
    return 0
