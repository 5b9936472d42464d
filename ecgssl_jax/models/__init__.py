"""Encoders and heads. The only user of flax.linen."""
