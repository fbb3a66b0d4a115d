"""The GRU's loop over time, as one op."""
