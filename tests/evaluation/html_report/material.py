"""What a report of a small evaluation is made of, for tests."""

import dataclasses

import numpy as np

from ecgssl_jax.data.prepared import PreparedSet
from ecgssl_jax.evaluation.html_report.material import Material
from ecgssl_jax.evaluation.questions import Question, question
from ecgssl_jax.evaluation.scoring import Answer, Look, scored
from ecgssl_jax.evaluation.split import validation_split
from ecgssl_jax.evaluation.summary import Row, summarise
from tests.evaluation.labelled import labelled_set

TRAINED = "pre-trained, step 3"
SPLIT = validation_split((1, 2, 3), (4,))
STANDING = {
    "kind": "neutral",
    "title": "Validation folds",
    "why": "They chose nothing.",
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class InMemory(PreparedSet):
    """A set whose signals are sines of a record's own rate."""

    def read(self, rows):
        seconds = np.arange(self.length) / self.rate
        rate = 1 + np.asarray(rows)[:, None] % 3
        wave = np.sin(2 * np.pi * rate * seconds)
        return np.repeat((1000 * wave)[..., None], 12, axis=2).astype(np.int16)


def small_set(labels=("a", "b"), num_records=200) -> tuple[InMemory, np.ndarray]:
    """As `labelled_set`, with signals, and features [N, 6]."""
    prepared, features = labelled_set(num_records)
    index = {
        **prepared.index,
        "lead_valid": np.ones((num_records, 12), np.uint8),
        "length": np.full(num_records, prepared.length, np.int32),
    }
    fields = {x.name: getattr(prepared, x.name) for x in dataclasses.fields(prepared)}
    made = InMemory(**{**fields, "index": index, "labels": tuple(labels)})
    noise = np.random.default_rng(1).normal(size=(num_records, 4))
    return made, np.concatenate([features, noise], axis=1).astype(np.float32)


def make_material(
    *, labels=("a", "b"), budgets=("100 %",), protocols=("linear",), **changes
) -> Material:
    """Of the task 'labels', folds 1-3 and 4: a random encoder and a trained one."""
    prepared, pooled = small_set(labels)
    asked = question(prepared, "labels", SPLIT)
    reported = asked.only(SPLIT.report)
    rows = [
        Row(
            encoder=name,
            answers=[
                (None, answer(reported, noise, protocol, budget))
                for protocol in protocols
                for budget in budgets
            ],
        )
        for name, noise in (("random encoder", 3.0), (TRAINED, 1.0))
    ]
    cells = summarise(
        rows, [reported], pairs=[(TRAINED, "random encoder")], draws=100, level=0.95
    )
    document = {
        "step": 3,
        "checkpoint": "runs/mine/best/3",
        "notes": ["Read me."],
        "standing": STANDING,
        "command": ["ecgssl_jax/evaluate.py", "--workdir=runs/mine"],
        "git_revision": None,
        "devices": "1 x cpu",
        "processes": 1,
        "versions": {"ecgssl_jax": "0.1.0"},
    }
    made = Material(
        name="mine",
        encoder=TRAINED,
        document=document,
        date="2026-01-31",
        prepared=prepared,
        split=SPLIT,
        asked=[asked],
        cells=cells,
        retrieval={},
        rows=np.arange(len(prepared)),
        pooled=pooled,
        ordered_tokens=True,
        method={"name": "clocs", "mode": "cmsc"},
        model={"name": "vit", "preset": "xs"},
        crop=1000,
        metrics=[{"step": step, "loss": 1 / step} for step in range(1, 4)],
        seed=0,
    )
    return dataclasses.replace(made, **changes)


def without_labels(**changes) -> Material:
    """Of a set that has none: nothing was asked."""
    nothing = {"asked": [], "cells": {}, "rows": None, "pooled": None}
    return make_material(**{**nothing, **changes})


def answer(asked: Question, noise: float, protocol: str, budget: str) -> Answer:
    """The labels and noise, as logits; what an attention probe looked at."""
    rng = np.random.default_rng(0)
    logits = asked.labels + noise * rng.normal(size=asked.labels.shape)
    looks = {}
    if protocol == "attention":
        attention = np.array([0.7, 0.2, 0.1, 0, 0], np.float32)
        looks = {asked.classes[0]: Look(2, attention)}
    return Answer(
        task=asked.name,
        protocol=protocol,
        budget=budget,
        seed=None,
        logits=logits.astype(np.float32),
        scores=scored(logits, asked),
        looks=looks,
    )
