"""Circuits as files: one file for each format."""
