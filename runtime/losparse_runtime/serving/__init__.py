"""An exported folder behind HTTP: what `losparse serve` starts. Needs the extra `serve`.

settings    what may be set, checked
errors      what may go wrong, and the status that says so
models      names, and the session behind each, which may be replaced while it serves
app         the FastAPI application: routes, limits, metrics
routes      one file a group of routes
workers     processes and signals
"""
