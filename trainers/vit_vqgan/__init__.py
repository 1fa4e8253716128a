"""Stage 1: the tokenizer ViT-VQGAN."""
