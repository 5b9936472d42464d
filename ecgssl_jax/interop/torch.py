"""Published PyTorch checkpoints -> our modules and parameters.

The state dictionaries come as NumPy arrays, so PyTorch itself is not needed:
`{name: tensor.numpy() for name, tensor in torch.load(file)["model"].items()}`.
"""

import re
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ecgssl_jax.models import resnet, vit
from ecgssl_jax.models.network import Network
from ecgssl_jax.rules import path_string

Arrays = Mapping[str, np.ndarray]


class Loaded(NamedTuple):
    """A module and what to apply it with: `module.apply(params, ...)`.

    `statistics` are the running ones of batch norms, {} where there are none.
    """

    module: Network
    params: dict[str, Any]
    statistics: Mapping[str, Any] = types.MappingProxyType({})


def load(
    state_dict: Arrays,
    layout: str,
    *,
    num_heads: int | None = None,
    predictor_num_heads: int | None = None,
) -> dict[str, Loaded]:
    """Reads a published checkpoint.

    Args:
      state_dict: parameter name -> array, in PyTorch's layouts. Names may be
        joined by '.' or '/', and carry the prefix 'module.'.
      layout: 'weimann' (ECG-JEPA, arXiv 2410.13867), 'ijepa1d' (I-JEPA,
        arXiv 2301.08243, on 1-D patches) or 'resnet1d' (a residual network of 1-D
        convolutions, named as in torchvision; one module, 'encoder', whose name may
        be left out).
      num_heads: heads of the transformers; the arrays do not tell.
      predictor_num_heads: heads of the predictor; `num_heads` if None.

    Returns:
      Module name ('encoder', 'target_encoder', 'predictor': those that are there)
      -> module, parameters and statistics.

    Raises:
      ValueError: an unknown layout, or arrays that are missing, left over or of
        a shape that does not fit, by name.
    """
    if layout not in _LAYOUTS:
        raise ValueError(
            f"unknown layout {layout!r}; known are {', '.join(sorted(_LAYOUTS))}"
        )
    if not state_dict:
        raise ValueError("the checkpoint holds no arrays; pass {name: array, ...}")
    if layout == "resnet1d":
        num_heads = 0
    if num_heads is None:
        raise ValueError(f"layout {layout!r} needs num_heads; the arrays do not tell")
    groups: dict[str, dict[str, np.ndarray]] = {}
    for name, array in state_dict.items():
        name = name.replace("/", ".").removeprefix("module.")
        if layout == "resnet1d" and not name.startswith("encoder."):
            name = f"encoder.{name}"
        module, _, rest = name.partition(".")
        rest = rest.removeprefix("module.")
        groups.setdefault(module, {})[rest] = np.asarray(array)
    heads = {"predictor": predictor_num_heads or num_heads}
    loaded = {}
    for module, arrays in groups.items():
        if module not in _LAYOUTS[layout]:
            raise ValueError(
                f"{module!r} is no module of layout {layout!r}, which has "
                f"{', '.join(_LAYOUTS[layout])}; pass the arrays of those only, "
                "each name starting with its module"
            )
        read = _LAYOUTS[layout][module]
        loaded[module] = read(_Reader(module, arrays), heads.get(module, num_heads))
    return loaded


class _Reader:
    """The arrays of one module; remembers which were used."""

    def __init__(self, module: str, arrays: dict[str, np.ndarray]):
        self.module = module
        self._arrays = dict(arrays)

    def take(self, name: str, *, optional: bool = False) -> np.ndarray | None:
        if name not in self._arrays and not optional:
            raise ValueError(f"{self.module}: the checkpoint lacks {name!r}")
        return self._arrays.pop(name, None)

    def array(self, name: str, shape: tuple[int | None, ...] = ()) -> np.ndarray:
        """The array; where a shape is given, it must have it (None: any size)."""
        array = self.take(name)
        assert array is not None
        fits = len(array.shape) == len(shape) and all(
            size in (None, found)
            for size, found in zip(shape, array.shape, strict=True)
        )
        if shape and not fits:
            raise ValueError(
                f"{self.module}: {name} has the shape {array.shape}, expected "
                f"{tuple('any' if size is None else size for size in shape)}"
            )
        return array

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._arrays:
            raise ValueError(f"{self.module}: the checkpoint lacks {name!r}")
        return self._arrays[name].shape

    def has(self, name: str) -> bool:
        return name in self._arrays

    def depth(self, prefix: str) -> int:
        pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
        found = (pattern.match(name) for name in self._arrays)
        return 1 + max((int(m.group(1)) for m in found if m), default=-1)

    def finish(self) -> None:
        if self._arrays:
            raise ValueError(
                f"{self.module}: arrays that this layout does not know: "
                f"{', '.join(sorted(self._arrays))}"
            )


def _linear(
    reader: _Reader, name: str, shape: tuple[int | None, int | None] = (None, None)
) -> dict[str, np.ndarray]:
    """Linear [out, in] -> kernel [in, out]."""
    params = {"kernel": reader.array(f"{name}.weight", shape).T}
    bias = reader.take(f"{name}.bias", optional=True)
    return params if bias is None else params | {"bias": bias}


def _norm(reader: _Reader, name: str) -> dict[str, np.ndarray]:
    params = {"scale": reader.array(f"{name}.weight")}
    bias = reader.take(f"{name}.bias", optional=True)
    return params if bias is None else params | {"bias": bias}


def _block(reader: _Reader, name: str, num_heads: int) -> dict[str, Any]:
    width = reader.shape(f"{name}.norm1.weight")[0]
    qkv = _linear(reader, f"{name}.attn.qkv", (3 * width, width))
    out = _linear(reader, f"{name}.attn.proj", (width, width))
    heads = (num_heads, width // num_heads)
    # PyTorch stacks all queries, all keys, all values; ours go head by head.
    qkv = {
        key: value.reshape(*value.shape[:-1], 3, *heads).swapaxes(-3, -2)
        for key, value in qkv.items()
    }
    out["kernel"] = out["kernel"].reshape(*heads, width)
    return {
        "norm1": _norm(reader, f"{name}.norm1"),
        "attention": {"qkv": qkv, "out": out},
        "norm2": _norm(reader, f"{name}.norm2"),
        "mlp": {
            "in": _linear(reader, f"{name}.mlp.fc1"),
            "out": _linear(reader, f"{name}.mlp.fc2"),
        },
    }


def _blocks(reader: _Reader, name: str, norm: str, num_heads: int) -> dict[str, Any]:
    depth = reader.depth(name)
    layers = {
        f"block_{i}": _block(reader, f"{name}.{i}", num_heads) for i in range(depth)
    }
    return layers | {"norm": _norm(reader, norm)}


def _transformer_settings(
    reader: _Reader, blocks: str, width: int, num_heads: int
) -> dict[str, Any]:
    if width % num_heads:
        raise ValueError(
            f"{reader.module}: a width of {width} cannot be split into {num_heads} "
            "heads; pass the published number of heads"
        )
    return dict(
        width=width,
        depth=reader.depth(blocks),
        num_heads=num_heads,
        mlp_ratio=reader.shape(f"{blocks}.0.mlp.fc1.weight")[0] / width,
        use_bias=reader.has(f"{blocks}.0.attn.qkv.bias"),
        exact_gelu=True,
        norm_eps=1e-6,
    )


def _finish(
    reader: _Reader, module: Network, params: dict[str, Any], *inputs, **kwargs
) -> Loaded:
    """Checks that everything was used and that the shapes are the module's."""
    reader.finish()
    params = jax.tree.map(np.ascontiguousarray, params)
    expected = jax.eval_shape(
        lambda key: module.init(key, *inputs, **kwargs), jax.random.key(0)
    )
    found, wanted = _shapes(params), _shapes(expected)
    wrong = [
        f"{name} {found.get(name, 'missing')} (expected {wanted.get(name, 'none')})"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if wrong:
        raise ValueError(
            f"{reader.module}: arrays that do not fit the others, by our names and "
            f"shapes: {', '.join(wrong)}"
        )
    return Loaded(module, params)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_string(p): x.shape for p, x in leaves}


def _encoder(
    reader: _Reader, num_heads: int, *, interleaved: bool, unused: tuple[str, ...] = ()
) -> Loaded:
    for name in unused:
        reader.take(name, optional=True)
    kernel = reader.array("patch_embed.proj.weight", (None,) * 3)  # [D, C, P]
    width, leads, patch_size = kernel.shape
    settings = _transformer_settings(reader, "blocks", width, num_heads)
    table = reader.take("pos_embed", optional=True)
    if table is not None:
        _check_positions(reader, table[0], interleaved)
    registers = reader.take("registers", optional=True)
    module = vit.ViT(
        patch_size=patch_size,
        num_registers=0 if registers is None else registers.shape[1],
        interleaved_positions=interleaved,
        **settings,
    )
    embedding = {"kernel": kernel.transpose(2, 1, 0).reshape(-1, width)}
    bias = reader.take("patch_embed.proj.bias", optional=True)
    if bias is not None:
        embedding["bias"] = bias
    params: dict[str, Any] = {
        "patch_embedding": embedding,
        "transformer": _blocks(reader, "blocks", "norm", num_heads),
    }
    if registers is not None:
        params["registers"] = registers[0]
    ecg = np.zeros((1, 2 * patch_size, leads), np.float32)
    return _finish(reader, Network(module), params, ecg)


def _predictor(
    reader: _Reader, num_heads: int, *, interleaved: bool, prefix: str
) -> Loaded:
    mask_token = reader.array("mask_token")  # [1, 1, D]
    width = mask_token.shape[-1]
    settings = _transformer_settings(reader, f"{prefix}blocks", width, num_heads)
    table = reader.take(f"{prefix}pos_embed", optional=True)
    if table is not None:
        _check_positions(reader, table[0], interleaved)
    embedding = _linear(reader, f"{prefix}embed")
    projection = _linear(reader, f"{prefix}proj")
    module = vit.Predictor(
        out_width=projection["kernel"].shape[1],
        interleaved_positions=interleaved,
        **settings,
    )
    params = {
        "mask_token": mask_token[0, 0],
        "embedding": embedding,
        "transformer": _blocks(reader, f"{prefix}blocks", f"{prefix}norm", num_heads),
        "projection": projection,
    }
    context = np.zeros((1, 1, embedding["kernel"].shape[0]), np.float32)
    return _finish(
        reader,
        Network(module),
        params,
        context,
        np.ones((1, 1), bool),
        np.zeros((1, 2), np.int32),
        num_patches=2,
        num_targets=1,
    )


def _check_positions(reader: _Reader, table: np.ndarray, interleaved: bool) -> None:
    ours = vit.sine_cosine_positions(*table.shape, interleaved=interleaved)
    error = float(np.abs(ours - table).max())
    if error > 1e-4:
        raise ValueError(
            f"{reader.module}: its position table is not the fixed sine-cosine one of "
            f"this layout (largest difference {error:.2g}); learned positions are "
            "not supported"
        )


def _weimann_encoder(reader: _Reader, num_heads: int) -> Loaded:
    return _encoder(reader, num_heads, interleaved=True)


def _weimann_predictor(reader: _Reader, num_heads: int) -> Loaded:
    return _predictor(reader, num_heads, interleaved=True, prefix="")


def _ijepa_encoder(reader: _Reader, num_heads: int) -> Loaded:
    # The published encoder carries a mask token that nothing reads.
    return _encoder(reader, num_heads, interleaved=False, unused=("mask_token",))


def _ijepa_predictor(reader: _Reader, num_heads: int) -> Loaded:
    return _predictor(reader, num_heads, interleaved=False, prefix="predictor_")


def _resnet(reader: _Reader, num_heads: int) -> Loaded:
    """Names as in torchvision: conv1, bn1, layer1.0.conv1, layer1.0.downsample.0."""
    features, leads, _ = reader.shape("conv1.weight")
    blocks = []
    while depth := reader.depth(f"layer{len(blocks) + 1}"):
        blocks.append(depth)
    module = resnet.ResNet(
        blocks=tuple(blocks),
        bottleneck=reader.has("layer1.0.conv3.weight"),
        features=features,
        widening=reader.shape("layer1.0.conv1.weight")[0] / features,
    )
    # Their names of each convolution and its norm, below our place for them.
    places = {"": [("conv1", "bn1", "conv", "norm")]}
    for stage, depth in enumerate(blocks, 1):
        for number in range(depth):
            prefix = f"layer{stage}.{number}"
            pairs = [
                (f"{prefix}.conv{n}", f"{prefix}.bn{n}", f"conv{n}", f"norm{n}")
                for n in (1, 2, 3)
                if reader.has(f"{prefix}.conv{n}.weight")
            ]
            shortcut = f"{prefix}.downsample"
            if reader.has(f"{shortcut}.0.weight"):
                names = f"{shortcut}.0", f"{shortcut}.1", "shortcut", "shortcut_norm"
                pairs.append(names)
            places[f"stage{stage}_block{number + 1}"] = pairs
    params: dict[str, Any] = {}
    statistics: dict[str, Any] = {}
    for place, pairs in places.items():
        arrays, running = {}, {}
        for conv, norm, our_conv, our_norm in pairs:
            kernel = reader.array(f"{conv}.weight", (None,) * 3)  # [out, in, width]
            arrays[our_conv] = {"kernel": kernel.transpose(2, 1, 0)}
            arrays[our_norm] = _norm(reader, norm)
            running[our_norm] = _running_statistics(reader, norm, len(kernel))
        for tree, found in ((params, arrays), (statistics, running)):
            tree |= {place: found} if place else found
    ecg = np.zeros((1, 4 * module.stride, leads), np.float32)
    return _finish(reader, Network(module), params, ecg)._replace(statistics=statistics)


def _running_statistics(reader: _Reader, name: str, size: int) -> dict[str, np.ndarray]:
    """Those of a norm that has seen nothing where the checkpoint has none."""
    reader.take(f"{name}.num_batches_tracked", optional=True)
    mean = reader.take(f"{name}.running_mean", optional=True)
    variance = reader.take(f"{name}.running_var", optional=True)
    return {
        "mean": np.zeros(size, np.float32) if mean is None else mean,
        "var": np.ones(size, np.float32) if variance is None else variance,
    }


_LAYOUTS: dict[str, dict[str, Callable[[_Reader, int], Loaded]]] = {
    "weimann": {
        "encoder": _weimann_encoder,
        "target_encoder": _weimann_encoder,
        "predictor": _weimann_predictor,
    },
    "ijepa1d": {
        "encoder": _ijepa_encoder,
        "target_encoder": _ijepa_encoder,
        "predictor": _ijepa_predictor,
    },
    "resnet1d": {"encoder": _resnet},
}
