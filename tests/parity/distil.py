"""Fifty distillation steps of our `train` against the same steps in PyTorch.

    python tests/parity/distil.py [--steps 50] [--case vit|resnet|all]

Both start from the same weights (`--init`), see the same pairs in the same order (`--augment none`,
`--shuffle-buffer 0`) and log every term of the loss at every step. The reference runs in f64, so that a difference is
ours alone; what PyTorch's own f32 differs by stands beside it. Exits with 1 if any term, or any running statistic of
the checkpoint at the end, differs by more than 1e-3 relative.
"""

import argparse
import copy
import io
import json
import math
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy
import open_clip
import torch
from open_clip.transform import image_transform
from PIL import Image
from safetensors.torch import load_file, save_file

from common import program, random_model, text_cfg

import losses  # noqa: E402  (tests/fixtures, on the path since common)

WARMUP, BETAS, EPS, DECAY, BATCH = 10, (0.9, 0.98), 1e-6, 0.1, 16
WEIGHTS = {"clip": 1.0, "crd": 1.0, "fd": 2000.0, "icl": 1.0, "intra": 1.0}


def small(width, layers, text):
    """ViT-T-16 and ViT-B-16 in small widths: their patches and context, fewer of everything else."""
    vision = {"image_size": 64, "layers": layers, "width": width, "head_width": 32, "patch_size": 16}
    return {"embed_dim": 64, "vision_cfg": vision, "text_cfg": text_cfg(*text) | {"layers": layers}}


def small_resnet(width, stages, text):
    """RN50 in a small width: a block more where a stage must also have one that neither strides nor widens."""
    vision = {"image_size": 64, "layers": stages, "width": width, "head_width": 32, "patch_size": None}
    return {"embed_dim": 64, "vision_cfg": vision, "text_cfg": text_cfg(*text) | {"layers": 3}}


# Configuration and learning rate. AdamW makes whole steps of gradients that are rounding noise, and ReLU and BatchNorm
# amplify them: at 1e-3 PyTorch's running statistics in f32 are 1 % off its own in f64 after fifty steps, at 1e-4 0.1 %.
STUDENTS = {
    "vit": (small(64, 3, (64, 2)), 1e-3),
    "resnet": (small_resnet(16, [1, 2, 1, 1], (64, 2)), 1e-4),
}
TEACHER = small(128, 4, (96, 3))
WORDS = "red green blue small large old new bright dark round square wooden metal soft dog cat car tree".split()


def pairs(n):
    """Smooth random images of the models' own size, and random captions."""
    rng = numpy.random.default_rng(0)
    for _ in range(n):
        coarse = rng.integers(0, 256, (5, 5, 3), dtype=numpy.uint8)
        image = Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC)
        yield image, " ".join(rng.choice(WORDS, rng.integers(2, 9)))


def write_shard(path, samples):
    with tarfile.open(path, "w") as tar:
        for i, (image, caption) in enumerate(samples):
            png = io.BytesIO()
            image.save(png, "png")
            for end, data in (("png", png.getvalue()), ("txt", caption.encode())):
                info = tarfile.TarInfo(f"{i:05}.{end}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def reference(student, teacher, samples, steps, peak, dtype):
    """The terms at every step, and the student's buffers after the last."""
    student, teacher = copy.deepcopy(student).to(dtype), copy.deepcopy(teacher).to(dtype)
    transform = image_transform(64, is_train=False)
    tokenize = open_clip.SimpleTokenizer()
    student.train()
    icl = torch.nn.Parameter(torch.tensor(math.log(1 / 0.07), dtype=dtype))
    named = [*student.named_parameters(), ("icl", icl)]
    groups = [
        {"params": [p for _, p in named if p.ndim >= 2], "weight_decay": DECAY},
        {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=BETAS, eps=EPS)
    per_epoch, logged = len(samples) // BATCH, []
    for step in range(steps):
        first = step % per_epoch * BATCH
        chosen = samples[first : first + BATCH]
        image = torch.stack([transform(i) for i, _ in chosen]).to(dtype)
        text = tokenize([c for _, c in chosen])
        if step < WARMUP:
            lr = peak * (step + 1) / WARMUP
        else:
            lr = peak * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (steps - WARMUP)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        with torch.no_grad():
            V, T = teacher.encode_image(image, normalize=True), teacher.encode_text(text, normalize=True)
            alpha_t = teacher.logit_scale.exp()
        v, s = student.encode_image(image, normalize=True), student.encode_text(text, normalize=True)
        alpha = student.logit_scale.exp()
        terms = {
            "clip": losses.clip(v, s, alpha),
            "crd": losses.crd(v, s, V, T, alpha, alpha_t),
            "fd": losses.fd(v, s, V, T),
            "icl": losses.icl(v, s, V, T, icl.exp()),
            "intra": losses.intra(v, s, V, T, alpha, alpha_t),
        }
        optimizer.zero_grad()
        sum(WEIGHTS[k] * x for k, x in terms.items()).backward()
        optimizer.step()
        with torch.no_grad():
            student.logit_scale.clamp_(0, math.log(100))
            icl.clamp_(0, math.log(100))
        logged.append({k: x.item() for k, x in terms.items()})
    return logged, dict(student.named_buffers())


def ours(cfg, student, teacher, samples, steps, peak):
    """The terms that `train` logs, and the tensors of its last checkpoint."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_shard(folder / "pairs.tar", samples)
        for name, model, cfg in (("student", student, cfg), ("teacher", teacher, TEACHER)):
            save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / f"{name}.safetensors")
            (folder / f"{name}.json").write_text(json.dumps(cfg))
        program(
            "train", "--model", "student.json", "--init", "student.safetensors", "--teacher", "teacher.json",
            "--teacher-checkpoint", "teacher.safetensors", "--method", "intra-kd", "--train-data", "pairs.tar",
            "--augment", "none", "--shuffle-buffer", 0, "--log-every", 1, "--batch-size", BATCH,
            "--steps", steps, "--lr", peak, "--warmup", WARMUP, "--wd", DECAY, "--beta1", BETAS[0], "--beta2", BETAS[1],
            "--eps", EPS, "--name", "run", cwd=folder,
        )  # fmt: skip
        run = folder / "logs" / "run"
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        logged = [{k: line[f"loss_{k}"] for k in WEIGHTS} for line in lines]
        return logged, load_file(run / "checkpoints" / f"step_{steps}" / "model.safetensors")


def differences(got, want):
    """The largest relative difference of each term, and of each kind of running statistic relative to the largest
    value of its BatchNorm; each with where it was."""
    largest = {}

    def see(kind, difference, place):
        difference = math.inf if math.isnan(difference) else difference
        largest[kind] = max(largest.get(kind, (0.0, "nowhere")), (difference, place))

    for step, (g, w) in enumerate(zip(got[0], want[0], strict=True)):
        for k in WEIGHTS:
            see(k, abs(g[k] - w[k]) / abs(w[k]), f"step {step + 1}")
    for name, w in want[1].items():
        if name != "attn_mask":
            layer, kind = name.rsplit(".", 1)
            difference = (got[1][name].double() - w.double()).abs().max() / w.double().abs().max()
            see(kind, difference.item(), layer)
    return largest


def agrees(case, steps):
    cfg, peak = STUDENTS[case]
    samples = list(pairs(7 * BATCH + 5))
    student, teacher = random_model(cfg, 1), random_model(TEACHER, 2)
    with torch.no_grad():
        teacher.logit_scale.fill_(math.log(50))
    got = ours(cfg, student, teacher, samples, steps, peak)
    want, single = (reference(student, teacher, samples, steps, peak, d) for d in (torch.float64, torch.float32))
    print(f"{case}: {steps} steps of batch {BATCH}; largest relative differences from PyTorch in f64")
    found, own = differences(got, want), differences(single, want)
    for kind, (difference, place) in found.items():
        moved = f"; it went {want[0][0][kind]:.4g} -> {want[0][-1][kind]:.4g}" if kind in WEIGHTS else ""
        print(f"  {kind:<19} ours {difference:.1e} ({place}), PyTorch's f32 {own[kind][0]:.1e}{moved}")
    return all(difference <= 1e-3 for difference, _ in found.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--case", choices=[*STUDENTS, "all"], default="all")
    flags = parser.parse_args()
    print(f"torch {torch.__version__}, open_clip {open_clip.__version__}")
    cases = STUDENTS if flags.case == "all" else [flags.case]
    sys.exit(not all([agrees(case, flags.steps) for case in cases]))


if __name__ == "__main__":
    main()
