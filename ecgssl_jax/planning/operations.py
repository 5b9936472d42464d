"""Operations of a traced program, with the bodies of loops as often as they turn."""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def matrix_flops(jaxpr: ClosedJaxpr) -> float:
    """FLOPs of matrix products and convolutions, of all devices together.

    A multiplication and an addition are two. What is computed again in the backward pass
    (`remat`) counts again. Of the branches of a condition the most expensive counts, and
    a loop that only its values end counts once.
    """
    return _of(jaxpr.jaxpr)


def _of(jaxpr: Jaxpr) -> float:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> float:
    name = equation.primitive.name
    if name == "dot_general":
        return _product(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    inner = [_of(each) for each in _inner(equation.params)]
    if name == "cond":
        return max(inner, default=0.0)
    total = sum(inner)
    if name == "scan":
        return total * equation.params["length"]
    if name == "shard_map":
        # Its body is that of one device.
        mesh = equation.params["mesh"]
        # JAX has renamed it.
        names = ("newly_manual_axes", "manual_axes")
        axes = next(equation.params[name] for name in names if name in equation.params)
        return total * math.prod(mesh.shape[axis] for axis in axes)
    return total


def _inner(params: dict[str, Any]) -> Iterator[Jaxpr]:
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, Jaxpr):
                yield each


def _product(equation: Any) -> float:
    left, _ = (x.aval.shape for x in equation.invars)
    (contracted, _), _ = equation.params["dimension_numbers"]
    depth = math.prod(left[axis] for axis in contracted)
    return 2.0 * depth * math.prod(equation.outvars[0].aval.shape)


def _convolution(equation: Any) -> float:
    kernel = equation.invars[1].aval.shape
    spec: jax.lax.ConvDimensionNumbers = equation.params["dimension_numbers"]
    # Input features of a group, and the places of the kernel; gradients are convolutions
    # of their own, with dilated inputs whose zeros are not computed with.
    depth = math.prod(kernel[axis] for axis in spec.rhs_spec[1:])
    out = math.prod(equation.outvars[0].aval.shape)
    zeros = math.prod(equation.params["lhs_dilation"])
    return 2.0 * depth * out / zeros
