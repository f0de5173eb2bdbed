"""Circuits of single weights: what is kept of a model's blocks, what it is worth, and editing inside of it."""
