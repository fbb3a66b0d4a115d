"""What studies compute: a module each, whose `run(seed, ...)` returns the measures of one cell by name."""
