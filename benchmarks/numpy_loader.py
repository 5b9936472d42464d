"""A record-at-a-time NumPy loader of masked JEPA batches, the counterpart of ours.

It does what the loaders of published projects do, one record after the other: pick it,
crop it, mask it with Python loops over intervals, and stack the records of a batch at
last; with a scale it converts to millivolts as well, which ours leaves to the training
step. Masks are those of Weimann & Conrad, arXiv 2410.13867: contiguous blocks of at
least `min_block` patches until 75 to 85 % are masked.
"""

from collections.abc import Iterator

import numpy as np

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


def mask_intervals(
    num_patches: int, num_masked: int, *, min_block: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Draws blocks of one record until exactly `num_masked` patches are masked.

    Returns:
        The intervals [start, stop) that stay, in order. What lies between them is
        masked, in runs of at least `min_block`.

    Raises:
        ValueError: no such mask exists.
    """
    if not min_block <= num_masked <= num_patches:
        raise ValueError(
            f"cannot mask {num_masked} of {num_patches} patches in blocks of at least "
            f"{min_block}; lower min_block or change the masked share"
        )
    kept = [(0, num_patches)]
    left = num_masked
    while left:
        roomy = [i for i, (start, stop) in enumerate(kept) if stop - start >= min_block]
        if left < min_block or not roomy:
            # Too little is left for another block: widen one that is there already.
            _widen(kept, num_patches, rng)
            left -= 1
            continue
        index = roomy[rng.integers(len(roomy))]
        start, stop = kept[index]
        length = int(rng.integers(min_block, min(left, stop - start) + 1))
        first = start + int(rng.integers(stop - start - length + 1))
        parts = [(start, first), (first + length, stop)]
        kept[index : index + 1] = [part for part in parts if part[0] < part[1]]
        left -= length
    return kept


def _widen(
    kept: list[tuple[int, int]], num_patches: int, rng: np.random.Generator
) -> None:
    """Masks one more patch, at an end of a kept interval that touches a block."""
    index = int(rng.integers(len(kept)))
    start, stop = kept[index]
    at_start = start > 0 and (stop == num_patches or rng.random() < 0.5)
    start, stop = (start + 1, stop) if at_start else (start, stop - 1)
    kept[index : index + 1] = [(start, stop)] if start < stop else []


def load_record(
    record: np.ndarray, *, crop: int, scale: float | None, rng: np.random.Generator
) -> np.ndarray:
    """Crops a record [T, C] at random to [crop, C]; with a scale to millivolts."""
    start = int(rng.integers(len(record) - crop + 1))
    cropped = record[start : start + crop]
    return cropped if scale is None else cropped.astype(np.float32) * np.float32(scale)


def batches(
    array: np.ndarray,
    batch_size: int,
    seed: int,
    *,
    scale: float | None = None,
    crop: int = 1000,
    patch_size: int = 25,
    min_block: int = 10,
    masked: tuple[float, float] = (0.75, 0.85),
) -> Iterator[Batch]:
    """Yields shuffled batches without end; every epoch drops its incomplete one.

    Args:
        array: [N, T, C] int16, in memory or a memory map.
        batch_size: B.
        seed: of the order, the crops and the masks.
        scale: millivolts per unit of `array`; None leaves the integers.
        crop: samples kept of each record.
        patch_size: samples of a patch; it divides `crop`.
        min_block: fewest patches of a masked block.
        masked: range of the masked share. It is drawn once per batch, as in the
            published runs, so that all records have K context patches, L masked ones.

    Yields:
        ecg [B, crop, C] int16, or float32 millivolts, context [B, K] and target [B, L] int64.

    Raises:
        ValueError: the sizes do not fit each other.
    """
    if len(array) < batch_size or array.shape[1] < crop or crop % patch_size:
        raise ValueError(
            f"array {array.shape} must hold a batch of {batch_size} records of {crop} "
            f"samples, and {crop} be a multiple of the patch size {patch_size}"
        )
    rng = np.random.default_rng(seed)
    num_patches = crop // patch_size
    patches = np.arange(num_patches)
    while True:
        order = rng.permutation(len(array))
        for first in range(0, len(order) - batch_size + 1, batch_size):
            num_masked = round(rng.uniform(*masked) * num_patches)
            ecgs, contexts, targets = [], [], []
            for index in order[first : first + batch_size]:
                ecgs.append(load_record(array[index], crop=crop, scale=scale, rng=rng))
                kept = np.zeros(num_patches, bool)
                for start, stop in mask_intervals(
                    num_patches, num_masked, min_block=min_block, rng=rng
                ):
                    kept[start:stop] = True
                contexts.append(patches[kept])
                targets.append(patches[~kept])
            yield np.stack(ecgs), np.stack(contexts), np.stack(targets)
