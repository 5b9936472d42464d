"""Batches as a pure function of (seed, step), with tf.data.

Step s of a run takes the positions s * B ... s * B + B - 1 of an endless sequence
of epochs, each a seeded permutation of the records that needs no buffer. Crops and
masks come from counter-based random numbers keyed by seed and step, drawn for the
global batch and then sliced. So any process, from any step on, sees the same rows.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ecgssl_jax.data.masks import Blocks, Multiblock, Random
from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.experiment import Data
from ecgssl_jax.settings import ConfigError

# Streams of random numbers of one (seed, step).
_CROP_STREAM, _MASK_STREAM = 0, 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline:
    """The batches of one run.

    Attributes:
      prepared: the set that the records come from.
      data: `config.data`.
      records: [R] int64, the set's rows to train on.
      masks: what to mask, None for no masks.
      num_patches: N patches of a crop; only used with masks.
      seed, batch_size: of the run; B rows of the global batch.
    """

    prepared: PreparedSet
    data: Data
    records: np.ndarray
    masks: Multiblock | Blocks | Random | None
    num_patches: int
    seed: int
    batch_size: int

    def batches(
        self, start: int, stop: int, rows: slice | None = None
    ) -> Iterator[dict[str, np.ndarray]]:
        """Batches of the steps `start` ... `stop` - 1.

        Args:
          rows: the rows of the global batch that are wanted; None for all.
        """
        import tensorflow as tf

        # The accelerators are JAX's.
        tf.config.set_visible_devices([], "GPU")
        row_range = range(self.batch_size)[slice(None) if rows is None else rows]
        make = self._make_batch(tf, row_range)
        dataset = tf.data.Dataset.range(start, stop)
        dataset = dataset.map(make, num_parallel_calls=tf.data.AUTOTUNE)
        return dataset.prefetch(4).as_numpy_iterator()

    def example(self) -> dict[str, np.ndarray]:
        """One global batch of step 0, for its shapes and dtypes."""
        return next(iter(self.batches(0, 1)))

    def _make_batch(self, tf, rows: range) -> Callable[[Any], dict[str, Any]]:
        """A TensorFlow function: step -> the batch's `rows`."""
        index = self.prepared.index
        records = tf.constant(self.records, tf.int64)
        lengths = tf.constant(np.minimum(index["length"], self.prepared.length))
        patients = tf.constant(index["patient"])
        lead_valid = tf.constant(index["lead_valid"])
        crop, low = self.data.crop, rows.start
        has_short = bool((index["length"][self.records] < crop).any())
        signals = self._signals(tf)

        def make(step):
            record = tf.gather(records, self._positions(tf, step, rows))
            length = tf.gather(lengths, record)
            uniform = self._uniforms(tf, step, _CROP_STREAM, 1)[low : rows.stop, 0]
            last_start = tf.maximum(length - crop, 0)
            start = tf.cast(uniform * tf.cast(last_start + 1, tf.float32), tf.int32)
            # The product can round up to the excluded end.
            start = tf.minimum(start, last_start)
            batch = {
                **signals(record, start),
                "source": tf.zeros(len(rows), tf.int32),
                "lead_valid": tf.gather(lead_valid, record),
                "record": tf.cast(record, tf.int32),
                "patient": tf.gather(patients, record),
            }
            if has_short:
                batch["length"] = tf.minimum(length - start, crop)
            if self.masks is not None:
                count = self.masks.num_uniforms(self.num_patches)
                uniform = self._uniforms(tf, step, _MASK_STREAM, count)
                uniform = uniform[low : rows.stop]
                tnp = tf.experimental.numpy
                batch |= self.masks.sample(uniform, self.num_patches, tnp)
            return batch

        return make

    def _positions(self, tf, step, rows: range):
        """[B'] int64: places in `records` of the global batch's `rows`."""
        total = len(self.records)
        position = step * self.batch_size + tf.range(rows.start, rows.stop, 1, tf.int64)
        epoch = position // total
        seed = tf.stack(
            [tf.fill(tf.shape(epoch), tf.cast(self.seed, tf.int64)), epoch, 0 * epoch],
            axis=1,
        )
        return tf.raw_ops.RandomIndexShuffle(
            index=position % total,
            seed=tf.cast(seed, tf.int32),
            max_index=tf.constant(total - 1, tf.int64),
            rounds=4,
        )

    def _uniforms(self, tf, step, stream: int, count: int):
        """[B, count] float32 in [0, 1) for the whole global batch."""
        seed = tf.stack([tf.cast(self.seed * 2 + stream, tf.int64), step])
        shape = [self.batch_size, count]
        return tf.random.stateless_uniform(shape, seed=seed, alg="philox")

    def _signals(self, tf) -> Callable[[Any, Any], dict[str, Any]]:
        """A TensorFlow function: records [B'], starts [B'] -> their crops."""
        crop, samples = self.data.crop, self.prepared.length
        leads = len(self.prepared.leads)

        if self.data.cache == "device":
            return lambda record, start: {
                "row": tf.cast(record, tf.int32),
                "start": start,
            }

        def crops(words, first):
            """[rows * samples, words of 8 bytes] at `first` [B'] -> [B', T, C]."""
            wanted = first[:, None] + tf.range(crop, dtype=tf.int64)
            picked = tf.bitcast(tf.gather(words, wanted), tf.int16)
            return tf.reshape(picked, [-1, crop, leads])

        if self.data.cache == "host":
            words = tf.constant(_as_words(self.prepared.load()))

            def from_memory(record, start):
                return {"ecg": crops(words, record * samples + tf.cast(start, tf.int64))}

            return from_memory

        def from_disk(record, start):
            words = tf.numpy_function(
                lambda rows: _as_words(self.prepared.read(rows)), [record], tf.int64
            )
            words.set_shape([None, leads // 4])
            first = tf.range(tf.size(record, tf.int64)) * samples
            return {"ecg": crops(words, first + tf.cast(start, tf.int64))}

        return from_disk


def _as_words(signals: np.ndarray) -> np.ndarray:
    """[n, T, C] int16 -> [n * T, C / 4] int64: gathers copy words faster."""
    records, samples, leads = signals.shape
    return np.ascontiguousarray(signals.reshape(records * samples, leads)).view("i8")


def select_records(prepared: PreparedSet, folds: tuple[int, ...] | None) -> np.ndarray:
    """Rows of the set in these folds: [R] int64.

    Raises:
      ConfigError: a fold that the set does not have.
    """
    fold = prepared.index["fold"]
    if folds is None:
        return np.arange(len(prepared))
    missing = sorted(set(folds) - set(fold.tolist()))
    if missing:
        raise ConfigError(
            f"config.data.folds: {prepared.name} has no fold {missing}, only "
            f"{sorted(set(fold.tolist()))}"
        )
    return np.flatnonzero(np.isin(fold, folds))


def check_crop(prepared: PreparedSet, crop: int) -> None:
    """Raises ConfigError unless the stored records are as long as the crop."""
    if not 1 <= crop <= prepared.length:
        raise ConfigError(
            f"config.data.crop: {crop} samples, but the records of {prepared.name} are "
            f"stored with {prepared.length} ({prepared.rate:g} Hz); lower the crop or "
            "prepare the set with longer windows (--seconds)"
        )
