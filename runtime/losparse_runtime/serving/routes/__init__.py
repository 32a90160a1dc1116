"""Routes of the server, a group in each file: `router(models, settings)` returns it."""
