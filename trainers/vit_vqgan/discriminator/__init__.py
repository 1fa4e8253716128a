"""The adversary's networks: pixels in, logits out, above 0 for what looks real."""
