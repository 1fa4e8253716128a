"""CNN-VQGAN: the convolutional encoder and decoder that ViT-VQGAN is measured against (Table 1)."""
