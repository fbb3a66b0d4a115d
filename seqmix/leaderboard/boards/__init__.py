"""Boards: which runs make one, at which sizes, and what others bring for it."""
