"""Dense layers, layer norms whose gradient takes few passes, and what tokens exist.

XLA compiles JAX's own gradient of the norm into passes that broadcast whole
activations. This one computes the same values.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def existing(length: jax.Array, count: int, stride: int) -> jax.Array:
    """[B, count] bool: which of the tokens begin within records of `length` samples.

    Args:
      length: [B] int32.
      stride: samples from one token to the next.
    """
    return jnp.arange(count) * stride < length[:, None]


def split_rows(x: jax.Array) -> jax.Array:
    """`x` [B, ...] itself, its rows over the mesh's data and fsdp axes.

    Without a mesh (`jax.sharding.use_abstract_mesh`) it may lie anywhere. The compiler
    would come to that by itself, but in a loop over layers, whose first pass says
    nothing of where activations should be, it exchanges them in the place of weights.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    spec = jax.sharding.PartitionSpec(("data", "fsdp"), *[None] * (x.ndim - 1))
    return jax.lax.with_sharding_constraint(x, spec)


class Dense(nn.Module):
    """Linear map of the last `in_axes` axes onto axes of the shape `features`.

    Fields: `dtype` is that of the product; the parameters, `kernel` with the axes of
    input and output and `bias` with those of the output, stay float32.
    """

    features: tuple[int, ...]
    use_bias: bool
    dtype: Any
    in_axes: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inputs = x.shape[x.ndim - self.in_axes :]
        rows = x.shape[: x.ndim - self.in_axes]
        kernel = self.param(
            "kernel",
            nn.initializers.xavier_uniform(
                in_axis=tuple(range(self.in_axes)),
                out_axis=tuple(range(self.in_axes, self.in_axes + len(self.features))),
            ),
            (*inputs, *self.features),
        )
        width_in, width_out = 1, 1
        for size in inputs:
            width_in *= size
        for size in self.features:
            width_out *= size
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        x = x.reshape(-1, width_in) @ kernel.reshape(width_in, width_out)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, self.features)
            x = x + bias.reshape(-1).astype(self.dtype)
        return x.reshape(*rows, *self.features)


@jax.custom_vjp
def normalise(x: jax.Array, epsilon: jax.Array) -> jax.Array:
    """Zero mean and unit variance over the last axis (arXiv 1607.06450, eq. 4)."""
    return _normalise_forward(x, epsilon)[0]


def _normalise_forward(x, epsilon):
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(variance + epsilon)
    normalised = centred * inverse
    return normalised, (normalised, inverse)


def _normalise_backward(saved, gradient):
    normalised, inverse = saved
    mean = gradient.mean(axis=-1, keepdims=True)
    projection = (gradient * normalised).mean(axis=-1, keepdims=True)
    return inverse * (gradient - mean - normalised * projection), None


normalise.defvjp(_normalise_forward, _normalise_backward)


class LayerNorm(nn.Module):
    """Layer norm, computed in at least float32, with a gain and perhaps a bias."""

    epsilon: float
    use_bias: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        x = normalise(x, self.epsilon)
        x = x * self.param("scale", nn.initializers.ones, (width,))
        if self.use_bias:
            x = x + self.param("bias", nn.initializers.zeros, (width,))
        return x.astype(self.dtype)
