"""Takes every barrier and every wait out of the CUDA kernels, one at a time, and expects a test to fail.

    python tests/barriers.py [FILE ...]        # only those of cuda/FILE

Needs cargo and g++, and about a minute for each of them. The tests are built once: the emulated device compiles
the kernels when it runs, with a compiler that removes one line from what it is given. Each mutant has a cache of
its own, which holds the modules that it does not change. Prints who noticed, and ends with the count; 1 if
anything went unnoticed.
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
CALL = re.compile(r"(__syncthreads\(\)|__syncwarp\(\)|cp_async_wait<[^>]*>\(\));")
# Quick ones first: the first failure is enough.
SUITES = ["kernels", "relation", "convolutions", "ops", "towers", "losses"]
# What defines the calls.
DEFINITIONS = {"common.cuh", "nvidia.cuh"}


def sites(wanted):
    """(file, line counted from 1, call) of everything to remove."""
    for path in sorted(CUDA.iterdir()):
        if path.name in DEFINITIONS or (wanted and path.name not in wanted):
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            match = CALL.search(line.split("//")[0])
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


def compiler(folder, name, number):
    """A compiler that removes the call in line `number` of the file `name`, wherever it is given that file."""
    real = os.environ.get("CXX", "g++")
    removal = rf"{number}s/__sync[a-z]*()\|cp_async_wait<[^>]*>()/((void)0)/"
    path = folder / "compiler"
    path.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = --version ] || [ ! -f {name} ] || sed -i \'{removal}\' {name}\n'
        f'exec {real} "$@"\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def run(suite, program, cache, cxx=None):
    """Whether the suite passes."""
    environment = os.environ | {
        "XDG_CACHE_HOME": str(cache),
        "CLIP_DISTILL_REQUIRE": "cpu,emulated",
        "PROPTEST_MAX_SHRINK_ITERS": "0",
        "PROPTEST_DISABLE_FAILURE_PERSISTENCE": "1",
    }
    if cxx:
        environment["CXX"] = str(cxx)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        done = subprocess.run([program], cwd=ROOT, env=environment, timeout=900, **quiet)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def noticed(programs, whole, site):
    """The suite that fails without `site`, or None."""
    name, number, _ = site
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        changed = including(name)
        kept = folder / "clip-distill" / "emulated"
        kept.mkdir(parents=True)
        for library in (whole / "clip-distill" / "emulated").glob("*.so"):
            if library.name.rsplit("-", 1)[0] not in changed:
                shutil.copy(library, kept)
        cxx = compiler(folder, name, number)
        failing = (s for s in SUITES if not run(s, programs[s], folder, cxx))
        return next(failing, None)


def main():
    programs = executables()
    missed = []
    todo = list(sites(set(sys.argv[1:])))
    with tempfile.TemporaryDirectory() as whole:
        whole = Path(whole)
        for suite in SUITES:
            if not run(suite, programs[suite], whole):
                sys.exit(f"{suite} fails with every barrier in place")
        for site in todo:
            start = time.monotonic()
            by = noticed(programs, whole, site)
            name, number, call = site
            seconds = time.monotonic() - start
            print(f"cuda/{name}:{number} {call}: {by or 'NOT NOTICED'} ({seconds:.0f} s)", flush=True)
            if by is None:
                missed.append(site)
    print(f"{len(todo) - len(missed)} of {len(todo)} noticed")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
