"""How messages move: the shapes in `base`, real in `grpc`, in memory in `memory`."""
