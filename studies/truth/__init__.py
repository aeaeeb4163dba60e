"""The ground truth: every cell of a space trained from scratch."""
