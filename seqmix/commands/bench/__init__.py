"""`seqmix bench`: a file for each subcommand."""
