"""What the forward pass of a block keeps for the backward pass, and what it makes again."""

from typing import Any, Literal

import flax.linen as nn
import jax

Remat = Literal["none", "products", "full"]


def rematerialised(block: Any, remat: Remat, *, prevent_cse: bool = True) -> Any:
    """A class of modules that keeps less (arXiv 1604.06174).

    Args:
      block: the class; its inputs are kept in any case.
      remat: 'none' keeps all that the gradient needs; 'products' the results of matrix
        products and convolutions, so that only what is cheap is computed again; 'full'
        nothing else.
      prevent_cse: whether the compiler could undo it, as it cannot within a scan.

    Raises:
      ValueError: an unknown policy.
    """
    if remat not in _POLICIES:
        raise ValueError(
            f"remat: expected one of {', '.join(_POLICIES)}, found {remat!r}"
        )
    if remat == "none":
        return block
    return nn.remat(block, prevent_cse=prevent_cse, policy=_POLICIES[remat])


def _is_product(primitive: Any, *_: Any, **params: Any) -> bool:
    """Whether it is a convolution, or a matrix product of activations and parameters.

    Those of attention, of which each has [N, N] numbers a row, have batch axes.
    """
    if primitive is jax.lax.dot_general_p:
        _, batch = params["dimension_numbers"]
        return not any(batch)
    return primitive is jax.lax.conv_general_dilated_p


_POLICIES = {"none": None, "products": _is_product, "full": None}
