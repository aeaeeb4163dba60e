"""What takes candidates out of a search between its epochs."""
