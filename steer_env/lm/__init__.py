"""The frozen language model: one pass a token that stops at a block, its SAE, its tokenizer, its labels."""
