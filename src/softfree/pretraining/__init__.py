"""Training an encoder on images without labels, for ``softfree train --weights``."""
