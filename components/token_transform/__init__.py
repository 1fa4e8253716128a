"""TokenTransform: images become tokens, once, before the image model is trained on them."""
