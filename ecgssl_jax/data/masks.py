"""Masks over the patches of a recording: which are context, which are targets.

A mask is plain array arithmetic on given uniform numbers, so that one
implementation serves the tf.data pipeline (`xp=tensorflow.experimental.numpy`) and
NumPy (`xp=numpy`), and both give the same mask for the same numbers. Row b of a mask
depends on row b of the numbers alone, and its counts are the sampled ones: shapes are
static because rows are padded, never because they are cut.

    masks = build("blocks", 50, keep=(0.15, 0.25))
    uniforms = rng.random((batch, masks.num_uniforms(50)), dtype=np.float32)
    masks.sample(uniforms, 50, np)

    context [B, K] int32, context_valid [B, K] bool
    targets [B, M, L] int32, targets_valid [B, M, L] bool

Valid entries come first, in ascending order; the rest are index 0 and not valid.

Shares of the patches become counts in one way everywhere: `(low, high)` of N patches
are the integers from ceil(low N) to floor(high N), both included; if there is none
between them, the one integer nearest to the middle (the upper one of two).
"""

import dataclasses
import functools
import math
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ecgssl_jax.data.mask_arithmetic import (
    Array,
    Namespace,
    cast,
    check_uniforms,
    integers,
    padded,
    ranked,
    step_over,
    subsets,
    uncovered,
)
from ecgssl_jax.settings import ConfigError, near
from ecgssl_jax.settings import build as build_settings

_DRAWS = 16  # candidates of a row, where one may leave too little context
_LEAST_ACCEPTED = 0.5  # then no candidate suits in at most 2**-16 of the rows


class Sizes(NamedTuple):
    """Static sizes of the masks over a number of patches."""

    uniforms: int  # U, numbers that a row consumes
    context: int  # K, the most context patches that a row can have
    blocks: int  # M, target blocks
    target: int  # L, the most patches that a target block can have


@dataclasses.dataclass(frozen=True, kw_only=True)
class Random:
    """Single patches: a uniform k-subset is context, all others are the target (M=1).

    k is uniform on the integers of `keep` (Kim, arXiv 2410.08559).
    """

    kind: ClassVar[str] = "random"
    keep: tuple[float, float] = (0.3, 0.4)  # share of the patches that is context

    def __post_init__(self):
        _check_share(self, "keep")

    def sizes(self, num_patches: int) -> Sizes:
        """Static sizes; ValueError if the settings do not fit `num_patches`."""
        low, high = _kept_range(self, num_patches)
        return Sizes(1 + num_patches, high, 1, num_patches - low)

    def num_uniforms(self, num_patches: int) -> int:
        """U, the uniform numbers that a row consumes."""
        return self.sizes(num_patches).uniforms

    def sample(
        self, uniforms: Array, num_patches: int, xp: Namespace
    ) -> dict[str, Array]:
        """Masks of B rows from `uniforms` [B, U] float32 in [0, 1)."""
        sizes = self.sizes(num_patches)
        check_uniforms(self.kind, uniforms, sizes.uniforms)
        low, high = _kept_range(self, num_patches)
        kept = integers(uniforms[:, :1], low, high, xp)
        order = ranked(uniforms[:, 1:], xp)
        # One sort for both: context ascending from the left, and, counted down from
        # 2N, targets ascending from the right.
        hidden = cast(np.arange(num_patches, dtype=np.int32) >= kept, np.int32, xp)
        both = xp.sort(order + hidden * (2 * (num_patches - order)), axis=-1)
        context = both[:, : sizes.context]
        targets = 2 * num_patches - both[:, : -sizes.target - 1 : -1]
        return padded(context, kept, targets[:, None], num_patches - kept, xp)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blocks:
    """Contiguous masked blocks; all masked patches are one target (M=1).

    For N patches, k is uniform on the integers of `keep` and m = N - k patches are
    masked; the number n of blocks is uniform on 1 .. m // min_block, cut to
    `num_blocks`; then every pair of n lengths of at least `min_block` that add up to
    m and n + 1 gaps of at least 0 that add up to k is as likely as any other. Blocks
    may touch. After Weimann & Conrad, arXiv 2410.13867, who place them one by one.
    """

    kind: ClassVar[str] = "blocks"
    keep: tuple[float, float] = (0.15, 0.25)  # share of the patches that is context
    min_block: int = 10  # patches
    num_blocks: tuple[int, int] | None = None  # fewest and most; None: all that fit

    def __post_init__(self):
        _check_share(self, "keep")
        _check_count(self, "min_block", self.min_block)
        if self.num_blocks is not None:
            _check_range(self, "num_blocks")
            for count in self.num_blocks:
                _check_count(self, "num_blocks", count)

    def sizes(self, num_patches: int) -> Sizes:
        """Static sizes; ValueError if the settings do not fit `num_patches`."""
        low, high = _kept_range(self, num_patches)
        slots = sum(self._slots(num_patches))
        return Sizes(2 + slots, high, 1, num_patches - low)

    def num_uniforms(self, num_patches: int) -> int:
        """U, the uniform numbers that a row consumes."""
        return self.sizes(num_patches).uniforms

    def _block_range(self, num_patches: int) -> tuple[int, int]:
        """Fewest and most blocks of a row."""
        low, high = _kept_range(self, num_patches)
        fewest, most = self.num_blocks or (1, num_patches)
        if fewest * self.min_block > num_patches - high:
            raise ValueError(
                f"blocks: keep={self.keep} masks as few as {num_patches - high} of "
                f"{num_patches} patches, where {fewest} block(s) of at least "
                f"min_block={self.min_block} do not fit; lower min_block, keep or the "
                "fewest blocks of num_blocks"
            )
        return fewest, min(most, (num_patches - low) // self.min_block)

    def _slots(self, num_patches: int) -> tuple[int, int]:
        """Most slots that bars are chosen from: those of gaps, those of lengths."""
        low, high = _kept_range(self, num_patches)
        fewest, most = self._block_range(num_patches)
        if most == 1:
            return high + 1, 0
        # A single block needs no bar; beyond two, more blocks leave fewer slots.
        fewest = max(fewest, 2)
        return high + most, num_patches - low - fewest * (self.min_block - 1) - 1

    def sample(
        self, uniforms: Array, num_patches: int, xp: Namespace
    ) -> dict[str, Array]:
        """Masks of B rows from `uniforms` [B, U] float32 in [0, 1)."""
        sizes = self.sizes(num_patches)
        check_uniforms(self.kind, uniforms, sizes.uniforms)
        low, high = _kept_range(self, num_patches)
        fewest, most = self._block_range(num_patches)
        gap_slots, _ = self._slots(num_patches)

        kept = integers(uniforms[:, :1], low, high, xp)
        masked = num_patches - kept
        fitting = xp.minimum(masked // self.min_block, most)
        blocks = integers(uniforms[:, 1:2], fewest, fitting, xp)

        # Stars and bars: n of k + n slots are bars, and what lies between them are
        # the n + 1 gaps; likewise n - 1 bars part what the lengths exceed n
        # min_block by. Block i starts after `kept_before` context patches and
        # `masked_before` masked ones.
        order = np.arange(most, dtype=np.int32)
        gap_uniforms = uniforms[:, 2 : 2 + gap_slots]
        bars = subsets(gap_uniforms, blocks, kept + blocks, most, xp)
        kept_before = bars - order
        masked_before = xp.zeros_like(kept)
        if most > 1:
            slots = masked - blocks * (self.min_block - 1) - 1
            length_uniforms = uniforms[:, 2 + gap_slots :]
            bars = subsets(length_uniforms, blocks - 1, slots, most - 1, xp)
            starts = bars - order[1:] + 1 + order[1:] * self.min_block
            masked_before = xp.concatenate([masked_before, starts], axis=1)

        ends = xp.concatenate([masked_before[:, 1:], masked], axis=1)
        lengths = xp.minimum(ends, masked) - xp.minimum(masked_before, masked)
        context = step_over(kept_before, lengths, sizes.context, xp)
        previous = xp.concatenate([xp.zeros_like(kept), kept_before[:, :-1]], axis=1)
        gaps = kept_before - previous
        targets = step_over(masked_before, gaps, sizes.target, xp)
        return padded(context, kept, targets[:, None], masked, xp)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Multiblock:
    """I-JEPA's masks (Assran et al., arXiv 2301.08243, section 3) in one dimension.

    A draw takes one target length from the integers of `target_scale`, the starts of
    `num_targets` target blocks of that length (they may overlap each other), a
    context length from the integers of `context_scale` and its start, all uniform
    and independent; every start at which the block ends by the last patch is
    possible. Context is the context block without the targets, unless
    `allow_overlap`. The first draw with at least `min_keep` context patches counts,
    so that masks follow the distribution of draws given that there are as many. If
    none has, which the settings' check keeps below one row in 65,000, all patches
    outside the first draw's targets are context.
    """

    kind: ClassVar[str] = "multiblock"
    num_targets: int = 4
    target_scale: tuple[float, float] = (0.15, 0.2)  # share of the patches, each
    context_scale: tuple[float, float] = (0.85, 1.0)  # share of the patches
    min_keep: int = 4  # patches
    allow_overlap: bool = False

    def __post_init__(self):
        _check_share(self, "target_scale")
        _check_share(self, "context_scale")
        _check_count(self, "num_targets", self.num_targets)
        _check_count(self, "min_keep", self.min_keep)

    def sizes(self, num_patches: int) -> Sizes:
        """Static sizes; ValueError if the settings do not fit `num_patches`."""
        shortest, longest = _count_range(self, "target_scale", num_patches)
        narrowest, widest = _count_range(self, "context_scale", num_patches)
        self._check_room(num_patches)
        draws = self._draws(num_patches)
        context = widest
        if not self.allow_overlap:
            context = min(widest, num_patches - shortest)
        if draws > 1:
            # Where no draw suits, context is what is left of the context block, less
            # than min_keep, and at most all that is outside it.
            outside = num_patches - narrowest
            rest = min(num_patches - shortest, self.min_keep - 1 + outside)
            context = max(context, rest)
        uniforms = draws * (self.num_targets + 3)
        return Sizes(uniforms, context, self.num_targets, longest)

    def num_uniforms(self, num_patches: int) -> int:
        """U, the uniform numbers that a row consumes."""
        return self.sizes(num_patches).uniforms

    def _draws(self, num_patches: int) -> int:
        """Candidates of a row: one where every draw leaves `min_keep` patches."""
        _, longest = _count_range(self, "target_scale", num_patches)
        narrowest, _ = _count_range(self, "context_scale", num_patches)
        hidden = 0 if self.allow_overlap else self.num_targets * longest
        return 1 if narrowest - hidden >= self.min_keep else _DRAWS

    def _check_room(self, num_patches: int) -> None:
        _, longest = _count_range(self, "target_scale", num_patches)
        narrowest, _ = _count_range(self, "context_scale", num_patches)
        room = narrowest
        if not self.allow_overlap:
            room = num_patches - self.num_targets * longest
        if room < self.min_keep:
            raise ValueError(
                f"multiblock: min_keep={self.min_keep} is impossible: "
                f"num_targets={self.num_targets}, target_scale={self.target_scale} "
                f"and context_scale={self.context_scale} can leave only "
                f"{max(room, 0)} of {num_patches} patches as context; lower min_keep, "
                "num_targets or target_scale, or take more patches"
            )
        if self._draws(num_patches) == 1:
            return
        accepted = _acceptance(self, num_patches)
        if accepted < _LEAST_ACCEPTED:
            raise ValueError(
                f"multiblock: only {accepted:.0%} of the draws over {num_patches} "
                f"patches leave min_keep={self.min_keep} context patches, expected at "
                f"least {_LEAST_ACCEPTED:.0%}; lower min_keep, num_targets or "
                f"target_scale={self.target_scale}, or raise "
                f"context_scale={self.context_scale}"
            )

    def _draw(
        self, uniforms: Array, num_patches: int, xp: Namespace
    ) -> tuple[Array, Array, Array, Array]:
        """Target length, M starts, context start and end; uniforms [..., M + 3]."""
        shortest, longest = _count_range(self, "target_scale", num_patches)
        narrowest, widest = _count_range(self, "context_scale", num_patches)
        length = integers(uniforms[..., :1], shortest, longest, xp)
        starts = integers(uniforms[..., 3:], 0, num_patches - length, xp)
        context = integers(uniforms[..., 1:2], narrowest, widest, xp)
        start = integers(uniforms[..., 2:3], 0, num_patches - context, xp)
        return length, starts, start, start + context

    def sample(
        self, uniforms: Array, num_patches: int, xp: Namespace
    ) -> dict[str, Array]:
        """Masks of B rows from `uniforms` [B, U] float32 in [0, 1)."""
        sizes = self.sizes(num_patches)
        check_uniforms(self.kind, uniforms, sizes.uniforms)
        draws = xp.reshape(uniforms, [-1, self._draws(num_patches), sizes.blocks + 3])
        draw = self._draw(draws, num_patches, xp)
        if draws.shape[1] == 1:
            length, starts, start, end = (value[:, 0] for value in draw)
        else:
            kept = uncovered(*draw, xp)[-1]
            accepted = cast(kept >= self.min_keep, np.int32, xp)  # [B, R, 1]
            found = xp.cumsum(accepted, axis=1, dtype=np.int32)
            first = accepted * cast(found == 1, np.int32, xp)
            none = 1 - xp.minimum(found[:, -1], 1)  # [B, 1]
            length, starts, start, end = (
                xp.sum(value * first, axis=1, dtype=np.int32) + value[:, 0] * none
                for value in draw
            )
            start = start * (1 - none)
            end = end * (1 - none) + num_patches * none

        if self.allow_overlap:
            context = start + np.arange(sizes.context, dtype=np.int32)
            kept = end - start
        else:
            before, covered, kept = uncovered(length, starts, start, end, xp)
            context = start + step_over(before, covered, sizes.context, xp)
        targets = starts[:, :, None] + np.arange(sizes.target, dtype=np.int32)
        return padded(context, kept, targets, length, xp)


KINDS = {cls.kind: cls for cls in (Multiblock, Blocks, Random)}


def build(kind: str, num_patches: int, **settings) -> Multiblock | Blocks | Random:
    """Masks called `kind` with these settings, checked for `num_patches`.

    Raises:
      ConfigError: an unknown kind or setting, with a near match, or settings of
        another type, out of range, or that do not fit that many patches.
    """
    if kind not in KINDS:
        raise ConfigError(f"config.masks.kind: unknown {kind!r}{near(kind, [*KINDS])}")
    masks = build_settings(KINDS[kind], settings, "config.masks")
    try:
        masks.sizes(num_patches)
    except ValueError as error:
        raise ConfigError(f"config.masks: {error}") from error
    return masks


@functools.lru_cache(maxsize=64)
def _acceptance(masks: Multiblock, num_patches: int) -> float:
    """Share of draws that leave `min_keep` context patches, from 4,096 of them."""
    shape = (4096, masks.num_targets + 3)
    uniforms = np.random.default_rng(0).random(shape, dtype=np.float32)
    kept = uncovered(*masks._draw(uniforms, num_patches, np), np)[-1]
    return float(np.mean(kept >= masks.min_keep))


# --- Checks of settings -------------------------------------------------------------


def _count_range(masks: Any, name: str, num_patches: int) -> tuple[int, int]:
    """Fewest and most patches of the share `masks.name`; see the module's docstring."""
    share = getattr(masks, name)
    # Products such as 0.15 * 40 may miss their integer by a rounding error.
    low = math.ceil(share[0] * num_patches - 1e-9)
    high = math.floor(share[1] * num_patches + 1e-9)
    if low > high:
        low = high = math.floor((share[0] + share[1]) / 2 * num_patches + 0.5)
    if low < 1:
        raise ValueError(
            f"{masks.kind}: {name}={share} of {num_patches} patches is none; raise "
            f"{name} or take more patches"
        )
    return low, high


def _kept_range(masks: Any, num_patches: int) -> tuple[int, int]:
    low, high = _count_range(masks, "keep", num_patches)
    if high >= num_patches:
        raise ValueError(
            f"{masks.kind}: keep={masks.keep} can keep all {num_patches} patches, which "
            "leaves no target; lower keep"
        )
    return low, high


def _check_share(masks: Any, name: str) -> None:
    low, high = _check_range(masks, name)
    if not (0 < low and high <= 1):
        raise ValueError(
            f"{masks.kind}: {name}={(low, high)}, expected shares of the patches above "
            "0 and at most 1"
        )


def _check_range(masks: Any, name: str) -> tuple[float, float]:
    low, high = getattr(masks, name)
    if not low <= high:
        raise ValueError(
            f"{masks.kind}: {name}={(low, high)}, expected (low, high) with low <= high"
        )
    return low, high


def _check_count(masks: Any, name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{masks.kind}: {name}={value}, expected at least 1")
