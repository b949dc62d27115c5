"""The id of a run: over all that changes its numbers, and over nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from clframe.config.identity import from_yaml, reference_key, resolved, run_id, to_yaml
from clframe.config.load import load_run
from clframe.errors import ConfigError

RUN = ["strategy=memory", "scenario=toy"]


def id_of(*words: str) -> str:
    return run_id(load_run([*RUN, *words]))


def test_the_id_names_scenario_strategy_and_seed(project: Path) -> None:
    assert id_of("seed=3").startswith("toy-memory-s3-")
    assert id_of("strategy=outer+memory").startswith("toy-outer+memory-s0-")
    assert len(id_of().rpartition("-")[2]) == 8


@pytest.mark.parametrize(
    "word",
    [
        "epochs=2",
        "threads=2",
        "precision=bf16",
        "optim.lr=0.1",
        "net.args.hidden=3",
        "eval.rho=2",
        "eval.subset=all",
        "options.memory.capacity=3",
        "options.toy.experiences=2",
        "clip=1",
        "requests=L0 L1",
        "eval.diagnostics=[gradient_norm]",
        "deterministic=false",
    ],
)
def test_what_changes_numbers_changes_the_id(project: Path, word: str) -> None:
    assert id_of(word) != id_of()


@pytest.mark.parametrize(
    "word",
    [
        "devices=2",
        "accelerator=cpu",
        "checkpoint=0",
        "track.enabled=false",
        "data.root=/data",
        "options.memory.capacity=500",
        "optim.lr=0.05",
        "optim.momentum=0",
        "precision=32",
    ],
)
def test_what_changes_no_numbers_keeps_the_id(project: Path, word: str) -> None:
    assert id_of(word) == id_of()


def test_both_forms_of_requests_are_one(project: Path) -> None:
    assert id_of("requests=L0 F0") == id_of("requests=[{learn: 0}, {forget: {tasks: [0]}}]")


def test_the_root_counts_where_a_scenario_is_nothing_without(project: Path) -> None:
    words = ["scenario=needy", "options.needy.kind=a"]
    assert id_of(*words, "data.root=/one") != id_of(*words, "data.root=/two")


def test_a_changed_preset_is_another_run(project: Path) -> None:
    before = id_of("strategy=big_memory")
    preset = project / "conf" / "strategy" / "big_memory.yaml"
    preset.write_text("plugin: memory\noptions: {capacity: 1999, share: 0.25}\n")
    assert id_of("strategy=big_memory") != before


@pytest.mark.parametrize(
    "words",
    [
        ["strategy=outer+big_memory", "scenario=toy_ten", "options.memory.draw=3"],
        [
            "options.memory.parts=[1,2]",
            "requests=L0 F0",
            "optim.milestones=[0.5]",
            "optim.schedule=step",
        ],
        ["net.args={deep: {er: [1, null]}}", "precision=64", "eval.subset=all", "clip=0.5"],
    ],
)
def test_the_resolved_file_is_the_same_run(project: Path, words: list[str]) -> None:
    cfg = load_run([*RUN, *words])
    path = project / "config.yaml"
    path.write_text(to_yaml(cfg))
    again = from_yaml(path)
    assert run_id(again) == run_id(cfg)
    assert again == resolved(cfg) and to_yaml(again) == to_yaml(cfg)


def test_the_resolved_file_survives_a_changed_preset(project: Path) -> None:
    path = project / "config.yaml"
    path.write_text(to_yaml(load_run(["strategy=big_memory", "scenario=toy"])))
    assert yaml.safe_load(path.read_text())["options"] == {
        "big_memory": {"capacity": 2000, "share": 0.25}
    }


def test_a_broken_file_is_refused(project: Path) -> None:
    path = project / "config.yaml"
    path.write_text("strategy: memory\nscenario: toy\nepochs: x\n")
    with pytest.raises(ConfigError, match=r"config\.yaml: epochs = \"x\": expected a whole number"):
        from_yaml(path)


def test_references_serve_runs_that_differ_in_their_strategy_alone(project: Path) -> None:
    def key(*words: str) -> str:
        return reference_key(resolved(load_run([*RUN, *words])))

    same = ["options.memory.capacity=3", "strategy=plain", "eval.rho=0", "threads=1", "devices=2"]
    assert {key(w) for w in same} == {key()}
    different = [
        "seed=1",
        "epochs=2",
        "options.toy.experiences=2",
        "scenario=toy_ten",
        "eval.split=val",
    ]
    assert len({key(w) for w in different} | {key()}) == 6
