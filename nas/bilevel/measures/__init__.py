"""What a search measures of itself, and what ends it then."""
