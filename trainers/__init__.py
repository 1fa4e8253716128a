"""Models and how they are trained: tokenizer, image model, classifier."""
