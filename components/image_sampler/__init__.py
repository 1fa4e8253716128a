"""ImageSampler: draws the planned set of images from an image model."""
