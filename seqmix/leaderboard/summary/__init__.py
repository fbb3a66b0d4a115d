"""What can be said about many runs: statistics, ranks, cells and summaries."""
