"""How callers find workers: the shapes in `base`, shared memory in `local`."""
