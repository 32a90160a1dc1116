# What the checks of installed packages share; sourced with `work` set to a folder of their own.
fail() { echo "FAILED: $*" >&2; exit 1; }
has() { "$work/$1/bin/python" -m pip show --quiet "$2" 2>/dev/null; }

# empty NAME PYTHON: an environment with nothing in it but pip.
empty() { "$2" -m venv "$work/$1" || python3 -m venv "$work/$1"; }

# install NAME WHAT: into an environment, in the versions of constraints.txt.
install() { "$work/$1/bin/python" -m pip install --quiet -c constraints.txt "$2"; }

# in_env NAME COMMAND...: a command of an environment, away from the sources, which it does not see.
in_env() { (cd "$work" && env -u PYTHONPATH "$work/$1/bin/$2" "${@:3}"); }

# runs_without_torch NAME FOLDER: an exported folder runs by command and in a program, away from the sources.
runs_without_torch() {
  has "$1" torch && fail "$1 brings torch"
  in_env "$1" losparse run "$2" "a fine film" >"$work/said" || fail "losparse run does not work in $1"
  [ -s "$work/said" ] || fail "losparse run says nothing in $1"
  in_env "$1" python -W error - "$2" <<'PY' || fail "losparse_runtime does not work in $1"
import sys
import numpy as np
import losparse, losparse_runtime
from losparse_runtime import Draw, Session
session = Session(sys.argv[1], threads=1)
outputs = session.run(session.signature.random_feeds(Draw(batch=2, length=8)))
assert outputs and all(np.isfinite(values).all() for values in outputs.values()), outputs
assert {name for name in losparse_runtime.__all__ if not hasattr(losparse_runtime, name)} == set()
assert "torch" not in sys.modules
PY
}
