"""From a table to a run directory."""
