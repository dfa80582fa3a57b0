"""What both parity scripts share: models, programs, comparisons."""

import subprocess
import sys
from pathlib import Path

import torch
from open_clip.model import CLIP

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "fixtures"))


def text_cfg(width, heads):
    return {"context_length": 77, "vocab_size": 49408, "width": width, "heads": heads, "layers": 12}


def vit(embed_dim, patch, width, layers, text):
    vision = {"image_size": 224, "layers": layers, "width": width, "head_width": 64, "patch_size": patch}
    return {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text_cfg(*text)}


MODELS = {
    "ViT-T-16": vit(512, 16, 192, 12, (384, 6)),
    "ViT-B-16": vit(512, 16, 768, 12, (512, 8)),
    "ViT-B-32": vit(512, 32, 768, 12, (512, 8)),
    "ViT-L-14": vit(768, 14, 1024, 24, (768, 12)),
    "RN50": {
        "embed_dim": 1024,
        "vision_cfg": {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64, "patch_size": None},
        "text_cfg": text_cfg(512, 8),
    },
}


def random_model(cfg, seed):
    """open_clip's initialisation, with biases, norms and running statistics moved off the zeros and ones
    behind which an error could hide."""
    torch.manual_seed(seed)
    model = CLIP(**cfg)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name != "logit_scale" and p.ndim < 2:
                p.add_(0.02 * torch.randn_like(p))
        for name, b in model.named_buffers():
            if name.endswith("running_mean"):
                b.add_(0.1 * torch.randn_like(b))
            elif name.endswith("running_var"):
                b.mul_(0.5 + torch.rand_like(b))
    return model.eval()


def program(name, *args, cwd=None):
    """Runs one of our programs (release build) and returns what it printed."""
    command = [str(ROOT / "target" / "release" / name), *map(str, args)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout + done.stderr


def worst(name, got, want):
    """Largest difference and smallest cosine of unit rows."""
    difference = (got.double() - want.double()).abs().max().item()
    cosine = torch.nn.functional.cosine_similarity(got.double(), want.double()).min().item()
    print(f"  {name:<28} max |difference| {difference:.2e}   min cosine {cosine:.7f}", flush=True)
    return difference, cosine
