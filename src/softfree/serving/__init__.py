"""A server for trained models: HTTP API and page, reading room, DICOM node (``softfree serve``).

The HTTP process imports neither torch nor pandas. Files are decoded and models run in worker processes with limits of
memory and time.
"""
