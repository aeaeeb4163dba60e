"""What ends a search: from its probabilities and shared weights to an architecture."""
