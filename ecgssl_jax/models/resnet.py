"""1-D residual networks on ECGs (He et al., arXiv 1512.03385, in one dimension).

The stride of a stage is in its first block's 3-wide convolution. Wide ones have twice
the inner channels of each bottleneck (arXiv 1605.07146).
"""

import functools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from ecgssl_jax.models.layers import existing
from ecgssl_jax.models.remat import Remat, rematerialised

PRESETS: dict[str, dict[str, Any]] = {
    "18": dict(blocks=(2, 2, 2, 2), bottleneck=False),
    "34": dict(blocks=(3, 4, 6, 3), bottleneck=False),
    "50": dict(blocks=(3, 4, 6, 3), bottleneck=True),
    "101": dict(blocks=(3, 4, 23, 3), bottleneck=True),
    "152": dict(blocks=(3, 8, 36, 3), bottleneck=True),
    "wide50": dict(blocks=(3, 4, 6, 3), bottleneck=True, widening=2.0),
    "wide101": dict(blocks=(3, 4, 23, 3), bottleneck=True, widening=2.0),
}
_EXPANSION = 4  # output channels of a bottleneck, in units of its stage's
_GROUPS = 32  # of group norm (arXiv 1803.08494)


class Block(nn.Module):
    """One residual block: two convolutions, or three that narrow and widen again.

    Fields: `features` are the stage's channels, `inner` those of a bottleneck's inner
    convolution; `step` is the samples between two positions of its input.
    """

    features: int
    inner: int
    stride: int
    step: int
    bottleneck: bool
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array, length: jax.Array | None) -> jax.Array:
        out = self.features * (_EXPANSION if self.bottleneck else 1)
        if self.bottleneck:
            plan = [(self.inner, 1, 1), (self.inner, 3, self.stride), (out, 1, 1)]
        else:
            plan = [(out, 3, self.stride), (out, 3, 1)]
        y, step = x, self.step
        for number, (features, width, stride) in enumerate(plan, 1):
            y = self.conv(features, width, stride, name=f"conv{number}")(y)
            step *= stride
            exists = _exists(y, length, step)
            y = self.norm(name=f"norm{number}")(y, mask=exists)
            if number < len(plan):
                y = _missing_to_zero(nn.relu(y), exists)
        if x.shape != y.shape:
            x = self.conv(out, 1, self.stride, name="shortcut")(x)
            exists = _exists(x, length, step)
            x = self.norm(name="shortcut_norm")(x, mask=exists)
        return _missing_to_zero(nn.relu(x + y), _exists(y, length, step))


def _exists(x: jax.Array, length: jax.Array | None, step: int) -> jax.Array | None:
    """Positions [B, N, D] that begin within the record, as norms take them."""
    if length is None:
        return None
    exists = existing(length, x.shape[1], step)
    return jnp.broadcast_to(exists[:, :, None], x.shape)


def _missing_to_zero(x: jax.Array, exists: jax.Array | None) -> jax.Array:
    """Zeros beyond a record, as a convolution has them beyond the array."""
    return x if exists is None else jnp.where(exists, x, 0)


def _conv(features: int, width: int, stride: int, *, dtype: Any, name: str) -> nn.Conv:
    side = (width - 1) // 2
    return nn.Conv(
        features,
        (width,),
        strides=(stride,),
        padding=((side, side),),
        use_bias=False,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        dtype=dtype,
        name=name,
    )


class ResNet(nn.Module):
    """Encoder of an ECG into the positions of its last feature map.

    Fields: `blocks` per stage; `features` of the first stage, doubled in each one
    after; `norm` is 'batch', whose running statistics move by a tenth of each batch's,
    or 'group'; `remat` says which of a block's activations are computed again in the
    backward pass (`models.remat`); `dtype` is that of convolutions and activations
    (parameters and statistics stay float32).
    """

    blocks: tuple[int, ...]
    bottleneck: bool
    features: int = 64
    widening: float = 1.0
    norm: Literal["batch", "group"] = "batch"
    norm_eps: float = 1e-5
    remat: Remat = "none"
    dtype: Any = jnp.float32

    @property
    def stride(self) -> int:
        """Samples that a token stands for."""
        return 2 ** (len(self.blocks) + 1)

    @nn.compact
    def __call__(self, ecg: jax.Array, length: jax.Array | None = None) -> jax.Array:
        """Tokens [B, N, D] in `dtype`, N = ceil(T / stride).

        Args:
          ecg: [B, T, C] float32, normalised, zero where samples are missing.
          length: [B] int32, samples of each record; None where all are full. A
            record's tokens are those that it has without its padding, and norms see
            no padding.
        """
        if length is not None:
            # The statistics of nothing, a record or a batch, would not be finite.
            nothing = ~length.any() if self.norm == "batch" else length == 0
            length = jnp.where(nothing, 1, length)
        conv = functools.partial(_conv, dtype=self.dtype)
        x = conv(self.features, 7, 2, name="conv")(ecg.astype(self.dtype))
        exists = _exists(x, length, 2)
        x = nn.relu(self._make_norm()(name="norm")(x, mask=exists))
        x = _missing_to_zero(x, exists)
        x = nn.max_pool(x, (3,), strides=(2,), padding=[(1, 1)])  # pyright: ignore[reportArgumentType]
        step = 4
        x = _missing_to_zero(x, _exists(x, length, step))
        block = rematerialised(Block, self.remat)
        for stage, count in enumerate(self.blocks):
            features = self.features * 2**stage
            for number in range(count):
                stride = 2 if stage and not number else 1
                x = block(
                    features,
                    inner=round(features * self.widening),
                    stride=stride,
                    step=step,
                    bottleneck=self.bottleneck,
                    conv=conv,
                    norm=self._make_norm(),
                    name=f"stage{stage + 1}_block{number + 1}",
                )(x, length)
                step *= stride
        return x

    def _make_norm(self) -> Any:
        if self.norm == "group":
            return functools.partial(
                nn.GroupNorm,
                num_groups=_GROUPS,
                epsilon=self.norm_eps,
                use_fast_variance=False,
                dtype=self.dtype,
            )
        return functools.partial(
            nn.BatchNorm,
            # Where the statistics may be changed, a batch is trained on.
            use_running_average=not self.is_mutable_collection("batch_stats"),
            momentum=0.9,
            epsilon=self.norm_eps,
            # The fast one loses small variances to rounding.
            use_fast_variance=False,
            dtype=self.dtype,
        )
