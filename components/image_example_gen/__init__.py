"""ImageExampleGen: a collection of images becomes an Examples artifact."""
