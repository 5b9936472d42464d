"""The contract between a method and the trainer.

A method is a module of this package with

    Settings    a frozen dataclass: `config.method`, less its `name`
    build(settings, encoder, *, steps, masks) -> Method

`encoder` is the module that `config.model` describes, `steps` the length of the run,
`masks` is `config.masks` or None. `build` raises ValueError where they do not fit.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax

Tree = Any
Batch = Mapping[str, Any]


class TextShape(NamedTuple):
    """Texts of S tokens, out of a vocabulary of at most so many."""

    length: int
    vocabulary_size: int


class LabelShape(NamedTuple):
    """The Y labels of a task (`evaluation.labels`), or part of them (`.budget`)."""

    task: str
    num_labels: int
    budget: str = "100 %"
    budget_seed: int = 0


class Method(Protocol):
    """A training objective: pure functions, traced inside one jitted step.

    `batch` is the flat dictionary of the pipeline, except that `ecg` is what
    `signals.prepare` made of it: [B, T, C] float32, normalised. `params` is what
    the optimiser updates; `extra` is everything else that a step carries on (an
    EMA network, batch statistics); both are sharded, donated and saved alike.

    Attributes:
      num_views: the numbers of `config.views` that it can use. If there are any, a
        batch has also `views`: for each of them `ecg` [B, T', C], transformed and
        prepared alike, and `length` where a record can be shorter.
      text: what texts it asks for, None for none. If any, a batch has also `text`
        [B, S] int32, `text_valid` [B, S] bool and `text_ids` [B] int32: equal texts
        have equal ones, below 0 there is none.
      labels: what labels it asks for, None for none. If any, a batch has also `labels`
        [B, Y] int8 of 0 and 1, and `labels_valid` [B, Y] bool, those that are known.
      leads: names of leads that records must have, () for any.
      couples_rows: whether the loss compares the rows of a batch with each other, as
        with negatives; to be split into micro-batches, it must be a `CouplingMethod`.
        Where a batch is split, a batch norm sees a micro-batch at a time, and another
        loss, the mean over what is valid, becomes the mean of the micro-batches' means.
    """

    @property
    def num_views(self) -> tuple[int, ...]: ...

    @property
    def text(self) -> TextShape | None: ...

    @property
    def labels(self) -> LabelShape | None: ...

    @property
    def leads(self) -> tuple[str, ...]: ...

    @property
    def couples_rows(self) -> bool: ...

    def init(self, rng: jax.Array, batch: Batch) -> tuple[Tree, Tree]:
        """-> params, extra. Only the shape of `ecg` is read of the batch."""
        ...

    def loss(
        self, params: Tree, extra: Tree, batch: Batch, rng: jax.Array
    ) -> tuple[jax.Array, tuple[Tree, dict[str, jax.Array]]]:
        """-> loss, (extra, metrics): the loss and the metrics are scalars."""
        ...

    def after_update(self, params: Tree, extra: Tree, step: jax.Array) -> Tree:
        """-> extra. `step`: the updates made so far, this one included, int32."""
        ...

    def kept(self, params: Tree, extra: Tree) -> tuple[Tree, Tree]:
        """-> parameters and running statistics of the encoder worth keeping.

        The averaged one, where that is the better; what fine-tuning begins with.
        """
        ...

    def features(self, params: Tree, extra: Tree, batch: Batch) -> dict[str, jax.Array]:
        """Of that encoder, in evaluation mode: 'pooled' [B, D] and 'tokens' [B, N, D].

        Where a record can be shorter than the crop, also 'tokens_valid' [B, N] bool;
        of a method that asks for labels, also 'logits' [B, Y]; of one that shows the
        encoder its `leads` one by one, also 'by_lead' [B, L, D], zeros where a record
        lacks the lead.
        """
        ...


class CouplingMethod(Method, Protocol):
    """A method whose loss is in two parts, so that micro-batches can be compared.

    `loss` is `compare` of what `embed` gives. What is embedded must not depend on `extra`,
    as that of batch norms in training does not.
    """

    def embed(
        self, params: Tree, extra: Tree, batch: Batch, rng: jax.Array
    ) -> tuple[Tree, Tree]:
        """-> arrays [B, ...] of some rows, which are not compared yet, and extra."""
        ...

    def compare(
        self, params: Tree, embedded: Tree, batch: Batch
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """-> loss, metrics of all rows of a batch, of which nothing is embedded anew."""
        ...


class TextMethod(Method, Protocol):
    """A method that asks for text, and puts ECGs and texts into a common space."""

    def embed_ecg(self, params: Tree, extra: Tree, pooled: jax.Array) -> jax.Array:
        """Pooled features [B, D] -> their places in the common space."""
        ...

    def embed_text(self, params: Tree, batch: Batch) -> jax.Array:
        """The texts of a batch -> their places in the common space."""
        ...

    def temperature(self, params: Tree) -> float | jax.Array:
        """Of the cosine similarities there."""
        ...
