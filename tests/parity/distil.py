"""Fifty distillation steps of our `train` against the same steps in PyTorch.

    python tests/parity/distil.py [--steps 50] [--case vit|resnet|all]

Both start from the same weights (`--init`), see the same pairs in the same order (`--augment none`,
`--shuffle-buffer 0`) and log every term of the loss at every step. Exits with 1 if any term, or any running statistic
of the checkpoint at the end, differs by more than 1e-3 relative.
"""

import argparse
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

LR, WARMUP, BETAS, EPS, DECAY, BATCH = 1e-3, 10, (0.9, 0.98), 1e-6, 0.1, 16
WEIGHTS = {"clip": 1.0, "crd": 1.0, "fd": 2000.0, "icl": 1.0, "intra": 1.0}


def small(width, layers, text):
    """ViT-T-16 and ViT-B-16 in small widths: their patches and context, fewer of everything else."""
    vision = {"image_size": 64, "layers": layers, "width": width, "head_width": 32, "patch_size": 16}
    return {"embed_dim": 64, "vision_cfg": vision, "text_cfg": text_cfg(*text) | {"layers": layers}}


def small_resnet(width, stages, text):
    """RN50 in a small width: a block more where a stage must also have one that neither strides nor widens."""
    vision = {"image_size": 64, "layers": stages, "width": width, "head_width": 32, "patch_size": None}
    return {"embed_dim": 64, "vision_cfg": vision, "text_cfg": text_cfg(*text) | {"layers": 3}}


STUDENTS = {"vit": small(64, 3, (64, 2)), "resnet": small_resnet(16, [1, 2, 1, 1], (64, 2))}
TEACHER = small(128, 4, (96, 3))
TOLERANCE = 1e-3
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


def reference(student, teacher, samples, steps):
    transform = image_transform(64, is_train=False)
    tokenize = open_clip.SimpleTokenizer()
    student.train()
    icl = torch.nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    named = [*student.named_parameters(), ("icl", icl)]
    groups = [
        {"params": [p for _, p in named if p.ndim >= 2], "weight_decay": DECAY},
        {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS)
    per_epoch = len(samples) // BATCH
    for step in range(steps):
        first = step % per_epoch * BATCH
        chosen = samples[first : first + BATCH]
        image = torch.stack([transform(i) for i, _ in chosen])
        text = tokenize([c for _, c in chosen])
        if step < WARMUP:
            lr = LR * (step + 1) / WARMUP
        else:
            lr = LR * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (steps - WARMUP)))
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
        yield {k: x.item() for k, x in terms.items()}


def ours(cfg, student, teacher, samples, steps):
    """The lines of `train`'s log, and the student it ends with."""
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
            "--steps", steps, "--lr", LR, "--warmup", WARMUP, "--wd", DECAY, "--beta1", BETAS[0], "--beta2", BETAS[1],
            "--eps", EPS, "--name", "run", cwd=folder,
        )  # fmt: skip
        run = folder / "logs" / "run"
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines], load_file(run / "checkpoints" / f"step_{steps}" / "model.safetensors")


def running_statistics(got, model):
    """Prints the largest difference of each kind of BatchNorm buffer, relative to the largest value of that buffer;
    returns whether all agree."""
    largest = {}
    for name, want in model.named_buffers():
        if "running_" in name or name.endswith("num_batches_tracked"):
            difference = (got[name].double() - want.double()).abs().max() / want.double().abs().max()
            kind = name.rsplit(".", 1)[1]
            largest[kind] = max(largest.get(kind, (0.0, "")), (difference.item(), name))
    for kind, (difference, name) in largest.items():
        print(f"  {kind:<19} largest relative difference {difference:.1e}, at {name}")
    return all(difference <= TOLERANCE for difference, _ in largest.values())


def agrees(case, steps):
    cfg = STUDENTS[case]
    samples = list(pairs(7 * BATCH + 5))
    student, teacher = random_model(cfg, 1), random_model(TEACHER, 2)
    with torch.no_grad():
        teacher.logit_scale.fill_(math.log(50))
    logged, checkpoint = ours(cfg, student, teacher, samples, steps)
    worst = dict.fromkeys(WEIGHTS, (0.0, 0))
    for step, (got, want) in enumerate(zip(logged, reference(student, teacher, samples, steps), strict=True)):
        for k in WEIGHTS:
            worst[k] = max(worst[k], (abs(got[f"loss_{k}"] - want[k]) / abs(want[k]), step + 1))
    print(f"{case}: {steps} steps of batch {BATCH}")
    for k, (difference, step) in worst.items():
        moved = f"{logged[0][f'loss_{k}']:.4g} -> {logged[-1][f'loss_{k}']:.4g}"
        print(f"  {k:<6} largest relative difference {difference:.1e}, at step {step}; the term went {moved}")
    return running_statistics(checkpoint, student) and all(d <= TOLERANCE for d, _ in worst.values())


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
