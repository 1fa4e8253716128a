"""The domain classifier, in whose feature space drawn images are judged."""
