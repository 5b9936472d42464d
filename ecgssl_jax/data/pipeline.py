"""Batches as a pure function of (seed, step), with tf.data.

Step s of a run takes the positions s * B ... s * B + B - 1 of an endless sequence
of epochs, each a seeded permutation of the records that needs no buffer. Crops and
masks come from counter-based random numbers keyed by seed and step, drawn for the
global batch and then sliced. So any process, from any step on, sees the same rows.
"""

import dataclasses
import os
from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from ecgssl_jax.data.masks import Blocks, Multiblock, Random
from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.data.text import PAD, Texts
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
      labels: [N, Y] of 0 and 1, and which of them are known, of all N records of the
        set; None for batches without labels.
      texts: of the set (`data.text.encode_sets`), None for batches without text.
    """

    prepared: PreparedSet
    data: Data
    records: np.ndarray
    masks: Multiblock | Blocks | Random | None
    num_patches: int
    seed: int
    batch_size: int
    labels: tuple[np.ndarray, np.ndarray] | None = None
    texts: Texts | None = None

    def batches(
        self, start: int, stop: int, rows: slice | None = None
    ) -> Generator[dict[str, np.ndarray], None, None]:
        """Batches of the steps `start` ... `stop` - 1.

        Args:
          rows: the rows of the global batch that are wanted; None for all.

        Returns:
          A generator of batches; close it to end the pipeline's threads. With the
          device cache, `row`, a place in `records`, and `start` stand for a signal.
        """
        failures: list[Exception] = []
        dataset = self._dataset(start, stop, rows, failures)
        return _closing(dataset.prefetch(4).as_numpy_iterator(), failures)

    def example(self) -> dict[str, np.ndarray]:
        """The batch of step 0, read from disk whatever the cache."""
        batches = self._from_disk().batches(0, 1)
        try:
            return next(iter(batches))
        finally:
            batches.close()

    def shapes(self) -> dict[str, np.ndarray]:
        """Zeros of a complete global batch's shapes and dtypes; reads nothing."""
        spec = self._from_disk()._dataset(0, 1, None, []).element_spec
        return {
            name: np.zeros([self.batch_size, *x.shape[1:]], x.dtype.as_numpy_dtype)
            for name, x in spec.items()
        }

    def _from_disk(self) -> "Pipeline":
        data = dataclasses.replace(self.data, cache="none")
        return dataclasses.replace(self, data=data)

    def _dataset(
        self, start: int, stop: int, rows: slice | None, failures: list[Exception]
    ):
        """`failures` takes the errors of reading, which TensorFlow would reword."""
        tf = import_tensorflow()
        row_range = range(self.batch_size)[slice(None) if rows is None else rows]
        make = self._make_batch(tf, row_range, failures)
        # Without Python control flow to translate, which takes seconds to look for.
        make = tf.autograph.experimental.do_not_convert(make)
        dataset = tf.data.Dataset.range(start, stop)
        return dataset.map(make, num_parallel_calls=tf.data.AUTOTUNE)

    def _make_batch(
        self, tf, rows: range, failures: list[Exception]
    ) -> Callable[[Any], dict[str, Any]]:
        """A TensorFlow function: step -> the batch's `rows`."""
        index = self.prepared.index
        records = tf.constant(self.records, tf.int64)
        lengths = tf.constant(np.minimum(index["length"], self.prepared.length))
        patients = tf.constant(index["patient"])
        lead_valid = tf.constant(index["lead_valid"])
        crop, low = self.data.crop, rows.start
        has_short = bool((index["length"][self.records] < crop).any())
        signals = self._signals(tf, failures)
        add_text = self._texts(tf)
        labels = None
        if self.labels is not None:
            holds, known = self.labels
            labels = tf.constant(holds, tf.int8), tf.constant(known, tf.bool)

        def make(step):
            place = self._positions(tf, step, rows)
            record = tf.gather(records, place)
            length = tf.gather(lengths, record)
            uniform = self._uniforms(tf, step, _CROP_STREAM, 1)[low : rows.stop, 0]
            last_start = tf.maximum(length - crop, 0)
            start = tf.cast(uniform * tf.cast(last_start + 1, tf.float32), tf.int32)
            # The product can round up to the excluded end.
            start = tf.minimum(start, last_start)
            batch = {
                **signals(place, record, start),
                "source": tf.zeros(len(rows), tf.int32),
                "lead_valid": tf.gather(lead_valid, record),
                "record": tf.cast(record, tf.int32),
                "patient": tf.gather(patients, record),
            }
            if has_short:
                batch["length"] = tf.minimum(length - start, crop)
            if labels is not None:
                names = ("labels", "labels_valid")
                for name, table in zip(names, labels, strict=True):
                    batch[name] = tf.gather(table, record)
            if add_text is not None:
                batch |= add_text(record)
            if self.masks is not None:
                count = self.masks.num_uniforms(self.num_patches)
                uniform = self._uniforms(tf, step, _MASK_STREAM, count)
                uniform = uniform[low : rows.stop]
                tnp = tf.experimental.numpy
                batch |= self.masks.sample(uniform, self.num_patches, tnp)
            return batch

        return make

    def _texts(self, tf) -> Callable[[Any], dict[str, Any]] | None:
        """A TensorFlow function: records -> their texts; None without texts."""
        if self.texts is None:
            return None
        ids, table = tf.constant(self.texts.ids), tf.constant(self.texts.tokens)

        def gather(record):
            id = tf.gather(ids, record)
            # The first row of the table is that of no text, whose id is -1.
            tokens = tf.cast(tf.gather(table, id + 1), tf.int32)
            return {"text": tokens, "text_valid": tokens != PAD, "text_ids": id}

        return gather

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

    def _signals(
        self, tf, failures: list[Exception]
    ) -> Callable[[Any, Any, Any], dict[str, Any]]:
        """A TensorFlow function: places in `records`, records, starts -> crops."""
        crop, leads = self.data.crop, len(self.prepared.leads)

        if self.data.cache == "device":
            return lambda place, record, start: {
                "row": tf.cast(place, tf.int32),
                "start": start,
            }
        memory = self.prepared.load() if self.data.cache == "host" else None

        def fetch(records: np.ndarray, starts: np.ndarray) -> np.ndarray:
            try:
                if memory is not None:
                    return cut(memory, records, starts, crop)
                signals = self.prepared.read(records)
                return cut(signals, np.arange(len(records)), starts, crop)
            except Exception as error:
                failures.append(error)
                raise

        def from_host(place, record, start):
            ecg = tf.numpy_function(fetch, [record, start], tf.int16, stateful=False)
            ecg.set_shape([*record.shape, crop, leads])
            return {"ecg": ecg}

        return from_host


def _closing(
    iterator: Any, failures: list[Exception]
) -> Generator[dict[str, np.ndarray], None, None]:
    """The iterator's batches; closing this ends the threads that make them.

    A thread that calls Python amid the interpreter's exit aborts the process.
    """
    try:
        yield from iterator
    except Exception:
        if failures:
            raise failures[0] from None
        raise
    finally:
        # TensorFlow's iterators have no `close`: the last reference ends them.
        del iterator


def import_tensorflow() -> Any:
    """The module, quiet and without accelerators: those are JAX's."""
    # Its start-up hints are about kernels that no input pipeline uses, and one of
    # them ignores the log level. Errors stay.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    return tf


def cut(
    signals: np.ndarray, rows: np.ndarray, starts: np.ndarray, crop: int
) -> np.ndarray:
    """Crops [B, crop, C] that begin at `starts` [B] of `rows` [B] of [R, T, C]."""
    records, samples, leads = signals.shape
    flat = signals.reshape(records, samples * leads)
    # One axis of samples and leads, so that a crop is one run of memory to copy.
    windows = np.lib.stride_tricks.sliding_window_view(flat, crop * leads, axis=1)
    return windows[rows, starts * leads].reshape(-1, crop, leads)


def select_records(
    prepared: PreparedSet,
    folds: tuple[int, ...] | None,
    *,
    path: str = "config.data.folds",
) -> np.ndarray:
    """Rows of the set in these folds, None for all: [R] int64.

    Raises:
      ConfigError: a fold that the set does not have.
    """
    fold = prepared.index["fold"]
    if folds is None:
        return np.arange(len(prepared))
    missing = sorted(set(folds) - set(fold.tolist()))
    if missing:
        raise ConfigError(
            f"{path}: {prepared.name} has no fold {missing}, only "
            f"{sorted(set(fold.tolist()))} (-1 stands for none)"
        )
    rows = np.flatnonzero(np.isin(fold, folds))
    if not len(rows):
        raise ConfigError(f"{path}: {folds} holds no record of {prepared.name}")
    return rows


def check_crop(prepared: PreparedSet, crop: int) -> None:
    """Raises ConfigError unless the stored records are as long as the crop."""
    if not 1 <= crop <= prepared.length:
        raise ConfigError(
            f"config.data.crop: {crop} samples, but the records of {prepared.name} are "
            f"stored with {prepared.length} ({prepared.rate:g} Hz); lower the crop or "
            "prepare the set with longer windows (--seconds)"
        )
