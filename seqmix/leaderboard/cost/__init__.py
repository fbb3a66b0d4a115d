"""What a model costs: operations, memory, size."""
