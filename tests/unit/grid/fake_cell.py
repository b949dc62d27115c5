"""A stand-in for a cell: writes what a real one would, in no time. `fake_cell.py FOLDER MODE`."""

import json
import os
import signal
import sys
import time

folder, mode = sys.argv[1:]
path = os.path.join(folder, "record.json")


def update(**fields: object) -> None:
    with open(path) as file:
        record = json.load(file)
    with open(path + ".new", "w") as file:
        json.dump({**record, **fields}, file)
    os.replace(path + ".new", path)


with open(path) as file:
    attempts = json.load(file)["attempts"] + 1
update(status="running", error=None, attempts=attempts)
print("attempt", attempts, "of", os.path.basename(folder), flush=True)
with open(os.path.join(folder, "environment.json"), "w") as file:
    json.dump(dict(os.environ), file)
if mode == "fail":
    update(status="failed", error="ValueError: the loss is nan\nmore")
    sys.exit(1)
if mode == "bad":
    update(status="failed", error="options.x: not possible")
    sys.exit(2)
if mode == "mute":
    print("Traceback ...\nImportError: no module named x\n")
    sys.exit(1)
if mode == "lie":
    sys.exit(0)
if mode == "crash" or (mode == "crash once" and attempts == 1):
    os.kill(os.getpid(), signal.SIGKILL)
if mode == "hang":
    open(os.path.join(folder, "hangs"), "w").close()
    time.sleep(60)
if mode == "meet":
    open(os.path.join(folder, "meets"), "w").close()
    deadline = time.monotonic() + 60
    beside = os.path.dirname(folder)
    while sum(os.path.exists(os.path.join(beside, f, "meets")) for f in os.listdir(beside)) < 2:
        assert time.monotonic() < deadline, "nobody came"
        time.sleep(0.02)
if mode == "slow":
    time.sleep(0.8)
update(status="done", metrics={"acc_final": 0.75}, iteration=10, total_iterations=10)
