"""ImageExampleGen: converts a collection of images to an Examples artifact."""
