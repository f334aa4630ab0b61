"""Figures: arrays or tensors in, a matplotlib figure out that shows itself."""
