"""Readers of raw recordings: one file for each kind of source."""
