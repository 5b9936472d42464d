import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ecgssl_jax import digest

DTYPES = ["bool", "int8", "uint8", "float8_e4m3fn", "int16", "bfloat16", "float16"]
DTYPES += ["int32", "uint32", "float32", "complex64"]
WIDE = ["int64", "float64", "complex128"]


def random_bits(shape, dtype, seed=0):
    """An array of random bit patterns, NaNs of all kinds included."""
    dtype = jnp.dtype(dtype)
    rng = np.random.default_rng(seed)
    if dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(bool)
    count = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(rng.bytes(count), dtype).reshape(shape)


def on_device(array):
    return digest.digest_arrays({"x": jnp.asarray(array)})["x"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (5, 3, 11)])
def test_device_and_numpy_agree(dtype, shape):
    array = random_bits(shape, dtype)
    assert on_device(array) == digest.digest_numpy(array)


@pytest.mark.parametrize("dtype", WIDE)
def test_device_and_numpy_agree_on_eight_byte_words(dtype):
    with jax.enable_x64(True):
        array = random_bits((5, 3), dtype)
        assert on_device(array) == digest.digest_numpy(array)


def test_numpy_blocks_join_up(monkeypatch):
    array = random_bits((1000,), "float32")
    whole = digest.digest_numpy(array)
    monkeypatch.setattr(digest, "_BLOCK", 64)
    assert digest.digest_numpy(array) == whole


def test_equals_the_formula_in_python_integers():
    def mix(x):
        x ^= x >> 16
        x = x * 0x85EBCA6B % 2**32
        x ^= x >> 13
        x = x * 0xC2B2AE35 % 2**32
        return x ^ x >> 16

    words = random_bits((6, 5), "uint32")
    first = second = 0
    for position, word in enumerate(words.reshape(-1).tolist()):
        weight = mix((position + 0x9E3779B9) % 2**32)
        value = mix(word ^ weight)
        first += value
        second += value * (weight | 1)
    assert on_device(words) == f"{first % 2**32:08x}{second % 2**32:08x}"


@pytest.mark.parametrize("spec", [P(), P("data"), P("fsdp", "data"), P(None, "fsdp")])
def test_does_not_depend_on_the_sharding(spec):
    array = random_bits((16, 24), "bfloat16")
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"))
    sharded = jax.device_put(array, NamedSharding(mesh, spec))
    assert on_device(sharded) == digest.digest_numpy(array)


def test_a_sharded_array_is_neither_gathered_nor_copied():
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"))
    array = jax.device_put(
        jnp.zeros((512, 1024)), NamedSharding(mesh, P("data", "fsdp"))
    )
    compiled = digest._sums.lower(array).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < array.nbytes / 8 / 100


@pytest.mark.parametrize("dtype", ["bool", "uint8", "bfloat16", "float32"])
def test_every_single_flipped_bit_changes_both_sums(dtype):
    array = random_bits((3, 4), dtype)
    sound = digest.digest_numpy(array)
    bits = 1 if dtype == "bool" else 8
    for byte in range(array.nbytes):
        for bit in range(bits):
            content = bytearray(array.tobytes())
            content[byte] ^= 1 << bit
            flipped = np.frombuffer(content, array.dtype).reshape(array.shape)
            found = digest.digest_numpy(flipped)
            assert found[:8] != sound[:8] and found[8:] != sound[8:]


def test_two_flipped_sign_bits_and_a_swap_change_it():
    array = random_bits((100,), "float32")
    signs = array.copy()
    signs[[3, 50]] *= -1
    swapped = array.copy()
    swapped[[3, 50]] = array[[50, 3]]
    found = [digest.digest_numpy(x) for x in (array, signs, swapped)]
    assert len(set(found)) == 3


def test_keys_count_by_their_data():
    keys = jax.random.split(jax.random.key(3), 5)
    data = np.asarray(jax.random.key_data(keys))
    assert on_device(keys) == digest.digest_numpy(data)


def test_refuses_elements_that_are_no_whole_bytes():
    with pytest.raises(TypeError, match="int4.*int8 or wider"):
        digest.digest_arrays({"x": jnp.zeros(3, jnp.int4)})
