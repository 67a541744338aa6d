"""The command. It also defines the one routine that must stand in ``__main__``, and so travels by value."""

if __name__ == "__main__":
    import sys

    import wool
    from bench.command import main

    @wool.routine
    async def nothing() -> None:
        """Return; the worker cannot import this."""

    sys.exit(main(nothing))
