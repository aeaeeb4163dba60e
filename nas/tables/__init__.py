"""What is known about every architecture of a space."""
