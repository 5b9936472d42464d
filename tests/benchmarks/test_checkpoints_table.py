"""The table of checkpoints: what is asked of `evaluate`, and where its figures go."""

import json
import sys

import pytest

from benchmarks import checkpoints_table
from ecgssl_jax import evaluate
from ecgssl_jax.config_files import load, split_overrides
from ecgssl_jax.evaluation.settings import parse


def document(figures):
    """As results.json, of {(encoder, protocol, budget, task): AUROC}."""
    parts = ("step", "folds", "test_folds_were_read", "training")
    more = ("retrieval", "notes", "versions", "devices", "git_revision")
    keys = ("encoder", "protocol", "budget", "task")
    other = ("seeds", "macro_average_precision", "macro_f1_max", "interval", "against")
    rows = [dict(zip(keys, where, strict=True)) for where in figures]
    return {
        "encoder": "pre-trained, step 5",
        "results": [
            row | {"macro_auroc": value + change}
            for row, value in zip(rows, figures.values(), strict=True)
            for change in (-0.25, 0.25)
        ],
        **dict.fromkeys((*parts, *more)),
        "settings": {"root": "here", "finetuning": {"folder": "there", "steps": 9}},
        "summary": [
            row | {"macro_auroc": value} | dict.fromkeys((*other, "labels"))
            for row, value in zip(rows, figures.values(), strict=True)
        ],
    }


FIRST = {
    ("log spectrum", "linear", "100 %", "all"): 0.7,
    ("supervised model", "two_stage", "1 %", "all"): 0.6,
    ("supervised model", "two_stage", "100 %", "all"): 0.9,
    ("pre-trained, step 5", "linear", "100 %", "all"): 0.811,
    ("pre-trained, step 5", "attention", "100 %", "all"): 0.822,
    ("pre-trained, step 5", "two_stage", "100 %", "all"): 0.833,
    ("pre-trained, step 5", "linear", "100 %", "form"): 0.5,
}
SECOND = {("pre-trained, step 5", "linear", "100 %", "all"): 0.744}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A folder of two runs; and what was called, which leaves results behind."""
    called = []

    def call(command, check):
        called.append(command[3:])
        assert command[:3] == [sys.executable, "-m", "ecgssl_jax.evaluate"]
        args, _ = evaluate.make_parser().parse_known_args(command[3:])
        folder = args.workdir / ("evaluation-test" if args.test else "evaluation")
        folder.mkdir()
        figures = FIRST if "jepa" in args.workdir.name else SECOND
        (folder / "results.json").write_text(json.dumps(document(figures)))

    monkeypatch.setattr(checkpoints_table.subprocess, "run", call)
    for name in ("vit-xs_jepa_0", "vit-xs_simclr_0", "vit-xs_simclr_1"):
        (tmp_path / name).mkdir()
    return tmp_path, called


def table(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["checkpoints_table", *map(str, words)])
    checkpoints_table.main()


def test_a_row_for_each_run_and_baseline_and_a_table_for_each_budget(
    runs, monkeypatch, capsys
):
    folder, called = runs
    table(monkeypatch, f"--runs={folder}")
    assert len(called) == 2
    blocks = capsys.readouterr().out.split("\n\n")
    tables = [block.splitlines() for block in blocks if block.startswith("| ")]
    cells = [[[x.strip() for x in r.split("|")[1:-1]] for r in t] for t in tables]
    (header, _, *rows) = next(each for each in cells if "100 %" in each[0][0])
    assert header == ["macro AUROC, 100 % of the labels", "all", "form"]
    assert {row: values for row, *values in rows} == {
        "log spectrum": [".700 / - / -", "- / - / -"],
        "from scratch": [".900", "-"],
        "JEPA": [".811 / .822 / .833", ".500 / - / -"],
        "SimCLR": [".744 / - / -", "- / - / -"],
    }
    kept = json.loads((folder / "checkpoints" / "vit-xs_jepa.json").read_text())
    assert kept["settings"] == {"finetuning": {"steps": 9}}
    assert kept["summary"][0]["by_seed"] == pytest.approx([0.45, 0.95])
    # What is done is not done again, and can be shown from elsewhere.
    table(monkeypatch, f"--runs={folder}")
    table(monkeypatch, f"--results={folder / 'checkpoints'}", "--show")
    assert len(called) == 2
    # Figures of the test folds are others.
    table(monkeypatch, f"--runs={folder}", "--test")
    assert len(called) == 4
    assert "Of the test folds" in capsys.readouterr().out


def test_evaluate_understands_what_it_is_asked(runs, monkeypatch):
    folder, called = runs
    table(monkeypatch, f"--runs={folder}", "--test", "--config.draws=200")
    settings = []
    for words in called:
        rest, overrides = split_overrides(words)
        assert "--test" in rest
        (config,) = (x.partition("=")[2] for x in rest if x.startswith("--config="))
        settings.append(parse(load(config, overrides)))
    first, second = settings
    assert first.baselines and not second.baselines
    assert first.finetuning.folder == second.finetuning.folder == f"{folder}/finetuned"
    for each in settings:
        assert set(checkpoints_table.PROTOCOLS) < set(each.protocols)
        assert (each.tasks, each.draws) == (("every",), 200)
        assert each.budgets == ("1 %", "10 %", "100 %") and len(each.seeds) == 3


def test_no_runs_and_no_results_are_said(tmp_path, monkeypatch, capsys):
    for words in ((f"--runs={tmp_path}",), (f"--results={tmp_path}", "--show")):
        with pytest.raises(SystemExit):
            table(monkeypatch, *words)
    said = capsys.readouterr().err
    assert "no run of ViT-XS, seed 0" in said and "there are no results in" in said
