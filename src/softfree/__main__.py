"""``python -m softfree`` is ``softfree``."""

import sys

from softfree.cli.main import main

sys.exit(main())
