"""`python -m buspass`: the command line where no script is installed."""

import sys

from buspass.cli import main

if __name__ == "__main__":
    sys.exit(main())
