"""Records: what one run was and what came of it, on one line of a file."""
