"""TokenTransform: encodes images to tokens once, before the image model is trained on them."""
