"""ClassifierImporter: a network of keras.applications instead of a classifier that the run trains."""
