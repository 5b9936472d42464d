"""`tf.train.Example` messages written and located byte by byte.

TFDS stores every record as such a message. TensorFlow's own serialiser writes
the features in arbitrary order and parses them at a few thousand records a
second. Here the signal always comes first, at an offset that two lengths
determine, so that a reader takes it with one copy and without TensorFlow.

Format: protobuf wire encoding of `tensorflow/core/example/example.proto`
(Example.features = 1, Features.feature = map field 1, Feature.bytes_list = 1,
Feature.int64_list = 3).
"""

from collections.abc import Mapping, Sequence

import numpy as np

SIGNAL = "ecg"


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative int64: two's complement, ten bytes
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(payload)) + payload


def _bytes_feature(value: bytes) -> bytes:
    return _field(1, _field(1, value))


def _int64_feature(values: Sequence[int]) -> bytes:
    return _field(3, _field(1, b"".join(_varint(int(value)) for value in values)))


def _entry(name: str, feature: bytes) -> bytes:
    return _field(1, _field(1, name.encode()) + _field(2, feature))


def signal_header(num_bytes: int) -> bytes:
    """What stands between the message's own header and a signal of that size."""
    # Only the lengths matter, so the payload is built once and cut off again.
    return _entry(SIGNAL, _bytes_feature(bytes(num_bytes)))[:-num_bytes]


def encode(signal: bytes, features: Mapping[str, bytes | Sequence[int]]) -> bytes:
    """A serialised Example: the signal, then `features` in their order.

    Bytes become a bytes list of one element, integers an int64 list.
    """
    entries = [_entry(SIGNAL, _bytes_feature(signal))]
    for name, value in features.items():
        is_bytes = isinstance(value, bytes)
        feature = _bytes_feature(value) if is_bytes else _int64_feature(value)
        entries.append(_entry(name, feature))
    return _field(1, b"".join(entries))


def signal_view(message: bytes, header: bytes, count: int) -> np.ndarray:
    """The signal of a message that `encode` wrote, without copying it.

    Args:
      message: the serialised Example.
      header: `signal_header` of the signal's size.
      count: number of int16 samples.

    Returns:
      [count] int16, little-endian.

    Raises:
      ValueError: the message does not hold such a signal in its first place.
    """
    start = 1
    while start < len(message) and message[start] & 0x80:
        start += 1
    start += 1
    stop = start + len(header)
    if message[start:stop] != header or len(message) < stop + 2 * count:
        raise ValueError(
            f"no {SIGNAL!r} of {count} int16 samples at the start of the message"
        )
    return np.frombuffer(message, "<i2", count, stop)
