"""The pipeline's own TFX components; they meet models only through their SavedModel signatures."""
