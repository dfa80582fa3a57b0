"""Takes every barrier and every wait out of the kernels, one at a time, and expects a test to fail.

    python tests/barriers.py [FILE ...]        # only those of cuda/FILE and shaders/FILE

Needs cargo, g++ for the CUDA kernels and an adapter for the shaders (Mesa's software adapter), and up to a minute for
each of them. The tests are built once. The emulated CUDA device compiles the kernels when it runs, with a compiler that
removes one line from what it is given; each mutant has a cache of its own, which holds the modules that it does not
change. Shaders are read from a changed copy of their folder, and run with their invocations in both orders. Prints who
noticed, and ends with the count; 1 if anything went unnoticed.
"""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CUDA = ROOT / "cuda"
SHADERS = ROOT / "shaders"
CALL = re.compile(r"(__syncthreads\(\)|__syncwarp\(\)|cp_async_wait<[^>]*>\(\));")
BARRIER = re.compile(r"((?:workgroup|storage)Barrier\(\));")
# Quick ones first: the first failure is enough.
SUITES = ["kernels", "relation", "convolutions", "ops", "towers", "losses"]
# What defines the calls.
DEFINITIONS = {"common.cuh", "nvidia.cuh"}


def sites(folder, call, wanted):
    """(file, line counted from 1, call) of everything to remove."""
    for path in sorted(folder.iterdir()):
        if path.name in DEFINITIONS or (wanted and path.name not in wanted):
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            match = call.search(line.split("//")[0])
            if match:
                yield path.name, number, match[1]


def including(name):
    """Modules whose text holds the file `name`, directly or through others."""
    includes = {
        path.name: set(re.findall(r'#include "(.*?)"', path.read_text())) for path in CUDA.iterdir()
    }
    holds = {name}
    while more := {file for file, of in includes.items() if of & holds} - holds:
        holds |= more
    return {file.removesuffix(".cu") for file in holds if file.endswith(".cu")}


def executables():
    """Paths of the test programs, by suite."""
    wanted = [arg for suite in SUITES for arg in ("--test", suite)]
    command = ["cargo", "test", "--no-run", "--message-format=json", *wanted]
    built = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    messages = [json.loads(line) for line in built.stdout.splitlines() if line.startswith("{")]
    return {
        m["target"]["name"]: m["executable"] for m in messages if m.get("executable") is not None
    }


def passes(program, variables, only=""):
    """Whether the suite, or its tests whose names hold `only`, pass under these environment variables."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = os.environ | variables | {
        "PROPTEST_MAX_SHRINK_ITERS": "0",
        "PROPTEST_DISABLE_FAILURE_PERSISTENCE": "1",
    }
    command = [program, only] if only else [program]
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, timeout=900, **quiet)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


class Cuda:
    """The CUDA kernels on the emulated device."""

    folder, call = CUDA, CALL

    def __init__(self, whole):
        self.whole = whole

    def variables(self, cache, cxx=None):
        """For a run with this cache, and with this compiler."""
        of = {"XDG_CACHE_HOME": str(cache), "CLIP_DISTILL_REQUIRE": "cpu,emulated"}
        return of | {"CLIP_DISTILL_TENANTS": "cpu,emulated,emulated in bf16"} | ({"CXX": str(cxx)} if cxx else {})

    def runs(self):
        """What a run with every barrier in place needs."""
        return [self.variables(self.whole)]

    def without(self, folder, name, number):
        """The runs without the call in this line."""
        kept = folder / "clip-distill" / "emulated"
        kept.mkdir(parents=True)
        changed = including(name)
        for library in (self.whole / "clip-distill" / "emulated").glob("*.so"):
            if library.name.rsplit("-", 1)[0] not in changed:
                shutil.copy(library, kept)
        real = os.environ.get("CXX", "g++")
        removal = rf"{number}s/__sync[a-z]*()\|cp_async_wait<[^>]*>()/((void)0)/"
        path = folder / "compiler"
        path.write_text(
            "#!/bin/sh\n"
            f'[ "$1" = --version ] || [ ! -f {name} ] || sed -i \'{removal}\' {name}\n'
            f'exec {real} "$@"\n'
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return [self.variables(folder, path)]


class Shaders:
    """The shaders on an adapter, their invocations from the first to the last and from the last to the first."""

    folder, call = SHADERS, BARRIER

    def __init__(self, whole):
        pass

    def variables(self, folder):
        """For runs with the shaders of this folder."""
        of = {
            "CLIP_DISTILL_REQUIRE": "wgpu,wgpu_f16",
            "CLIP_DISTILL_SHADERS": str(folder),
            "PROPTEST_CASES": "24",
        }
        plain = {"CLIP_DISTILL_TENANTS": "wgpu without subgroups,wgpu without subgroups in f16"}
        lanes = {"CLIP_DISTILL_TENANTS": "wgpu,wgpu in f16"}
        reversed_order = {"CLIP_DISTILL_SHADER_ORDER": "reversed"}
        return [of | plain, of | plain | reversed_order, of | lanes]

    def runs(self):
        """What a run with every barrier in place needs."""
        return self.variables(SHADERS)

    def without(self, folder, name, number):
        """The runs without the barrier in this line."""
        changed = folder / "shaders"
        shutil.copytree(SHADERS, changed)
        lines = (changed / name).read_text().splitlines(keepends=True)
        lines[number - 1] = BARRIER.sub("", lines[number - 1])
        (changed / name).write_text("".join(lines))
        return self.variables(changed)


def main():
    programs = executables()
    missed, count = [], 0
    for kind in (Cuda, Shaders):
        todo = list(sites(kind.folder, kind.call, set(sys.argv[1:])))
        if not todo:
            continue
        with tempfile.TemporaryDirectory() as whole:
            kernels = kind(Path(whole))
            for suite in SUITES:
                if not all(passes(programs[suite], run) for run in kernels.runs()):
                    sys.exit(f"{suite} fails with every barrier in place")
            for name, number, call in todo:
                start = time.monotonic()
                with tempfile.TemporaryDirectory() as folder:
                    runs = kernels.without(Path(folder), name, number)
                    # The tests that bear the kernel's name are the quickest.
                    tries = [(s, only) for only in (name.split(".")[0], "") for s in SUITES]
                    failing = (
                        s for s, only in tries for run in runs if not passes(programs[s], run, only)
                    )
                    by = next(failing, None)
                seconds = time.monotonic() - start
                place = f"{kind.folder.name}/{name}:{number} {call}"
                print(f"{place}: {by or 'NOT NOTICED'} ({seconds:.0f} s)", flush=True)
                count += 1
                if by is None:
                    missed.append(place)
    print(f"{count - len(missed)} of {count} noticed")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
