"""``python -m wool.worker``: a worker process. Started by its owner, not by hand."""

import sys

from wool.worker.process import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
