"""The loop of the sLSTM over time."""
