"""A digest of an array's bits that any sharding and any number of processes share.

Two sums over the array's 32-bit words. With w the word at flat (row-major)
position p, and `mix` a bijection of 32-bit integers,

    v = mix(w ^ mix(p + c))        first = sum of v        mod 2**32
                                   second = sum of v * (mix(p + c) | 1)  mod 2**32

Sums modulo 2**32 are exact in any order, so the digest does not depend on how the
array is laid out over devices or in which order they are added up.

Any change confined to one word, such as one flipped bit, changes both sums: for a
given p, w -> v is a bijection, so v changes by some d with 0 < d < 2**32; the first
sum changes by d. The second changes by d * a with a odd, and odd numbers are
invertible modulo 2**32, so d * a is not 0. Changes of several words go unnoticed
with probability about 2**-64. (A plain sum of weight * word would miss two flipped
top bits, since odd * 2**31 is 2**31 whatever the weight: hence the mixing.)
"""

import contextlib
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

_OFFSET = 0x9E3779B9
# One NumPy block of words; bounds the temporaries to a few megabytes.
_BLOCK = 1 << 18


def digest_arrays(arrays: Mapping[str, jax.Array]) -> dict[str, str]:
    """Digests of device arrays, computed where they are; blocks until they are done.

    Args:
      arrays: name -> array of any shape, sharding and dtype of 1, 2, 4 or 8 bytes
        (or PRNG keys). With several processes, each must pass the same names.

    Returns:
      Name -> 16 hexadecimal digits, the same in every process.
    """
    # Compiled once per shape, dtype and sharding: a tree of many equal layers costs
    # a handful of compilations, where one program for the whole tree costs them all.
    sums = {}
    for name, array in arrays.items():
        sums[name] = _sums(array)
        if jax.default_backend() == "cpu":
            # With many small programs in flight, processes of several CPU devices come
            # to wait for each other's for ever.
            jax.block_until_ready(sums[name])
    return {name: _hex(*pair) for name, pair in jax.device_get(sums).items()}


def digest_files(files: Iterable[Path]) -> str:
    """SHA-256 of the content of the files, in their order; of those that can be read."""
    found = hashlib.sha256()
    for file in files:
        with contextlib.suppress(OSError):  # a package installed without sources
            found.update(file.read_bytes())
    return found.hexdigest()


def digest_numpy(array: np.ndarray) -> str:
    """The digest of `digest_arrays` for a NumPy array."""
    words = _numpy_words(array)
    first = second = 0
    with np.errstate(over="ignore"):
        for start in range(0, words.size, _BLOCK):
            block = words[start : start + _BLOCK].astype(np.uint32)
            position = np.arange(start, start + block.size).astype(np.uint32)
            weight = _mix(position + np.uint32(_OFFSET))
            value = _mix(block ^ weight)
            first += int(value.sum(dtype=np.uint64))
            second += int((value * (weight | np.uint32(1))).sum(dtype=np.uint64))
    return _hex(first % 2**32, second % 2**32)


@jax.jit
def _sums(array: jax.Array) -> tuple[jax.Array, jax.Array]:
    words = _words(array)
    # Row-major position, built from one iota per axis: a reshape to one axis would
    # gather a sharded array onto every device.
    position = jnp.full(words.shape, _OFFSET, jnp.uint32)
    stride = 1
    for axis in reversed(range(words.ndim)):
        index = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        position += index * np.uint32(stride % 2**32)
        stride *= words.shape[axis]
    weight = _mix(position)
    value = _mix(words ^ weight)
    # Both sums in one reduction: as two, XLA for CPU keeps `value` and `weight` in
    # memory, twice the size of the array.
    zero = np.uint32(0)
    first, second = jax.lax.reduce(
        (value, value * (weight | np.uint32(1))),
        (zero, zero),
        lambda a, b: (a[0] + b[0], a[1] + b[1]),
        tuple(range(words.ndim)),
    )
    return first, second


def _mix(x):
    """A bijection of uint32 that spreads every bit over all others.

    The finaliser of MurmurHash3 (Appleby 2011): xor-shifts and odd factors, each
    of them invertible.
    """
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x85EBCA6B)
    x = x ^ (x >> np.uint32(13))
    x = x * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def _words(array: jax.Array) -> jax.Array:
    """The bits as uint32, [..., words per element]; narrow elements zero-extended."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        array = jnp.stack([array.real, array.imag], axis=-1)
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)
    bits = _bits(array.dtype)
    if bits >= 32:
        return jax.lax.bitcast_convert_type(array, jnp.uint32)
    narrow = {8: jnp.uint8, 16: jnp.uint16}[bits]
    return jax.lax.bitcast_convert_type(array, narrow).astype(jnp.uint32)


def _numpy_words(array: np.ndarray) -> np.ndarray:
    """[words] of uint8, uint16 or uint32, in the order of `_words`."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype == np.bool_:
        return flat.view(np.uint8)
    bits = min(_bits(flat.dtype), 32)
    return flat.view({8: np.uint8, 16: np.uint16, 32: "<u4"}[bits])


def _bits(dtype: np.dtype) -> int:
    """Bits of an element as stored."""
    if jnp.issubdtype(dtype, jnp.integer):
        bits = jnp.iinfo(dtype).bits
    elif jnp.issubdtype(dtype, jnp.floating):
        bits = jnp.finfo(dtype).bits
    else:
        bits = 8 * np.dtype(dtype).itemsize
    if bits % 8:
        raise TypeError(
            f"no digest for {np.dtype(dtype).name}: its {bits} bits are no whole "
            "bytes; keep such arrays in int8 or wider in the state"
        )
    return bits


def _hex(first: int, second: int) -> str:
    return f"{int(first):08x}{int(second):08x}"
