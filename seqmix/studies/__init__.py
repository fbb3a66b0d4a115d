"""Studies: experiments with their own plan, table and figure."""
