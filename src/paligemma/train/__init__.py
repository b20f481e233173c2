"""Training: examples and a starting model -> better weights, in stages or by transfer."""
