"""Benchmarks: one command each, which prints one table."""
