"""A run's configuration: defaults, types, cross-checks, options, and every error at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from clframe.config.load import load_run
from clframe.config.requests import in_words
from clframe.config.resolve import resolve_options, scenario_arguments
from clframe.config.schema import RunConfig, keys
from clframe.errors import ConfigError

RUN = ["strategy=memory", "scenario=toy"]


def error_of(*words: str) -> str:
    """What loading `words` complains about."""
    with pytest.raises(ConfigError) as error:
        load_run([*RUN, *words])
    return str(error.value)


def test_defaults_live_in_the_schema_and_run_yaml_lies_over_them(project: Path) -> None:
    cfg = load_run(RUN)
    assert (cfg.seed, cfg.epochs, cfg.batch_size, cfg.eval.rho, cfg.eval.subset) == (
        0,
        1,
        32,
        1,
        250,
    )
    assert (cfg.net.name, cfg.optim.lr, cfg.track.experiment) == ("mlp", 0.05, "mine")


def test_words_lie_over_run_yaml(project: Path) -> None:
    cfg = load_run([*RUN, "track.experiment=other", "optim.lr=1", "net={name: cnn}", "clip=1"])
    assert (cfg.track.experiment, cfg.optim.lr, cfg.net.name, cfg.clip) == (
        "other",
        1.0,
        "cnn",
        1.0,
    )


def test_without_run_yaml_of_its_own_a_project_gets_clframes(project: Path) -> None:
    (project / "conf" / "run.yaml").unlink()
    assert load_run(RUN).track.experiment == "clframe"


def test_nothing_is_imported(project: Path) -> None:
    load_run([*RUN, "options.memory.capacity=3"])
    assert "clframe.strategies.memory" not in sys.modules


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("epochs=x", 'epochs = "x": expected a whole number'),
        ("epochs=1.5", "epochs = 1.5: expected a whole number"),
        ("epochs='3'", 'epochs = "3": expected a whole number'),
        ("seed=true", "seed = true: expected a whole number"),
        ("seed=-1", "seed = -1: expected at least 0"),
        ("batch_size=0", "batch_size = 0: expected at least 1"),
        ("optim.lr=0", "optim.lr = 0: expected more than 0"),
        ("optim.lr=fast", 'optim.lr = "fast": expected a number'),
        ("deterministic=1", "deterministic = 1: expected true or false"),
        ("strategy=[memory,plain]", "expected text; to try several, vary it in a grid's axes"),
        ("optim=sgd", 'optim = "sgd": expected a mapping'),
        ("optim.name=sdg", "expected one of sgd, adamw. Did you mean 'sgd'?"),
        ("net.name=mpl", "or timm:NAME. Did you mean 'mlp'?"),
        ("precision=8", "expected one of 32, bf16, 16, 64"),
        (
            "eval.subset=some",
            "expected a whole number of samples per experience, at least 1, or all",
        ),
        ("eval.subset=0", "at least 1, or all"),
        (
            "eval.diagnostics=[drift]",
            'eval.diagnostics[0] = "drift": expected one of feature_drift',
        ),
        ("requests=L0 G1", "'G1' is no request"),
        ("requests=3", 'expected text or a list. Write "L0 L1 U0"'),
        ("requests=[]", "expected at least one request"),
        ("requests=uncle_ten", "'uncle_ten' is no sequence in conf/requests.yaml. Did you mean"),
        ("requests=[L0, 7]", "requests[1] = 7"),
        ("requests=[{forget: {file: none.txt}}]", "'none.txt' is no file"),
        ("requests=[{learn: 0, forget: {tasks: [0]}}]", "expected either learn or forget"),
        ("requests=[{forget: {task: [0]}}]", "unknown key. Did you mean 'forget.tasks'?"),
        ("requests=[{lern: 0}]", "requests[0].lern = 0: unknown key. Did you mean 'learn'?"),
        ("requests=[{learn: 0, data: true}]", "data belongs to a forget request"),
        ("requests=[{forget: {tasks: []}}]", "expected exactly one non-empty list"),
        (
            "options.memory=3",
            "options.memory = 3: options go by plug-in, as in options.PLUGIN.memory=",
        ),
        ("lr=0.1", "lr = 0.1: unknown key. Did you mean 'optim.lr'?"),
        ("optim.lrr=0.1", "optim.lrr = 0.1: unknown key. Did you mean 'optim.lr'?"),
        ("bacth_size=3", "unknown key. Did you mean 'batch_size'?"),
        ("zzz=3", "unknown key. Known: strategy, scenario, seed"),
        ("accumulate_grad_batches=2", "gradient accumulation is not offered"),
        ("net.weights=nowhere.pt", 'net.weights = "nowhere.pt": no such file'),
    ],
)
def test_one_wrong_value(project: Path, word: str, expected: str) -> None:
    said = error_of(word)
    assert expected in said and said.startswith("command line: ") and "\n- " not in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("tune=true", 'eval.split = "test": tune=true .* set eval.split=val'),
        ("optim.nesterov=true", "optim.nesterov = true: .* set optim.momentum"),
        ("optim.name=adamw optim.momentum=0.9", "optim.momentum = 0.9: .* set optim.name=sgd"),
        ("optim.schedule=step", r"optim\.milestones.*: they go with optim.schedule=step"),
        ("optim.milestones=[0.5]", r"optim.milestones = \[0.5\]: they go with optim.schedule=step"),
        ("optim.schedule=step optim.milestones=[0.8,0.5]", "they must rise; sort them"),
        ("net.pretrained=true", "net.pretrained = true: mlp has no weights .* net.name=timm:NAME"),
        ("precision=16 accelerator=cpu", 'precision = "16": .* set precision=bf16'),
        ("batch_size=1 devices=2", "batch_size = 1: all devices share it; raise it"),
    ],
)
def test_keys_that_exclude_each_other_end_in_the_way_out(
    project: Path, words: str, expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_run([*RUN, *words.split()])


def test_every_problem_is_reported_at_once(project: Path) -> None:
    said = error_of("epochs=x", "optim.lrr=1", "strategy=memry", "options.toy.experience=3")
    assert said.startswith("4 problems\n- ")
    for part in ("epochs", "optim.lrr", "Did you mean 'memory'", "Did you mean 'experiences'"):
        assert part in said


def test_a_missing_key_says_how_to_give_it(project: Path) -> None:
    with pytest.raises(
        ConfigError, match="scenario: missing; give one, as in scenario=split_digits"
    ):
        load_run(["strategy=memory"])


@pytest.mark.parametrize("word", ["memory", "=3", ""])
def test_a_word_that_is_no_key_and_value(project: Path, word: str) -> None:
    assert "expected key=value, as in strategy=replay" in error_of(word)


def test_a_value_that_is_no_yaml(project: Path) -> None:
    assert 'clip = "[1": not a YAML value' in error_of("clip=[1")


def test_a_problem_in_run_yaml_names_that_file(project: Path) -> None:
    (project / "conf" / "run.yaml").write_text("track: {experiment: 3}\n")
    assert error_of() == "./conf/run.yaml: track.experiment = 3: expected text"


def test_interpolation(project: Path) -> None:
    cfg = load_run([*RUN, "seed=3", "options.memory.capacity=${seed}"])
    assert cfg.options == {"memory": {"capacity": 3}}
    assert "'nowhere' not found" in error_of("seed=${nowhere}")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("options.memory.capacty=3", "memory takes no such option. Did you mean 'capacity'?"),
        ("options.toy.zzz=3", "toy takes no such option. It takes: experiences, seed, root."),
        ("options.memory.capacity=big", 'options.memory.capacity = "big": expected a whole number'),
        ("options.memory.capacity=2.5", "expected a whole number"),
        ("options.memory.capacity=true", "expected a whole number"),
        (
            "options.memory.capacity=-5",
            "options.memory.capacity = -5: expected a count, at least 0",
        ),
        ("options.memory.capacity=[1,2]", "expected a whole number"),
        ("options.memory.share=x", "expected a number"),
        ("options.memory.draw=x", "expected a whole number or null"),
        ("options.memory.mode=c", "expected one of a, b"),
        ("options.memory.flag=1", "expected true or false"),
        ("options.memory.parts=[1,x]", "expected a list, each member a whole number or null"),
        ("options.memory.free=x", "expected a number"),
        (
            "options.plain.x=1",
            "options for a plug-in that is not used. This run uses: memory, toy.",
        ),
        ("options.memroy.capacity=1", "no plug-in of that name is used. Did you mean 'memory'?"),
    ],
)
def test_options_are_checked_against_the_signature(
    project: Path, words: str, expected: str
) -> None:
    assert expected in error_of(words)


def test_options_that_fit(project: Path) -> None:
    words = "draw=null share=1 mode=b flag=true parts=[1,2] free=0.5 capacity=0"
    cfg = load_run([*RUN, *(f"options.memory.{w}" for w in words.split())])
    assert cfg.options["memory"]["parts"] == [1, 2]


def test_required_options_and_what_the_run_injects(project: Path) -> None:
    words = ["strategy=plain", "scenario=needy"]
    with pytest.raises(ConfigError) as error:
        load_run(words)
    assert "options.needy.kind: missing; needy needs kind: str." in str(error.value)
    assert (
        "options.needy.root: missing; needy needs root: str. It is also set by data.root."
        in str(error.value)
    )
    cfg = load_run([*words, "options.needy.kind=x", "data.root=/data"])
    assert scenario_arguments(cfg) == {"root": "/data", "kind": "x"}
    cfg = load_run([*RUN, "seed=4", "data.root=/data"])
    assert scenario_arguments(cfg) == {"seed": 4, "root": "/data"}
    assert scenario_arguments(load_run([*RUN, "options.toy.seed=1"])) == {"seed": 1}


def test_presets_lie_below_the_options_of_plugin_and_preset(project: Path) -> None:
    words = ["strategy=outer+big_memory", "scenario=toy_ten"]
    options = [
        "options.memory.mode=b",
        "options.memory.share=0.25",
        "options.memory.capacity=1",
        "options.big_memory.capacity=7",
    ]
    cfg = load_run([*words, *options])
    outer, memory = resolve_options(cfg, "strategy")
    assert (outer.name, outer.plugin.name, outer.options) == ("outer", "outer", {})
    assert (memory.name, memory.plugin.name) == ("big_memory", "memory")
    assert memory.options == {"capacity": 7, "share": 0.25, "mode": "b"}
    assert resolve_options(cfg, "scenario")[0].options == {"experiences": 10}


def test_what_a_preset_sets_is_changed_by_its_own_name_alone(project: Path) -> None:
    """The plug-in's name speaks to its other presets too, in a grid that has them all."""
    with pytest.raises(ConfigError) as error:
        load_run(["strategy=big_memory", "scenario=toy", "options.memory.share=0.1"])
    assert "options.memory.share = 0.1: the preset big_memory sets share itself, to 0.25" in str(
        error.value
    )
    assert "options.big_memory.share" in str(error.value)


def test_a_preset_with_mistakes(project: Path) -> None:
    preset = project / "conf" / "strategy" / "odd.yaml"
    words = ["strategy=odd", "scenario=toy"]
    for text, expected in {
        "options: {capacity: 3}\n": "strategy/odd.yaml: plugin: expected the name of a strategy",
        "plugin: memory\noption: {}\n": "option = {}: unknown key. Did you mean 'options'?",
        "plugin: memory\noptions: {capacity: x}\n": "./conf/strategy/odd.yaml: options.capacity",
        "plugin: memry\n": "no strategy named 'memry'. Did you mean 'memory'?",
    }.items():
        preset.write_text(text)
        with pytest.raises(ConfigError) as error:
            load_run(words)
        assert expected in str(error.value)


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        (
            "outer",
            "'outer' is a wrapper and needs a strategy to wrap, after it.\nWrite outer+replay.",
        ),
        ("memory+outer", "'outer' is a wrapper and needs .*\nWrite outer+memory."),
        ("memory+plain", "'memory' is not a wrapper, so nothing can stand after it"),
        ("outer+", "empty name"),
        ("outer+outer+memory", "'outer' wraps twice"),
    ],
)
def test_chains(project: Path, chain: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected.replace("+", r"\+")):
        load_run([f"strategy={chain}", "scenario=toy"])
    assert load_run(["strategy=outer+memory", "scenario=toy"])


def test_requests_in_either_form(project: Path) -> None:
    short = load_run([*RUN, "requests=L0 L1 F0"]).request_list()
    long = load_run(
        [*RUN, "requests=[{learn: 0}, {learn: 1}, {forget: {tasks: [0]}}]"]
    ).request_list()
    assert short == long and short is not None and len(short) == 3
    assert load_run(RUN).request_list() is None


def test_the_set_of_keys_changes_knowingly() -> None:
    top = [k for k in keys() if "." not in k]
    assert top == list(RunConfig.model_fields)
    assert {"optim.lr", "eval.rho", "net.args", "track.uri", "requests"} <= set(keys())
    assert len(top) == 25, top


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ([{"learn": 0}, {"forget": {"classes": [2, 3]}}], "L0 U{classes 2,3}"),
        ([{"forget": {"tasks": [0, 1]}, "data": True}], "U{tasks 0,1}+data"),
        ([{"learn": 0, "without": [{"tasks": [1]}, {"uids": [7]}]}], "L0{without tasks 1 uids 7}"),
    ],
)
def test_requests_are_shown_on_one_line(written: Any, said: str) -> None:
    assert in_words(written) == said


def test_many_uids_are_told_from_others() -> None:
    found = {in_words([{"forget": {"uids": [*range(k, k + 9)]}}]) for k in range(3)}
    assert len(found) == 3 and all(w.startswith("U{9 uids #") for w in found)
