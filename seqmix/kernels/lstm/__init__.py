"""The LSTM's loop over time, as one op."""
