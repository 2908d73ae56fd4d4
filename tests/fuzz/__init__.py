"""Damaged files against every reader: ``python -m tests.fuzz --minutes 10`` (``make fuzz``)."""
