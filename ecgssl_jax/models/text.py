"""A transformer on tokens of text, trained from scratch beside an ECG encoder."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from ecgssl_jax.models.remat import Remat
from ecgssl_jax.models.vit import mean_pool, sine_cosine_positions, transformer

Pooling = Literal["cls", "mean", "max"]

PRESETS: dict[str, dict[str, int]] = {
    "xtiny": dict(width=192, depth=4, num_heads=3),
    "tiny": dict(width=192, depth=12, num_heads=3),
    "small": dict(width=384, depth=12, num_heads=6),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Which text encoder.

    Attributes:
      preset: 'xtiny' (192 x 4 x 3 heads), 'tiny' (192 x 12 x 3) or 'small'
        (384 x 12 x 6).
      width, depth, num_heads: in the place of the preset's.
      pooling: what stands for a text: 'cls', its first token, which begins every
        text; 'mean' or 'max' of its valid tokens.
      drop_path, scan, remat: as in `models.vit.ViT`.
    """

    preset: Literal["xtiny", "tiny", "small"] = "tiny"
    width: int | None = None
    depth: int | None = None
    num_heads: int | None = None
    pooling: Pooling = "cls"
    drop_path: float = 0.0
    scan: bool = False
    remat: Remat = "none"

    def __post_init__(self):
        sizes = self.sizes()
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name}: expected at least 1, found {size}")
        width, num_heads = sizes["width"], sizes["num_heads"]
        if width % 2:
            raise ValueError(
                f"width: the sine-cosine positions need an even width, found {width}"
            )
        if width % num_heads:
            raise ValueError(
                f"a width of {width} cannot be split into {num_heads} heads"
            )
        if not 0 <= self.drop_path < 1:
            raise ValueError(
                f"drop_path: expected at least 0 and below 1, found {self.drop_path}"
            )

    def sizes(self) -> dict[str, Any]:
        """width, depth and num_heads."""
        given = {name: getattr(self, name) for name in ("width", "depth", "num_heads")}
        changes = {name: size for name, size in given.items() if size is not None}
        return {**PRESETS[self.preset], **changes}


class TextEncoder(nn.Module):
    """Encoder of a text into one embedding.

    Fields: D is `width`; `pooling` as in `Settings`, the others as in `vit.ViT`.
    """

    vocabulary_size: int
    width: int
    depth: int
    num_heads: int
    pooling: Pooling = "cls"
    mlp_ratio: float = 4.0
    use_bias: bool = True
    exact_gelu: bool = False
    norm_eps: float = 1e-6
    drop_path: float = 0.0
    scan: bool = False
    remat: Remat = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, valid: jax.Array) -> jax.Array:
        """Embeds each text by its valid tokens alone.

        Args:
          tokens: [B, S] int32, below `vocabulary_size`; others give NaN.
          valid: [B, S] bool. A text without any valid token is taken for its first
            token, so that every embedding is finite.

        Returns:
          [B, D], at least float32, after the final norm.
        """
        first = jnp.arange(tokens.shape[1]) == 0
        valid = valid | (first & ~valid.any(axis=1, keepdims=True))
        # Of variance 1 after scaling (arXiv 1706.03762, section 3.4), like the
        # positions: neither drowns the other at first.
        embedding = self.param(
            "token_embedding",
            nn.initializers.normal(self.width**-0.5),
            (self.vocabulary_size, self.width),
        )
        # Indexing would take the last row for a token of another vocabulary.
        x = jnp.take(embedding, tokens, axis=0, mode="fill") * self.width**0.5
        x = x + jnp.asarray(sine_cosine_positions(tokens.shape[1], self.width))
        x = transformer(self)(x.astype(self.dtype), valid)
        return _pool(x, valid, self.pooling)


def _pool(x: jax.Array, valid: jax.Array, pooling: Pooling) -> jax.Array:
    """[B, S, D], [B, S] with a valid token in every row -> [B, D]."""
    if pooling == "mean":
        return mean_pool(x, valid)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if pooling == "max":
        return jnp.where(valid[..., None], x, -jnp.inf).max(axis=1)
    return x[:, 0]


def make_text_encoder(
    settings: Settings, *, vocabulary_size: int, dtype: Any
) -> TextEncoder:
    """The module that the settings describe, for a vocabulary of that many tokens."""
    return TextEncoder(
        vocabulary_size=vocabulary_size,
        **settings.sizes(),
        pooling=settings.pooling,
        drop_path=settings.drop_path,
        scan=settings.scan,
        remat=settings.remat,
        dtype=dtype,
    )
