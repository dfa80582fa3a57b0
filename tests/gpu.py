"""What only a GPU can show, in one go: every check on it, under compute-sanitizer as well, and speeds beside PyTorch's.

    python tests/gpu.py build FOLDER     # tests, benches and `train`, stripped, into FOLDER; needs cargo and no GPU
    python tests/gpu.py check FOLDER     # tests with the GPU required, sanitizers, the demo
    python tests/gpu.py time FOLDER      # benches and, if Python has torch (and open_clip), their peers, in turns

FOLDER may travel to a machine without cargo; `check` and `time` need this folder, FOLDER, and NVIDIA's libraries as
`train --backend cuda` does. Every command's output goes to FOLDER/out; a table of what passed, to standard output.
Ends with 1 if anything failed.
"""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = "kernels ops relation convolutions losses losses_torch objective towers images trajectory".split()
# Of the library's own tests, those that take a GPU if there is one.
OWN = ["flight", "values_are_those", "descriptions_are"]
SANITIZED = {"memcheck": ["kernels", "ops", "relation", "convolutions"], "racecheck": ["kernels", "ops", "relation"]}
PEERS = ROOT / "benches" / "peers"


def build(folder):
    folder.mkdir(parents=True, exist_ok=True)
    commands = [
        ["test", "--no-run"],
        ["build", "--release", "--bin", "train"],
        ["bench", "--no-run", "--bench", "step", "--bench", "kernels", "--bench", "losses"],
    ]
    for command in commands:
        options = ["--message-format", "json-render-diagnostics"]
        done = subprocess.run(["cargo", *command, *options], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        for message in map(json.loads, done.stdout.splitlines()):
            made, target = message.get("executable"), message.get("target", {})
            kinds = target.get("kind", [])
            if not made or (command[0] == "test" and "bin" in kinds):
                continue
            name = {"test": "test-", "bench": "bench-", "lib": "test-"}.get(kinds[0], "") + target["name"]
            if target["name"] not in [*TESTS, "clip_distill", "train", "step", "kernels", "losses"]:
                continue
            subprocess.run(["strip", "-o", folder / name, made], check=True)
    # Where the tests look for their fixtures.
    (folder / "root").write_text(str(ROOT))


class Runs:
    def __init__(self, folder):
        self.folder, self.failed = folder, []
        self.out = folder / "out"
        self.out.mkdir(exist_ok=True)

    def run(self, name, command, limit=600, **variables):
        """Runs it and says what became of it; its output is in a file of that name."""
        path, start = self.out / f"{name}.txt", time.time()
        with path.open("w") as file:
            try:
                code = subprocess.run(
                    [str(c) for c in command], cwd=self.out, stdin=subprocess.DEVNULL, stdout=file,
                    stderr=subprocess.STDOUT, timeout=limit, env={**os.environ, **variables},
                ).returncode  # fmt: skip
            except subprocess.TimeoutExpired:
                code = "too slow"
            except OSError as error:
                code = "missing"
                file.write(str(error))
        last = (path.read_text(errors="replace").strip().splitlines() or [""])[-1]
        print(f"{name:<28} {'ok' if code == 0 else code:>8} {time.time() - start:6.0f} s  {last[:100]}", flush=True)
        if code != 0:
            self.failed.append(name)


def check(runs):
    built = Path((runs.folder / "root").read_text())
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        built.symlink_to(ROOT)
    binary = lambda name: runs.folder / f"test-{name}"  # noqa: E731
    # No compiler for the emulated device: it was checked elsewhere, slowly.
    alone = {"CLIP_DISTILL_REQUIRE": "cuda", "CXX": "none"}
    runs.run("own", [binary("clip_distill"), *OWN, "--nocapture"], **alone)
    for name in TESTS:
        runs.run(name, [binary(name), "--nocapture"], **alone)
    demo = "--train-data demo --model demo --teacher demo --batch-size 32 --steps 40 --log-every 10".split()
    for precision in ("fp32", "amp_bf16"):
        for graphs in "10":
            name = f"demo-{precision}-{graphs}"
            options = ["--precision", precision, "--backend", "cuda", "--name", f"{name}-{os.getpid()}"]
            runs.run(name, [runs.folder / "train", *demo, *options], CLIP_DISTILL_CUDA_GRAPHS=graphs)
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if not sanitizer:
        print("compute-sanitizer is not here: not run")
        return
    for tool, names in SANITIZED.items():
        for name in names:
            command = [sanitizer, "--tool", tool, "--error-exitcode", 9, binary(name), "--test-threads", 1]
            runs.run(f"{tool}-{name}", command, PROPTEST_CASES="2", **alone)


def timings(runs, pairs, batches):
    def has(*modules):
        """Whether Python has them all; says so if not."""
        missing = [m for m in modules if importlib.util.find_spec(m) is None]
        if missing:
            print(f"Python has no {' and no '.join(missing)}: PyTorch's side is left out")
        return not missing

    def beside(name, bench, needs, *options):
        """Ours, PyTorch's and, where it can be compiled, PyTorch's compiled."""
        where = ["--backend", "cuda", "--precision", "amp_bf16"]
        runs.run(name, [runs.folder / f"bench-{bench}", *where, *options])
        for compiled in ([], ["--compile"]) if has(*needs) else ():
            suffix = "-torch" + "-compiled" * bool(compiled)
            runs.run(name + suffix, [sys.executable, PEERS / f"{bench}.py", *where, *options, *compiled])

    for batch in batches:
        beside(f"step-{batch}", "step", ["torch", "open_clip"], "--batch", batch)
    beside("kernels", "kernels", ["torch"], "--batch", batches[0], "--pairs", pairs)
    runs.run("losses", [runs.folder / "bench-losses", "--bench"], BENCH_BACKEND="cuda")
    if has("torch"):
        runs.run("losses-torch", [sys.executable, PEERS / "intra_loss.py", "--device", "cuda"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("do", choices=["build", "check", "time"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=8192, help="of the losses")
    parser.add_argument("--batches", type=int, nargs="+", default=[1024], help="of the step; the first for kernels too")
    args = parser.parse_args()
    folder = args.folder.resolve()
    if args.do == "build":
        build(folder)
        return
    runs = Runs(folder)
    check(runs) if args.do == "check" else timings(runs, args.pairs, args.batches)
    print(f"failed: {', '.join(runs.failed)}" if runs.failed else "all passed")
    sys.exit(bool(runs.failed))


if __name__ == "__main__":
    main()
