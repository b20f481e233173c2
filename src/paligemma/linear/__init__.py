"""Other kinds of `nn.Linear` and how to swap them in: quantised ones and low-rank adapters. Knows no model."""
