"""Bulk work over an archive: resumable, in blocks, by several processes, with one row for each input."""
