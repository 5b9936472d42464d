"""Probes on frozen features: logistic and ridge regression, attention, neighbours.

A probe's settings are selected on rows held out from its training rows, never on the
rows that it is evaluated on: those it meets in `logits` alone. Unknown labels
(`known` False) take part in nothing. Results depend on the arguments only.
"""

from ecgssl_jax.evaluation.probes.attention import (
    AttentionProbe,
    attention_probe,
    attention_probes,
)
from ecgssl_jax.evaluation.probes.group import Group
from ecgssl_jax.evaluation.probes.linear import (
    STRENGTHS,
    LinearProbe,
    linear_probe,
    linear_probes,
    ridge_probe,
)
from ecgssl_jax.evaluation.probes.neighbours import (
    NEIGHBOURS,
    NeighbourProbe,
    neighbour_probe,
    neighbour_probes,
)

__all__ = [
    "NEIGHBOURS",
    "STRENGTHS",
    "AttentionProbe",
    "Group",
    "LinearProbe",
    "NeighbourProbe",
    "attention_probe",
    "attention_probes",
    "linear_probe",
    "linear_probes",
    "neighbour_probe",
    "neighbour_probes",
    "ridge_probe",
]
