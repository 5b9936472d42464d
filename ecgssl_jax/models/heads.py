"""Small networks on pooled features: projectors and predictors."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ecgssl_jax.models.layers import Dense
from ecgssl_jax.models.network import Network


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Which head.

    Attributes:
      hidden: widths of its hidden layers.
      out: width of what comes out.
      batch_norm: after each hidden layer.
    """

    hidden: tuple[int, ...] = (512,)
    out: int = 128
    batch_norm: bool = True

    def __post_init__(self):
        if min(self.out, *self.hidden) < 1:
            raise ValueError(
                f"hidden and out must be at least 1, found {self.hidden} and {self.out}"
            )


def make_head(settings: Settings, *, dtype: Any, out_bias: bool = True) -> Network:
    """The network that the settings describe; `out_bias`, `dtype` as in `Head`."""
    return Network(
        Head(
            hidden=settings.hidden,
            out=settings.out,
            batch_norm=settings.batch_norm,
            out_bias=out_bias,
            dtype=dtype,
        )
    )


def make_linear(out: int, *, dtype: Any) -> Network:
    """A linear map to `out` numbers."""
    return Network(Head(hidden=(), out=out, dtype=dtype))


class Head(nn.Module):
    """Dense layers with a ReLU between them, and batch norms where asked.

    Fields: `hidden` are the widths between input and `out`; `out_bias` whether the
    last layer has one; `dtype` is that of the matrix products (parameters and
    statistics stay float32).
    """

    hidden: tuple[int, ...]
    out: int
    batch_norm: bool = True
    out_bias: bool = True
    norm_eps: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        """[B, D] -> [B, out], at least float32.

        Args:
          valid: [B] bool, the rows that batch norms look at; None for all.
        """
        # The statistics of nothing would not be finite.
        mask = None if valid is None else (valid | ~valid.any())[:, None]
        for number, width in enumerate(self.hidden, 1):
            # A batch norm takes any bias away again.
            x = Dense(
                (width,),
                use_bias=not self.batch_norm,
                dtype=self.dtype,
                name=f"dense{number}",
            )(x)
            if self.batch_norm:
                x = nn.BatchNorm(
                    use_running_average=not self.is_mutable_collection("batch_stats"),
                    momentum=0.9,
                    epsilon=self.norm_eps,
                    use_fast_variance=False,
                    dtype=self.dtype,
                    name=f"norm{number}",
                )(x, mask=mask)
            x = nn.relu(x)
        x = Dense((self.out,), self.out_bias, dtype=self.dtype, name="out")(x)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))
