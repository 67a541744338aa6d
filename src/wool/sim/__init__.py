"""The simulator: a whole cluster in one process, in virtual time."""
