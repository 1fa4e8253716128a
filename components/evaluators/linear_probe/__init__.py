"""How much of the classes the image model's blocks know, unasked."""
