"""``python -m wool``: the command line."""

import sys

from wool.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
