"""The loop of M2RNN over time."""
