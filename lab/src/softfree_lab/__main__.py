"""``python -m softfree_lab`` is ``softfree-lab``."""

import sys

from softfree_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
