"""TokenizerImporter: imports a tokenizer SavedModel instead of training one in stage 1."""
