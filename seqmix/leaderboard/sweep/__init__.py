"""Sweeps: every run of a plan that a file of records does not have yet."""
