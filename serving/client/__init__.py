"""Clients of the two models: over gRPC, over REST, or straight from a folder."""
