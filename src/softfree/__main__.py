"""``python -m softfree`` is ``softfree``."""

import sys

from softfree.cli import main

sys.exit(main())
