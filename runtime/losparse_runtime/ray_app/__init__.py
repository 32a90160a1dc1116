"""An exported folder on Ray Serve: `serve run losparse_runtime.ray_app:build folder=small-onnx`. Needs `ray[serve]`.

settings    what may be set, checked
requests    what a caller asks for
replica     a session that many callers share; knows nothing of Ray
app         a replica on Ray
deploy      the deployment
"""

from .deploy import build, deployment
from .settings import RaySettings

__all__ = ["RaySettings", "build", "deployment"]
