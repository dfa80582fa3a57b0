"""What only a GPU can show, for one that is rented by the minute: every check on it, under compute-sanitizer as well,
then speeds beside PyTorch's.

    python tests/gpu.py build FOLDER    # tests, benches and `train`, packed into FOLDER; needs cargo and no GPU
    python tests/gpu.py run FOLDER      # all checks, then all times; so also: check FOLDER, time FOLDER
    python tests/gpu.py list            # the names for --only

FOLDER (.gpu) may travel to a machine without cargo; it needs this repository's files and NVIDIA's libraries there. A call ends
within --minutes (8): what did not fit is reported as not run. Results go to --out ($OUT, else FOLDER): `gpu.json`, `gpu.md`
and every command's output in `gpu.log`. The next call with the same FOLDER, or with that `gpu.json` copied into FOLDER,
repeats what failed and runs what was not run; --fresh runs everything. Ends with 1 if anything failed or was not run for
want of time; what lacks a tool on that machine is listed as missing.
"""

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benches" / "peers"
TESTS = "kernels ops relation convolutions losses losses_torch objective towers images trajectory".split()
# Of the library's own tests, those that take a GPU if there is one.
OWN = ["flight", "values_are_those", "descriptions_are"]
BENCHES = ["step", "kernels", "losses"]
SANITIZED = {"memcheck": ["kernels", "ops", "relation", "convolutions"], "racecheck": ["kernels", "ops", "relation"]}
# Seconds kept for what comes after the last command, and without which none is started.
RESERVE, LEAST = 5, 5
PASSED, FAILED, NOT_RUN, MISSING = "passed", "failed", "not run", "missing"


# ---- build


def build(folder):
    folder.mkdir(parents=True, exist_ok=True)
    staged = folder / "binaries"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    wanted = {f"test-{name}" for name in [*TESTS, "clip_distill"]} | {f"bench-{name}" for name in BENCHES} | {"train"}
    commands = [
        ["test", "--no-run", "--lib", *(word for name in TESTS for word in ("--test", name))],
        ["build", "--release", "--bin", "train"],
        ["bench", "--no-run", *(word for name in BENCHES for word in ("--bench", name))],
    ]
    for command in commands:
        options = ["--message-format", "json-render-diagnostics"]
        done = subprocess.run(["cargo", *command, *options], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        for message in map(json.loads, done.stdout.splitlines()):
            made, target = message.get("executable"), message.get("target", {})
            kinds = target.get("kind", [])
            if not made or (command[0] != "build" and "bin" in kinds):
                continue
            name = {"test": "test-", "bench": "bench-", "lib": "test-"}.get(kinds[0], "") + target["name"]
            if name in wanted:
                subprocess.run(["strip", "-o", staged / name, made], check=True)
    missing = wanted - {path.name for path in staged.iterdir()}
    if missing:
        sys.exit(f"not built: {', '.join(sorted(missing))}")
    # Where the tests look for their fixtures.
    (staged / "root").write_text(str(ROOT))
    # Each binary holds the library: a dictionary that spans several of them finds it again.
    archive = folder / "binaries.tar.xz"
    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for path in sorted(staged.iterdir()):
            tar.add(path, path.name)
    size = sum(path.stat().st_size for path in staged.iterdir())
    shutil.rmtree(staged)
    (folder / "gpu.json").unlink(missing_ok=True)
    print(f"{archive}: {archive.stat().st_size / 2**20:.1f} MiB, {size / 2**20:.1f} MiB unpacked")


def unpack(folder):
    """The folder of the binaries, and what tells them from those of another build."""
    archive, to = folder / "binaries.tar.xz", folder / "unpacked"
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()[:16]
    if not (to / digest).exists():
        shutil.rmtree(to, ignore_errors=True)
        with tarfile.open(archive) as tar:
            tar.extractall(to, filter="data")
        (to / digest).touch()
    built = Path((to / "root").read_text())
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        built.symlink_to(ROOT)
    return to, digest


# ---- what there is to run


class Task:
    """A command; `why` instead of it where it cannot run here."""

    def __init__(self, kind, name, command=(), limit=240, why=None, **variables):
        self.kind, self.name, self.limit, self.why, self.variables = kind, name, limit, why, variables
        self.command = [str(word) for word in command]


def wheels():
    """site-packages/nvidia, if Python has NVRTC and cuBLASLt there."""
    spec = importlib.util.find_spec("nvidia")
    for place in map(Path, spec.submodule_search_locations or []) if spec else []:
        if all(any(place.glob(f"*/lib/{name}.so.1?")) for name in ("libnvrtc", "libcublasLt")):
            return place
    return None


def checks(binaries):
    binary = lambda name: binaries / f"test-{name}"  # noqa: E731
    # No compiler for the emulated device: it was checked elsewhere, slowly.
    alone = {"CLIP_DISTILL_REQUIRE": "cuda", "CXX": "none"}
    yield Task("check", "own", [binary("clip_distill"), *OWN, "--nocapture"], **alone)
    for name in TESTS:
        yield Task("check", name, [binary(name), "--nocapture"], **alone)
    demo = "--train-data demo --model demo --teacher demo --batch-size 32 --steps 40 --log-every 10".split()
    train = lambda name, precision: [  # noqa: E731
        *[binaries / "train", *demo, "--backend", "cuda", "--precision", precision],
        *["--name", f"{name}-{os.getpid()}"],
    ]
    for precision in ("fp32", "amp_bf16"):
        for graphs in "10":
            name = f"demo-{precision}-{graphs}"
            yield Task("check", name, train(name, precision), CLIP_DISTILL_CUDA_GRAPHS=graphs)
    # A wheel's libraries find each other without the loader's help.
    place, why = wheels(), "Python has no wheels of NVRTC and cuBLASLt"
    # The driver may be found by it all the same.
    others = [p for p in os.environ.get("LD_LIBRARY_PATH", "").split(":") if p and not any(Path(p).glob("libnvrtc*"))]
    bare = {"CLIP_DISTILL_CUDA_PATH": str(place), "LD_LIBRARY_PATH": ":".join(others)}
    yield Task("check", "demo-wheels", train("demo-wheels", "amp_bf16"), why=None if place else why, **bare)
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    why = None if sanitizer else "compute-sanitizer is not here"
    for tool, names in SANITIZED.items():
        for name in names:
            command = [sanitizer, "--tool", tool, "--error-exitcode", 9, binary(name), "--test-threads", 1]
            yield Task("check", f"{tool}-{name}", command, why=why, PROPTEST_CASES="2", **alone)


def times(binaries, pairs, batches):
    def why(*modules):
        missing = [m for m in modules if importlib.util.find_spec(m) is None]
        return f"Python has no {' and no '.join(missing)}" if missing else None

    def beside(name, bench, needs, *options):
        """Ours, PyTorch's and PyTorch's compiled."""
        where = ["--backend", "cuda", "--precision", "amp_bf16"]
        yield Task("time", name, [binaries / f"bench-{bench}", *where, *options])
        for compiled in ([], ["--compile"]):
            suffix = "-torch" + "-compiled" * bool(compiled)
            command = [sys.executable, PEERS / f"{bench}.py", *where, *options, *compiled]
            yield Task("time", name + suffix, command, why=why(*needs))

    for batch in batches:
        yield from beside(f"step-{batch}", "step", ["torch", "open_clip"], "--batch", batch)
    yield from beside("kernels-bench", "kernels", ["torch"], "--batch", batches[0], "--pairs", pairs)
    yield Task("time", "losses-bench", [binaries / "bench-losses", "--bench"], BENCH_BACKEND="cuda")
    peer = [sys.executable, PEERS / "intra_loss.py", "--device", "cuda"]
    yield Task("time", "losses-bench-torch", peer, why=why("torch"))


# ---- running it


class Runs:
    def __init__(self, folder, out, deadline, digest, fresh):
        self.folder, self.out, self.deadline = folder, out, deadline
        # What commands write, and the benches' plots.
        self.work = folder / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self.results = {"build": digest, "machine": machine(), "runs": {}}
        for place in [] if fresh else [out / "gpu.json", folder / "gpu.json"]:
            earlier = json.loads(place.read_text()) if place.exists() else {}
            if earlier.get("build") == digest:
                self.results["runs"] = earlier["runs"]
                break
        self.log = (out / "gpu.log").open("a")

    def left(self):
        return self.deadline - time.monotonic() - RESERVE

    def do(self, task):
        earlier = self.results["runs"].get(task.name)
        if earlier and earlier["status"] == PASSED:
            print(f"{task.name:<28} passed before", flush=True)
            return
        result = {"kind": task.kind, "command": task.command, "status": NOT_RUN, "seconds": 0, "output": []}
        if task.why:
            result["status"], result["why"] = MISSING, task.why
        elif self.left() < LEAST:
            result["why"] = "no time left"
        else:
            self.run(task, result)
        self.results["runs"][task.name] = result
        last = result.get("why") or (result["output"] or [""])[-1]
        print(f"{task.name:<28} {result['status']:>8} {result['seconds']:6.1f} s  {last[:100]}", flush=True)
        self.write()

    def run(self, task, result):
        allowed, start = min(task.limit, self.left()), time.monotonic()
        output, code = "", None
        try:
            # A session of its own, so that what it starts ends with it.
            child = subprocess.Popen(
                task.command, cwd=self.work, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, errors="replace", start_new_session=True, env={**os.environ, **task.variables},
            )  # fmt: skip
            try:
                output, _ = child.communicate(timeout=allowed)
                code = child.returncode
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                output, _ = child.communicate()
        except OSError as error:
            output, code = str(error), "cannot start"
        result["seconds"] = round(time.monotonic() - start, 1)
        if code == 0:
            result["status"] = PASSED
        elif code is not None:
            result["status"], result["why"] = FAILED, f"exit code {code}"
        elif allowed < task.limit:
            result["why"] = f"stopped after {allowed:.0f} s, when the call's time was over"
        else:
            result["status"], result["why"] = FAILED, f"longer than {task.limit} s"
        lines = output.strip().splitlines()
        # Of a time all that it says, of a check how it ended.
        result["output"] = lines[-200:] if task.kind == "time" else lines[-40:] if code != 0 else lines[-3:]
        self.log.write(f"==== {task.name}: {result['status']}, {result['seconds']} s\n{output}\n")
        self.log.flush()

    def write(self):
        text = json.dumps(self.results, indent=1, ensure_ascii=False)
        for place in {self.out, self.folder}:
            (place / "gpu.json").write_text(text)
        (self.out / "gpu.md").write_text(markdown(self.results))


def machine():
    """GPU, driver and PyTorch, as far as they say."""
    asked = "--query-gpu=name,driver_version,memory.total,compute_cap"
    about = {"time": time.strftime("%Y-%m-%d %H:%M:%S"), "cores": os.cpu_count()}
    try:
        done = subprocess.run(["nvidia-smi", asked, "--format=csv,noheader"], capture_output=True, text=True, timeout=30)
        about["gpu"] = done.stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        about["gpu"] = f"nvidia-smi: {error}"
    try:
        about["torch"] = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        about["torch"] = None
    return about


def markdown(results):
    about = "; ".join(f"{name} {value}" for name, value in results["machine"].items())
    lines = ["# GPU run", "", f"{about}; build {results['build']}", ""]
    for kind, title in (("check", "Checks"), ("time", "Times")):
        runs = {name: run for name, run in results["runs"].items() if run["kind"] == kind}
        if not runs:
            continue
        lines += [f"## {title}", "", "| what | result | seconds | |", "|---|---|---:|---|"]
        for name, run in runs.items():
            said = (run.get("why") or (run["output"] or [""])[-1]).replace("|", "\\|")
            lines.append(f"| {name} | {run['status']} | {run['seconds']:.1f} | {said[:120]} |")
        for name, run in runs.items():
            if run["output"] and (kind == "time" or run["status"] != PASSED):
                lines += ["", f"### {name}", "", "```text", *run["output"], "```"]
        lines.append("")
    return "\n".join(lines)


def main():
    start = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=["build", "run", "check", "time", "list"])
    parser.add_argument("folder", type=Path, nargs="?", default=Path(".gpu"))
    parser.add_argument("--minutes", type=float, default=8, help="after which the call ends")
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these alone")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--pairs", type=int, default=8192, help="of the losses")
    parser.add_argument("--batches", type=int, nargs="+", default=[1024], help="of the step; the first for kernels too")
    args = parser.parse_args()
    folder = args.folder.resolve()
    if args.do == "build":
        build(folder)
        return
    binaries, digest = unpack(folder) if args.do != "list" else (Path(), "")
    tasks = [*checks(binaries), *times(binaries, args.pairs, args.batches)]
    if args.do in ("check", "time"):
        tasks = [task for task in tasks if task.kind == args.do]
    unknown = set(args.only or []) - {task.name for task in tasks}
    if unknown:
        sys.exit(f"there is no {' and no '.join(sorted(unknown))}: see `list`")
    tasks = [task for task in tasks if not args.only or task.name in args.only]
    if args.do == "list":
        print("\n".join(task.name for task in tasks))
        return
    out = (args.out or Path(os.environ.get("OUT") or folder)).resolve()
    out.mkdir(parents=True, exist_ok=True)
    # Where there is no toolkit, PyTorch's libraries will do.
    if "CLIP_DISTILL_CUDA_PATH" not in os.environ and not any(Path("/usr/local").glob("cuda*/lib64/libnvrtc.so.1?")):
        if place := wheels():
            os.environ["CLIP_DISTILL_CUDA_PATH"] = str(place)
    runs = Runs(folder, out, start + 60 * args.minutes, digest, args.fresh)
    for task in tasks:
        runs.do(task)
    runs.write()
    of = {task.name: runs.results["runs"][task.name]["status"] for task in tasks}
    for status in (FAILED, NOT_RUN, MISSING):
        if names := [name for name, s in of.items() if s == status]:
            print(f"{status}: {', '.join(names)}")
    whole = not {FAILED, NOT_RUN} & set(of.values())
    if whole:
        print("all that could run passed")
    print(f"{time.monotonic() - start:.0f} s; {out / 'gpu.md'}")
    sys.exit(not whole)


if __name__ == "__main__":
    main()
