import numpy as np
import pytest

from ecgssl_jax.data import example


@pytest.mark.parametrize("num_samples", [1, 63, 64, 12_000, 60_000])
def test_tensorflow_reads_what_encode_writes(num_samples):
    tf = pytest.importorskip("tensorflow")
    signal = np.arange(num_samples, dtype="<i2").tobytes()
    features = {
        "text": "Größe".encode(),
        "empty": b"",
        "numbers": [0, 1, -1, 2**31 - 1, -(2**31)],
    }
    parsed = tf.train.Example.FromString(example.encode(signal, features))
    found = parsed.features.feature
    assert set(found) == {"ecg", *features}
    assert found["ecg"].bytes_list.value[:] == [signal]
    assert found["text"].bytes_list.value[:] == ["Größe".encode()]
    assert found["empty"].bytes_list.value[:] == [b""]
    assert found["numbers"].int64_list.value[:] == features["numbers"]


@pytest.mark.parametrize("num_samples", [1, 60, 12_000, 60_000])
def test_signal_view_finds_the_signal_whatever_follows_it(num_samples):
    signal = np.random.default_rng(0).integers(-9, 9, num_samples).astype("<i2")
    header = example.signal_header(2 * num_samples)
    for text in (b"", b"x" * 200, b"x" * 20_000):
        message = example.encode(signal.tobytes(), {"text": text})
        found = example.signal_view(message, header, num_samples)
        np.testing.assert_array_equal(found, signal)


def test_signal_view_refuses_another_size():
    message = example.encode(bytes(200), {})
    with pytest.raises(ValueError, match="no 'ecg' of 99 int16 samples"):
        example.signal_view(message, example.signal_header(198), 99)
