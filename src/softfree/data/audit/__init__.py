"""What is wrong with a table before training: one probe per sample, checks, near-duplicates, confounders."""
