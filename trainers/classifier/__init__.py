"""The domain classifier, whose features FID and Inception Score are measured in."""
