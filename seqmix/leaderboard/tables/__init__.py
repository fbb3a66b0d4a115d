"""Tables of runs in Markdown."""
