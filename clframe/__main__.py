"""`python -m clframe` is the command line."""

import sys

from clframe.cli import main

if __name__ == "__main__":
    sys.exit(main())
