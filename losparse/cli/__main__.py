"""`python -m losparse.cli`: the same as the console command."""

from __future__ import annotations

import sys

from .main import main

sys.exit(main())
