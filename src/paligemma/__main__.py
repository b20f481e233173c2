"""`python -m paligemma`: the same as the `paligemma` command."""

import sys

from paligemma.interfaces.cli import main

if __name__ == "__main__":
    sys.exit(main())
