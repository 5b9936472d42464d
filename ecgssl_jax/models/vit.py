"""1-D vision transformers on ECG patches, and the JEPA predictor.

A patch is `patch_size` successive samples of all leads. Two published families:
Weimann & Conrad, arXiv 2410.13867 (no biases, one register token), and I-JEPA,
arXiv 2301.08243, in one dimension (biases, no register).
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ecgssl_jax.models.attention import attention
from ecgssl_jax.models.layers import Dense, LayerNorm, existing, split_rows
from ecgssl_jax.models.remat import Remat, rematerialised
from ecgssl_jax.settings import ConfigError

_WEIMANN: dict[str, Any] = dict(use_bias=False, num_registers=1)
_IJEPA: dict[str, Any] = dict(use_bias=True, num_registers=0)

PRESETS: dict[str, dict[str, Any]] = {
    # Weimann & Conrad, arXiv 2410.13867.
    "xs": dict(width=192, depth=8, num_heads=4, **_WEIMANN),
    "s": dict(width=384, depth=8, num_heads=6, **_WEIMANN),
    "b": dict(width=768, depth=12, num_heads=12, **_WEIMANN),
    # I-JEPA, arXiv 2301.08243, in one dimension.
    "tiny": dict(width=192, depth=12, num_heads=3, **_IJEPA),
    "small": dict(width=384, depth=12, num_heads=6, **_IJEPA),
    "base": dict(width=768, depth=12, num_heads=12, **_IJEPA),
    "large": dict(width=1024, depth=24, num_heads=16, **_IJEPA),
    "huge": dict(width=1280, depth=32, num_heads=16, **_IJEPA),
    "giant": dict(width=1408, depth=40, num_heads=16, **_IJEPA),
}


def sine_cosine_positions(
    num_positions: int, width: int, *, interleaved: bool = False
) -> np.ndarray:
    """Fixed 1-D position table (arXiv 1706.03762, section 3.5), [N, D] float32.

    Args:
      interleaved: sine and cosine alternate along the width, as in the paper;
        otherwise all sines come first, as in MAE and I-JEPA.

    Raises:
      ValueError: the width is odd.
    """
    if width % 2:
        raise ValueError(f"positions need an even width, found {width}")
    frequencies = 10000.0 ** (-np.arange(width // 2) / (width / 2))
    angles = np.arange(num_positions)[:, None] * frequencies
    join = np.stack if interleaved else np.concatenate
    table = join([np.sin(angles), np.cos(angles)], axis=-1)
    return table.reshape(num_positions, width).astype(np.float32)


def patchify(ecg: jax.Array, patch_size: int) -> jax.Array:
    """[B, T, C] -> patches [B, N, P * C]; raises ConfigError unless P divides T."""
    batch, samples, leads = ecg.shape
    if samples % patch_size:
        raise ConfigError(
            f"config.model.patch_size: {patch_size} does not divide the {samples} "
            "samples that the encoder is given (of a crop, or of what a view or the "
            "method cuts from it)"
        )
    return ecg.reshape(batch, samples // patch_size, patch_size * leads)


def take_tokens(tokens: jax.Array, indices: jax.Array) -> jax.Array:
    """[B, N, D] at [B, K] -> [B, K, D]."""
    return jnp.take_along_axis(tokens, indices[..., None], axis=1)


def mean_pool(tokens: jax.Array, valid: jax.Array | None = None) -> jax.Array:
    """Mean over the valid tokens: [B, N, D], [B, N] -> [B, D], at least float32."""
    tokens = tokens.astype(jnp.promote_types(tokens.dtype, jnp.float32))
    if valid is None:
        return tokens.mean(axis=1)
    weights = valid.astype(tokens.dtype)[..., None]
    return (tokens * weights).sum(axis=1) / jnp.maximum(weights.sum(axis=1), 1)


class Attention(nn.Module):
    """Multi-head self-attention with its projections."""

    num_heads: int
    use_bias: bool
    dtype: Any

    @nn.compact
    def __call__(self, x, valid):
        width = x.shape[-1]
        dense = functools.partial(Dense, use_bias=self.use_bias, dtype=self.dtype)
        shape = (self.num_heads, 3, width // self.num_heads)
        x = attention(dense(shape, name="qkv")(x), valid)
        return dense((width,), in_axes=2, name="out")(x)


class Mlp(nn.Module):
    """Two dense layers with a GELU between them."""

    ratio: float
    use_bias: bool
    exact_gelu: bool
    dtype: Any

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        dense = functools.partial(Dense, use_bias=self.use_bias, dtype=self.dtype)
        x = dense((round(width * self.ratio),), name="in")(x)
        x = jax.nn.gelu(x, approximate=not self.exact_gelu)
        return dense((width,), name="out")(x)


class Block(nn.Module):
    """Pre-norm transformer block with stochastic depth (arXiv 1603.09382)."""

    num_heads: int
    mlp_ratio: float
    use_bias: bool
    exact_gelu: bool
    norm_eps: float
    dtype: Any
    drop_path: bool

    @nn.compact
    def __call__(self, x, drop_rate, valid):
        x = split_rows(x)
        norm = functools.partial(LayerNorm, self.norm_eps, self.use_bias, self.dtype)
        y = norm(name="norm1")(x)
        y = Attention(self.num_heads, self.use_bias, self.dtype, name="attention")(
            y, valid
        )
        x = x + self._drop(y, drop_rate)
        y = norm(name="norm2")(x)
        y = Mlp(self.mlp_ratio, self.use_bias, self.exact_gelu, self.dtype, name="mlp")(
            y
        )
        return split_rows(x + self._drop(y, drop_rate)), None

    def _drop(self, branch, rate):
        if not (self.drop_path and self.has_rng("drop_path")):
            return branch
        shape = (branch.shape[0], 1, 1)
        keep = jax.random.bernoulli(self.make_rng("drop_path"), 1 - rate, shape)
        return jnp.where(keep, branch / (1 - rate), 0).astype(branch.dtype)


class Blocks(nn.Module):
    """A stack of blocks and the final norm.

    With `scan` the layers are one `lax.scan` over stacked parameters, which keeps
    the compilation time constant in the depth; `remat` says which of a block's
    activations are computed again in the backward pass (`models.remat`).
    """

    depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    use_bias: bool = True
    exact_gelu: bool = False
    norm_eps: float = 1e-6
    drop_path: float = 0.0
    scan: bool = False
    remat: Remat = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, valid=None):
        block = rematerialised(Block, self.remat, prevent_cse=not self.scan)
        settings: dict[str, Any] = dict(
            num_heads=self.num_heads,
            mlp_ratio=self.mlp_ratio,
            use_bias=self.use_bias,
            exact_gelu=self.exact_gelu,
            norm_eps=self.norm_eps,
            dtype=self.dtype,
            drop_path=self.drop_path > 0,
        )
        rates = np.linspace(0, self.drop_path, self.depth, dtype=np.float32)
        if self.scan:
            stack = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True, "drop_path": True},
                in_axes=(0, nn.broadcast),  # pyright: ignore[reportArgumentType]
                length=self.depth,
            )
            x, _ = stack(**settings, name="blocks")(x, jnp.asarray(rates), valid)
        else:
            for layer, rate in enumerate(rates):
                x, _ = block(**settings, name=f"block_{layer}")(x, rate, valid)
        return LayerNorm(self.norm_eps, self.use_bias, self.dtype, name="norm")(x)


def transformer(module: Any) -> Blocks:
    """The blocks of a module that has their settings among its own fields."""
    names = {field.name for field in dataclasses.fields(Blocks)} - {"parent", "name"}
    settings = {name: getattr(module, name) for name in names}
    return Blocks(**settings, name="transformer")


class ViT(nn.Module):
    """Encoder of an ECG, or of some of its patches, into one token a patch.

    Fields: D is `width`; `interleaved_positions` as in `sine_cosine_positions`;
    `exact_gelu` takes the error function (published weights need it), otherwise
    the tanh form, about twice as fast on CPUs; `drop_path` is the last layer's
    rate, used where an rng named `drop_path` is given; `dtype` is that of matrix
    products and activations (parameters stay float32).
    """

    width: int
    depth: int
    num_heads: int
    patch_size: int
    mlp_ratio: float = 4.0
    use_bias: bool = True
    num_registers: int = 0
    interleaved_positions: bool = False
    exact_gelu: bool = False
    norm_eps: float = 1e-6
    drop_path: float = 0.0
    scan: bool = False
    remat: Remat = "none"
    dtype: Any = jnp.float32

    @property
    def stride(self) -> int:
        """Samples that a token stands for."""
        return self.patch_size

    @nn.compact
    def __call__(
        self,
        ecg: jax.Array,
        indices: jax.Array | None = None,
        valid: jax.Array | None = None,
        length: jax.Array | None = None,
    ) -> jax.Array:
        """Encodes all N = T / P patches, or the K at `indices`.

        Args:
          ecg: [B, T, C] float32, normalised.
          indices: [B, K] int32, the patches to encode; None for all.
          valid: [B, K] bool ([B, N] without indices), the patches that exist; the
            others get tokens too, but nothing attends to them.
          length: [B] int32, samples of each record, in the place of `valid` where
            all patches are encoded.

        Returns:
          tokens [B, K, D] in `dtype`, after the final norm, registers left out.
        """
        patches = patchify(ecg, self.patch_size)
        if length is not None:
            valid = existing(length, patches.shape[1], self.patch_size)
        positions = jnp.asarray(
            sine_cosine_positions(
                patches.shape[1], self.width, interleaved=self.interleaved_positions
            )
        )
        if indices is not None:
            patches, positions = take_tokens(patches, indices), positions[indices]
        x = Dense(
            (self.width,),
            use_bias=self.use_bias,
            dtype=self.dtype,
            name="patch_embedding",
        )(patches)
        x = x + positions.astype(x.dtype)
        if self.num_registers:
            shape = (self.num_registers, self.width)
            registers = self.param("registers", nn.initializers.normal(0.02), shape)
            registers = jnp.broadcast_to(
                registers.astype(x.dtype), (x.shape[0], *shape)
            )
            x = jnp.concatenate([registers, x], axis=1)
            if valid is not None:
                padding = ((0, 0), (self.num_registers, 0))
                valid = jnp.pad(valid, padding, constant_values=True)
        x = transformer(self)(x, valid)
        return x[:, self.num_registers :]


class Predictor(nn.Module):
    """The JEPA predictor: context tokens and positions in, tokens of D_out out.

    Fields as in `ViT`; D_out is `out_width`.
    """

    width: int
    depth: int
    num_heads: int
    out_width: int
    mlp_ratio: float = 4.0
    use_bias: bool = True
    interleaved_positions: bool = False
    exact_gelu: bool = False
    norm_eps: float = 1e-6
    drop_path: float = 0.0
    scan: bool = False
    remat: Remat = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        context: jax.Array,
        is_context: jax.Array,
        indices: jax.Array,
        *,
        num_patches: int,
        num_targets: int,
        valid: jax.Array | None = None,
    ) -> jax.Array:
        """Predicts the tokens of the last `num_targets` of S slots.

        Each slot stands for one patch. The first K can hold a context token; all
        others hold the mask token and are to be predicted.

        Args:
          context: [B, K, D] tokens of the encoder.
          is_context: [B, K] bool, slots that hold their context token.
          indices: [B, S] int32, the patch that each slot stands for.
          num_patches: N, the patches of the whole crop.
          num_targets: L, how many slots to predict.
          valid: [B, S] bool, slots that may be attended to; None for all.

        Returns:
          [B, L, D_out] in `dtype`.
        """
        positions = sine_cosine_positions(
            num_patches, self.width, interleaved=self.interleaved_positions
        )
        dense = functools.partial(Dense, use_bias=self.use_bias, dtype=self.dtype)
        x = dense((self.width,), name="embedding")(context)
        mask_token = self.param(
            "mask_token", nn.initializers.normal(0.02), (self.width,)
        ).astype(x.dtype)
        x = jnp.where(is_context[..., None], x, mask_token)
        shape = (x.shape[0], indices.shape[1] - context.shape[1], self.width)
        x = jnp.concatenate([x, jnp.broadcast_to(mask_token, shape)], axis=1)
        x = x + jnp.asarray(positions, x.dtype)[indices]
        x = transformer(self)(x, valid)
        return dense((self.out_width,), name="projection")(x[:, -num_targets:])


# What a predictor takes over from its encoder.
_SHARED = (
    "mlp_ratio",
    "use_bias",
    "interleaved_positions",
    "exact_gelu",
    "norm_eps",
    "drop_path",
    "scan",
    "remat",
    "dtype",
)


def make_predictor(
    encoder: ViT, *, width: int, depth: int, num_heads: int
) -> Predictor:
    """The predictor of the encoder's tokens, of the same kind in all but its size."""
    return Predictor(
        width=width,
        depth=depth,
        num_heads=num_heads,
        out_width=encoder.width,
        **{name: getattr(encoder, name) for name in _SHARED},
    )
