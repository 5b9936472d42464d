"""Training objectives behind one contract (`methods.base`)."""
