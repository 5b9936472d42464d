"""Batches as a pure function of (seed, step), with tf.data.

Step s of a run takes the positions s * B ... s * B + B - 1 of an endless sequence
of epochs, each a seeded permutation of the records that needs no buffer. In a mixture
of sets, each has a sequence of its own, and a fixed pattern says which of them a
position takes from. Crops and masks come from counter-based random numbers keyed by
seed and step, drawn for the global batch, of which a process takes its rows. So any
process, from any step on, sees the same ones.
"""

import dataclasses
import os
from collections.abc import Callable, Generator
from typing import Any, Literal

import numpy as np

from ecgssl_jax.data.host_cache import load_records
from ecgssl_jax.data.masks import Blocks, Multiblock, Random
from ecgssl_jax.data.mixture import Mixture, even_slots
from ecgssl_jax.data.text import PAD, Texts

# Streams of random numbers of one (seed, step).
_CROP_STREAM, _MASK_STREAM = 0, 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline:
    """The batches of one run.

    Attributes:
      mixture: the records to train on, of one prepared set or several.
      crop: T, samples of a random crop of each record.
      cache: where the signals are: 'none' reads them on demand, 'host' from this
        machine's memory, and for 'device' batches say which and where to cut.
      masks: what to mask, None for no masks.
      num_patches: N patches of a crop; only used with masks.
      seed, batch_size: of the run; B rows of the global batch.
      labels: [N, Y] of 0 and 1, and which of them are known, of all N records of the
        mixture; None for batches without labels.
      texts: of the mixture's N records, None for batches without text.
    """

    mixture: Mixture
    crop: int
    cache: Literal["none", "host", "device"]
    masks: Multiblock | Blocks | Random | None
    num_patches: int
    seed: int
    batch_size: int
    labels: tuple[np.ndarray, np.ndarray] | None = None
    texts: Texts | None = None

    def batches(
        self, start: int, stop: int, rows: np.ndarray | None = None
    ) -> Generator[dict[str, np.ndarray], None, None]:
        """Batches of the steps `start` ... `stop` - 1.

        Args:
          rows: [b] of the global batch, those that are wanted; None for all.

        Returns:
          A generator of batches; close it to end the pipeline's threads. With the
          device cache, `row`, a place in `mixture.records`, and `start` stand for a
          signal.

        Raises:
          ConfigError: with the host cache, records that do not fit into memory.
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
        return dataclasses.replace(self, cache="none")

    def _dataset(
        self, start: int, stop: int, rows: np.ndarray | None, failures: list[Exception]
    ):
        """`failures` takes the errors of reading, which TensorFlow would reword."""
        tf = import_tensorflow()
        wanted = np.arange(self.batch_size) if rows is None else rows
        make = self._make_batch(tf, wanted, failures)
        # Without Python control flow to translate, which takes seconds to look for.
        make = tf.autograph.experimental.do_not_convert(make)
        dataset = tf.data.Dataset.range(start, stop)
        return dataset.map(make, num_parallel_calls=tf.data.AUTOTUNE)

    def _make_batch(
        self, tf, rows: np.ndarray, failures: list[Exception]
    ) -> Callable[[Any], dict[str, Any]]:
        """A TensorFlow function: step -> the batch's `rows`."""
        mixture, crop = self.mixture, self.crop
        own = tf.constant(rows, tf.int64)
        records = tf.constant(mixture.records, tf.int64)
        stored = mixture.column("length")
        lengths = tf.constant(stored)
        patients = tf.constant(mixture.patients)
        lead_valid = tf.constant(mixture.column("lead_valid"))
        has_short = bool((stored[mixture.records] < crop).any())
        find_places = self._places(tf, own)
        signals = self._signals(tf, failures)
        add_text = self._texts(tf)
        labels = None
        if self.labels is not None:
            holds, known = self.labels
            labels = tf.constant(holds, tf.int8), tf.constant(known, tf.bool)

        def make(step):
            source, place = find_places(step)
            record = tf.gather(records, place)
            length = tf.gather(lengths, record)
            uniform = self._uniforms(tf, step, _CROP_STREAM, 1)
            uniform = tf.gather(uniform[:, 0], own)
            last_start = tf.maximum(length - crop, 0)
            start = tf.cast(uniform * tf.cast(last_start + 1, tf.float32), tf.int32)
            # The product can round up to the excluded end.
            start = tf.minimum(start, last_start)
            batch = {
                **signals(place, start),
                "source": source,
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
                uniform = tf.gather(uniform, own)
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

    def _places(self, tf, own) -> Callable[[Any], tuple[Any, Any]]:
        """A TensorFlow function: step -> of the rows `own` [b] of the global batch.

        Gives their source, int32, and their places in `mixture.records`, int64.
        """
        totals = np.array([len(rows) for rows in self.mixture.rows])
        sources, ranks = even_slots(self.mixture.weights)
        period, slots = len(sources), np.bincount(sources)
        sources, ranks = tf.constant(sources), tf.constant(ranks)
        firsts = tf.constant(np.cumsum(totals) - totals)
        totals, slots = tf.constant(totals), tf.constant(slots)

        def find(step):
            position = step * self.batch_size + own
            # Of how many rows of the same source it comes after.
            slot = position % period
            source = tf.gather(sources, slot)
            count = position // period * tf.gather(slots, source)
            count += tf.gather(ranks, slot)
            total = tf.gather(totals, source)
            epoch = count // total
            seed = tf.stack(
                [
                    tf.fill(tf.shape(epoch), tf.cast(self.seed, tf.int32)),
                    tf.cast(epoch, tf.int32),
                    source,
                ],
                axis=1,
            )
            shuffled = tf.raw_ops.RandomIndexShuffle(
                index=count % total,
                seed=seed,
                max_index=total - 1,
                # With fewer, such as the usual 4, the orders of two epochs, and of
                # two seeds, resemble each other.
                rounds=16,
            )
            return source, tf.gather(firsts, source) + shuffled

        return find

    def _uniforms(self, tf, step, stream: int, count: int):
        """[B, count] float32 in [0, 1) for the whole global batch."""
        seed = tf.stack([tf.cast(self.seed * 2 + stream, tf.int64), step])
        shape = [self.batch_size, count]
        return tf.random.stateless_uniform(shape, seed=seed, alg="philox")

    def _signals(
        self, tf, failures: list[Exception]
    ) -> Callable[[Any, Any], dict[str, Any]]:
        """A TensorFlow function: places in `mixture.records`, starts -> crops."""
        mixture, crop, leads = self.mixture, self.crop, len(self.mixture.leads)

        if self.cache == "device":
            return lambda place, start: {
                "row": tf.cast(place, tf.int32),
                "start": start,
            }
        memory = load_records(mixture) if self.cache == "host" else None

        def fetch(places: np.ndarray, starts: np.ndarray) -> np.ndarray:
            try:
                if memory is not None:
                    return cut(memory, places, starts, crop)
                signals = mixture.read(mixture.records[places])
                return cut(signals, np.arange(len(places)), starts, crop)
            except Exception as error:
                failures.append(error)
                raise

        def from_host(place, start):
            ecg = tf.numpy_function(fetch, [place, start], tf.int16, stateful=False)
            ecg.set_shape([*place.shape, crop, leads])
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
