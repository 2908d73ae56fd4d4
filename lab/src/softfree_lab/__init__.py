"""The laboratory: benchmarks and studies of softfree. It imports softfree, never the reverse."""
