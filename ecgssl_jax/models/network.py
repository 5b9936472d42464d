"""A network as a pure pair of functions, so that only `models` knows Linen."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax

Params = Any


@dataclasses.dataclass(frozen=True)
class Network:
    """`init` makes parameters, `apply` uses any tree of the same shape."""

    module: nn.Module

    def init(self, rng: jax.Array, *inputs, **settings) -> Params:
        """The tree of parameters, float32."""
        return self.module.init(rng, *inputs, **settings)["params"]

    def apply(
        self,
        params: Params,
        *inputs,
        rngs: dict[str, jax.Array] | None = None,
        **settings,
    ) -> Any:
        """The module's result; without `rngs` in evaluation mode."""
        variables = {"params": params}
        return self.module.apply(variables, *inputs, rngs=rngs, **settings)
