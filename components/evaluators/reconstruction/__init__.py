"""How well the tokenizer gives held-out images back."""
