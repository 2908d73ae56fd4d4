"""Public data sets: from the official download to a table for ``softfree train``."""
