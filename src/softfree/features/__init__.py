"""From whole slides to files with the features of their tiles."""
