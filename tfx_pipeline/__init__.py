"""The graph, its configuration, and the ways to run it."""
