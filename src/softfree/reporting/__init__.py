"""From a run and a table to scores, figures and the report."""
