"""TokenizerImporter: a tokenizer of somebody else's takes the place of stage 1."""
