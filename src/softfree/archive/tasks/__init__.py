"""The tasks of bulk work, one per command."""
