"""The subcommands of `seqmix bench`: each module adds its parser, and says what it runs."""
