"""A trained network outside a run: exported for other programs, and asked about pictures."""
