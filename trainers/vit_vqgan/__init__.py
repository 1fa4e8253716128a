"""Stage 1: the image tokenizer ViT-VQGAN."""
