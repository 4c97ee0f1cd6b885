"""`python -m seqforge`, as the command `seqforge`."""

import sys

from seqforge.cli import main

if __name__ == "__main__":
    sys.exit(main())
