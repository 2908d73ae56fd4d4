"""Benchmark of archives: overhead, throughput, memory, kills, Ray, object stores, the index, and what follows of it."""

from softfree_lab.bench.archive.command import bench_archive as bench_archive
