"""What judges the models: each a TFX component that meets them through their signatures alone."""
