"""A network as pure functions, so that only `models` knows Linen."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax

Params = Any
Statistics = Any  # running statistics of batch norms; {} where there are none

_STATISTICS = "batch_stats"


@dataclasses.dataclass(frozen=True)
class Network:
    """`init` makes parameters, `apply` and `train` use any tree of the same shape."""

    module: nn.Module

    def init(self, rng: jax.Array, *inputs, **settings) -> Params:
        """The tree of parameters, float32."""
        return self.init_all(rng, *inputs, **settings)[0]

    def init_all(
        self, rng: jax.Array, *inputs, **settings
    ) -> tuple[Params, Statistics]:
        """-> parameters and running statistics, float32."""
        variables = self.module.init(rng, *inputs, **settings)
        return variables["params"], variables.get(_STATISTICS, {})

    def apply(
        self,
        params: Params,
        *inputs,
        statistics: Statistics | None = None,
        rngs: dict[str, jax.Array] | None = None,
        **settings,
    ) -> Any:
        """The module's result; without `rngs` in evaluation mode.

        Batch norms use the running statistics and leave them as they are.
        """
        variables = {"params": params, _STATISTICS: statistics or {}}
        return self.module.apply(variables, *inputs, rngs=rngs, **settings)

    def train(
        self,
        params: Params,
        statistics: Statistics,
        *inputs,
        rngs: dict[str, jax.Array] | None = None,
        **settings,
    ) -> tuple[Any, Statistics]:
        """-> the module's result, with the batch's own statistics; the running ones.

        Under jit the batch is the global one, however it is sharded.
        """
        variables = {"params": params, _STATISTICS: statistics}
        result, changed = self.module.apply(
            variables, *inputs, rngs=rngs, mutable=[_STATISTICS], **settings
        )
        return result, changed.get(_STATISTICS, {})
