"""The command line. Everything heavy is imported when a command runs."""
