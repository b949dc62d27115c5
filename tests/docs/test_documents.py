"""Every command and every example of the README and of docs/ runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCUMENTS = {d.name: d for d in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
TEXT = "\n".join(d.read_text() for d in DOCUMENTS.values())


def blocks(language: str, document: str | None = None) -> list[str]:
    """The examples of one document, or of all."""
    text = DOCUMENTS[document].read_text() if document else TEXT
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def commands() -> list[str]:
    return [line for block in blocks("console") for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of the user's own: the presets and grids, nothing else of the checkout."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "conf").symlink_to(ROOT / "conf")
    return folder


def run(command: list[str], home: Path, cwd: Path | None = None) -> str:
    env = os.environ | {"CLFRAME_RUNS": str(home / "runs"), "COLUMNS": "100"}
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):  # `make test` is no part of what users type
        env.pop(name, None)
    done = subprocess.run(
        command, cwd=cwd or home, env=env, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def clframe(words: list[str], home: Path) -> str:
    return run([sys.executable, "-m", "clframe", *words], home)


def test_make_demo(home: Path) -> None:
    """The first command of the README, in the environment that `make` has made for this test."""
    if not (ROOT / ".venv" / ".ready").exists():
        pytest.fail("run the tests with `make test`, which makes the environment that demo uses")
    out = run(["make", "demo"], home, cwd=ROOT).splitlines()
    report = home / "runs" / "quickstart" / "report" / "report.html"
    assert report.stat().st_size > 1e6
    assert any(str(report) in line for line in out[-3:])
    assert out[-1].startswith("open the MLflow UI:") and out[-1].endswith(" ui")
    assert len(list((home / "runs" / "quickstart").glob("*/metrics.json"))) in (12, 24)


def test_every_command(home: Path) -> None:
    """In the order of the documents, in one project; the demo's cells are done already."""
    found = commands()
    assert len(found) > 10
    for line in found:
        first, *words = shlex.split(line)
        assert first == "clframe", f"{line}: only clframe commands stand in console blocks"
        out = clframe(words, home)
        if words[0] in ("run", "grid") and "--dry-run" not in words:
            assert Path(out.splitlines()[-1]).is_dir()


def test_every_clframe_verb_in_the_prose_exists() -> None:
    for verb in re.findall(r"`clframe (\w+)", TEXT):
        done = subprocess.run(
            [sys.executable, "-m", "clframe", verb, "--help"], capture_output=True, text=True
        )
        assert done.returncode == 0, verb


def test_every_yaml_example_has_a_test() -> None:
    assert [name for name in DOCUMENTS if blocks("yaml", name)] == ["README.md", "unlearning.md"]


def test_the_grid_example(home: Path) -> None:
    (example,) = blocks("yaml", "README.md")
    (home / "example.yaml").write_text(example)
    out = clframe(["grid", "example.yaml", "--dry-run"], home)
    assert "7 cells" in out


def test_the_requests_example(home: Path) -> None:
    """What it withdraws is gone: class 2 from the memory, uids 90 and 91 from what is learned."""
    from clframe.engine import resume
    from tests.contract.building import build
    from tests.contract.harness import without

    (example,) = blocks("yaml", "unlearning.md")
    requests = json.dumps(yaml.safe_load(example)["requests"])
    order = "options.split_digits.order=[0,1,2,3,8,9,5,7,4,6]"  # both uids are in experience 3
    words = ["strategy=replay", "scenario=split_digits", "epochs=1", order, f"requests={requests}"]
    folder = Path(clframe(["run", *words], home).splitlines()[-1])
    record = json.loads((folder / "record.json").read_text())
    rows, plain = record["data"]["experiences"], build("split_digits", None, order).experiences
    assert [r["kind"] for r in rows] == ["learn", "learn", "forget", "learn", "learn"]
    two = plain[1].train.uid[plain[1].train.y == 2].tolist()
    others = plain[1].train.uid[plain[1].train.y != 2].tolist()
    assert rows[2]["classes"] == [2]
    assert rows[2]["train_sha256"] == without(plain[1], others).train.digest(), "handed over"
    assert {90, 91} <= set(plain[3].train.uid.tolist())
    assert rows[4]["train_size"] == record["spent"][4]["samples"] == len(plain[3].train) - 2
    assert rows[4]["train_sha256"] == without(plain[3], [90, 91]).train.digest()
    state = resume.load(folder / "last.ckpt")["strategy"]
    held = set(state["memory.column_uid"].tolist())
    assert held & set(others) and not held & {90, 91, *two}


def test_the_python_examples(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strategy, loading, probe, journal, metrics, fresh_head, push = blocks("python")
    (home / "strategies").mkdir(exist_ok=True)
    (home / "strategies" / "weighted.py").write_text(strategy)
    folder = clframe(["run", "strategy=weighted", "scenario=split_digits"], home).splitlines()[-1]
    import torch

    monkeypatch.chdir(home)  # the user's own strategy is found in ./strategies
    scope: dict[str, object] = {"images": torch.zeros(3, 1, 8, 8, dtype=torch.uint8)}
    exec(loading.replace("runs/solo/...", folder), scope)
    assert scope["logits"].shape == (3, 10)  # type: ignore[attr-defined]
    exec(journal.replace("{folder}", folder), scope)
    assert scope["frame"]
    exec(metrics, scope)
    (home / "strategies" / "probe.py").write_text(f'"""A probe."""\n\n{probe}')
    words = ["strategy=probe", "scenario=split_digits", "net.freeze=true"]
    folder = clframe(["run", *words], home).splitlines()[-1]
    record = json.loads((Path(folder) / "record.json").read_text())
    assert record["counting"]["features_kept"]
    for name, text in (("fresh_head", fresh_head), ("push", push)):
        (home / "strategies" / f"{name}.py").write_text(text)
        words = [f"strategy={name}+replay", "scenario=split_digits", "forget_data=true"]
        folder = clframe(["run", *words, "requests=L0 L1 U0", "epochs=1"], home).splitlines()[-1]
        spent = json.loads((Path(folder) / "record.json").read_text())["spent"]
        assert spent[2]["updates"] == {"fresh_head": 1, "push": 10}[name]


def test_the_ui_opens_on_the_runs(home: Path) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = os.environ | {"CLFRAME_RUNS": str(home / "runs")}
    command = [sys.executable, "-m", "clframe", "ui", "--port", str(port)]
    server = subprocess.Popen(command, env=env, cwd=home, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as page:
                    assert page.status == 200
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.5)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=20)


def test_every_config_key_is_in_the_reference() -> None:
    from clframe.config.schema import keys

    reference = (ROOT / "docs" / "reference.md").read_text()
    leaves = [k for k in keys() if not any(o.startswith(f"{k}.") for o in keys())]
    missing = [k for k in leaves if f"`{k}" not in reference]
    assert not missing
