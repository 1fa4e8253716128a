"""The perceptual loss: how far apart two images are to a network that has learned to see."""
