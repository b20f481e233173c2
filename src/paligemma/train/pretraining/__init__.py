"""How nano begins: random weights, stage 0, packed questions about drawn scenes."""
