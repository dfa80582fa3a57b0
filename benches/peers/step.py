"""A training step in PyTorch and open_clip, by part.

    python benches/peers/step.py [--student ViT-T-16] [--teacher ViT-B-16] [--batch 16] [--steps 5]
                                 [--precision fp32 | amp_bf16] [--threads 0] [--backend cpu | cuda]
                                 [--compile [default | reduce-overhead | max-autotune]]

The work of `cargo bench --bench step`, with its flags: teacher forward, student forward and backward under clip +
crd + fd(2000) + icl + intra(divergence), AdamW; with `--teacher none` the contrastive loss alone. Random weights,
images and ids; captions of about a dozen words, padded to 77 as open_clip pads them. `amp_bf16` is autocast
around a student in f32 and a teacher whose weights are cast to bf16 once, which is PyTorch's fastest here. With
`--compile`, both models' towers and the loss go through torch.compile in that mode. Parts are timed with a wait for the
device after each, following two steps that are not timed; then as many steps again with none in between.
Needs torch and open_clip_torch.
"""

import argparse
import contextlib
import functools
import math
import statistics
import sys
import time
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "fixtures"), str(ROOT / "tests" / "parity")]
import losses  # noqa: E402
from common import MODELS  # noqa: E402
from intra_loss import intra  # noqa: E402


def captions(n):
    """A dozen words are some 14 tokens, between start and end."""
    ids = torch.zeros(n, 77, dtype=torch.long)
    for row in ids:
        words = int(torch.randint(12, 17, ()))
        row[0], row[words + 1] = 49406, 49407
        row[1 : words + 1] = torch.randint(0, 49406, (words,))
    return ids


def objective(unit, projected, teacher, alpha, alpha_t, icl_scale, eye):
    """Features as (image, text): the student's, those at the teacher's width, the teacher's. `eye` is the diagonal."""
    return (
        losses.clip(*unit, alpha)
        + losses.crd(*unit, *teacher, alpha, alpha_t)
        + 2000 * losses.fd(*projected, *teacher)
        + losses.icl(*projected, *teacher, icl_scale)
        + sum(intra(x, y, alpha, alpha_t, eye) for x, y in zip(unit, teacher, strict=True))
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--student", choices=MODELS, default="ViT-T-16")
    parser.add_argument("--teacher", choices=[*MODELS, "none"], default="ViT-B-16")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--precision", choices=["fp32", "amp_bf16"], default="fp32")
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's own choice")
    parser.add_argument("--backend", choices=["cpu", "cuda"], default="cpu")
    modes = ["default", "reduce-overhead", "max-autotune"]
    parser.add_argument("--compile", choices=modes, nargs="?", const="default")
    args = parser.parse_args()
    compiled = functools.partial(torch.compile, mode=args.compile) if args.compile else lambda f: f
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    cuda = args.backend == "cuda"
    torch.set_default_device(args.backend)
    # TF32 where PyTorch lets convolutions have it by default would not be f32.
    torch.backends.cudnn.allow_tf32 = False
    low = args.precision == "amp_bf16"
    student, teacher, heads = CLIP(**MODELS[args.student]).train(), None, []
    if args.teacher != "none":
        teacher = CLIP(**MODELS[args.teacher]).eval().requires_grad_(False)
        if low:
            teacher = teacher.bfloat16()
        widths = [MODELS[m]["embed_dim"] for m in (args.student, args.teacher)]
        if widths[0] != widths[1]:
            heads = [torch.nn.Linear(*widths) for _ in range(2)]
    icl_logit_scale = torch.nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    params = [*student.parameters(), *(p for h in heads for p in h.parameters()), icl_logit_scale]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in params if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=1e-3, betas=(0.9, 0.98), eps=1e-6, fused=True,
    )  # fmt: skip

    def autocast():
        return torch.autocast(args.backend, torch.bfloat16) if low else contextlib.nullcontext()

    # A model's towers and the loss, each a graph of its own where they are compiled.
    towers = [
        [compiled(tower) for tower in (model.encode_image, model.encode_text)] if model else None
        for model in (student, teacher)
    ]
    distil, contrast = compiled(objective), compiled(losses.clip)

    eye = torch.eye(args.batch, dtype=torch.bool)
    image, text = torch.randn(args.batch, 3, 224, 224), captions(args.batch)
    if low:
        image = image.bfloat16()

    def one(mark):
        mark()
        if teacher is not None:
            with torch.no_grad():
                V = towers[1][0](image, normalize=True).float()
                T = towers[1][1](text, normalize=True).float()
                alpha_t = teacher.logit_scale.exp().float()
        mark()
        with autocast():
            features = towers[0][0](image), towers[0][1](text)
        features = [f.float() for f in features]
        unit = [F.normalize(f, dim=-1) for f in features]
        alpha = student.logit_scale.exp()
        if teacher is None:
            loss = contrast(*unit, alpha)
        else:
            projected = [F.normalize(h(f), dim=-1) for h, f in zip(heads, features)] or unit
            loss = distil(unit, projected, (V, T), alpha, alpha_t, icl_logit_scale.exp(), eye)
        mark()
        optimizer.zero_grad()
        loss.backward()
        mark()
        optimizer.step()
        with torch.no_grad():
            student.logit_scale.clamp_(0, math.log(100))
            icl_logit_scale.clamp_(0, math.log(100))
        mark()

    def settle():
        if cuda:
            torch.cuda.synchronize()

    seconds = {"teacher": [], "forward": [], "backward": [], "optimiser": [], "step": []}
    for step in range(2 + args.steps):
        marks = []

        def mark():
            settle()
            marks.append(time.perf_counter())

        one(mark)
        if step > 1:
            spans = [b - a for a, b in zip(marks, marks[1:])] + [marks[-1] - marks[0]]
            for phase, span in zip(seconds, spans, strict=True):
                seconds[phase].append(span)
    start = time.perf_counter()
    for _ in range(args.steps):
        one(lambda: None)
    settle()
    each = (time.perf_counter() - start) / args.steps

    how = f", compiled ({args.compile})" if args.compile else ""
    where = torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} threads"
    print(
        f"torch {torch.__version__}, open_clip {open_clip.__version__}: {args.student} <- {args.teacher}, "
        f"{args.precision}{how}, batch {args.batch}, {where}; median of {args.steps} steps "
        "after two to warm up:"
    )
    for phase, spans in seconds.items():
        print(f"  {phase:<10}{statistics.median(spans):9.4f} s")
    print(f"  unbroken  {each:9.4f} s, {args.batch / each:.0f} samples/s")


if __name__ == "__main__":
    main()
