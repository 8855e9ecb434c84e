"""``python -m mfa``."""

import sys

from mfa._command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
