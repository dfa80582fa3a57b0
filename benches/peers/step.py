"""One distillation step in PyTorch and open_clip: ViT-T-16 student, ViT-B-16 teacher, f32 on the CPU.

    python benches/peers/step.py [--batch 16] [--steps 5] [--warmup 1] [--threads 0]

The work of the engine's own step benchmark: teacher forward, student forward and backward under
clip + crd + fd(2000) + icl + intra(divergence), AdamW. Random weights, images and ids; captions of about a
dozen words, padded to 77 as open_clip pads them. Prints the median seconds of each phase.
Needs torch and open_clip_torch.
"""

import argparse
import math
import statistics
import sys
import time
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "fixtures"))
import losses  # noqa: E402

VIT_T_16 = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 192, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 384, "heads": 6, "layers": 12},
}
VIT_B_16 = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
}


def captions(n):
    """A dozen words are some 14 tokens, between start and end."""
    ids = torch.zeros(n, 77, dtype=torch.long)
    for row in ids:
        words = int(torch.randint(12, 17, ()))
        row[0], row[words + 1] = 49406, 49407
        row[1 : words + 1] = torch.randint(0, 49406, (words,))
    return ids


def objective(v, s, V, T, alpha, alpha_t, icl_scale):
    return (
        losses.clip(v, s, alpha)
        + losses.crd(v, s, V, T, alpha, alpha_t)
        + 2000 * losses.fd(v, s, V, T)
        + losses.icl(v, s, V, T, icl_scale)
        + losses.intra(v, s, V, T, alpha, alpha_t, "divergence")
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's own choice")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    student, teacher = CLIP(**VIT_T_16).train(), CLIP(**VIT_B_16).eval().requires_grad_(False)
    icl_logit_scale = torch.nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    params = [*student.parameters(), icl_logit_scale]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in params if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=1e-3, betas=(0.9, 0.98), eps=1e-6,
    )  # fmt: skip

    seconds = {"teacher": [], "forward": [], "backward": [], "optimiser": [], "step": []}
    for step in range(args.warmup + args.steps):
        image, text = torch.randn(args.batch, 3, 224, 224), captions(args.batch)
        marks = [time.perf_counter()]
        with torch.no_grad():
            V = teacher.encode_image(image, normalize=True)
            T = teacher.encode_text(text, normalize=True)
            alpha_t = teacher.logit_scale.exp()
        marks.append(time.perf_counter())
        v, s = student.encode_image(image), student.encode_text(text)
        v, s = F.normalize(v, dim=-1), F.normalize(s, dim=-1)
        loss = objective(v, s, V, T, student.logit_scale.exp(), alpha_t, icl_logit_scale.exp())
        marks.append(time.perf_counter())
        optimizer.zero_grad()
        loss.backward()
        marks.append(time.perf_counter())
        optimizer.step()
        with torch.no_grad():
            student.logit_scale.clamp_(0, math.log(100))
            icl_logit_scale.clamp_(0, math.log(100))
        loss.item()
        marks.append(time.perf_counter())
        if step >= args.warmup:
            spans = [b - a for a, b in zip(marks, marks[1:])] + [marks[-1] - marks[0]]
            for phase, span in zip(seconds, spans, strict=True):
                seconds[phase].append(span)

    print(
        f"torch {torch.__version__}, open_clip {open_clip.__version__}, f32, batch {args.batch}, "
        f"{torch.get_num_threads()} threads, median of {args.steps} steps"
    )
    for phase, spans in seconds.items():
        print(f"{phase:<10}{statistics.median(spans):8.3f} s")
    print(f"{args.batch / statistics.median(seconds['step']):.2f} samples/s")


if __name__ == "__main__":
    main()
