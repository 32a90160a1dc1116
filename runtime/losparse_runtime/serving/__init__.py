"""An exported folder behind HTTP: what `losparse serve` starts. Needs the extra `serve`.

settings    what may be set, checked
errors      what may go wrong, and the status that says so
models      names, and the session behind each, which may be replaced while it serves
app         the FastAPI application: routes, limits, metrics
bodies      bodies of requests, inflated where they come compressed
routes      one file a group of routes
oip         the Open Inference Protocol's bodies: arrays from bytes and back
connections what a client may do with its connection
workers     processes and signals
"""
