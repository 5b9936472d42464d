"""The report of an evaluation: one HTML file for people, and its figures as PNG."""
