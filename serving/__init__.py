"""Models behind signatures: exporting, serving, asking them."""
