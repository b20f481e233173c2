"""What one sees of a run: terminal, logs, curves, trackers, sample pictures, the model card."""
