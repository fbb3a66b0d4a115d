"""Fixed points over whole sequences: what the recurrences of both layers share, and the recurrences themselves."""
