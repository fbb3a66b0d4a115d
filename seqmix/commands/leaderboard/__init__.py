"""`seqmix leaderboard`: a file for each subcommand."""
