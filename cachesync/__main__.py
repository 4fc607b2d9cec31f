"""``python -m cachesync``: the command line."""

import sys

from cachesync.cli import main

if __name__ == "__main__":
    sys.exit(main())
