"""Image and text features of every built-in model, ours against open_clip's, in both directions.

    python tests/parity/features.py [MODEL ...]

Exits with 1 if unit features differ by more than 1e-5 in f32, or their cosine is below 0.999 in bf16 (where
the processor has it).
"""

import json
import sys
import tempfile
from pathlib import Path

import open_clip
import torch
from open_clip.model import CLIP
from open_clip.transform import image_transform
from PIL import Image
from safetensors.torch import load_file, save_file

from common import MODELS, ROOT, program, random_model, worst

CAPTIONS = [
    "a photo of a dog.",
    "two people riding a tandem bicycle along a wet street, seen from behind",
    "zebra",
    "1,234 café tables — naïve & “quoted”; 50% off!",
    "a very long caption that goes on and on " * 12,
]


def photographs(folder):
    """The fixtures' photographs as PNGs, so that both sides decode the same pixels."""
    paths = sorted((ROOT / "tests" / "fixtures" / "images").glob("0*.jpg"))
    for path in paths:
        Image.open(path).convert("RGB").save(folder / f"{path.stem}.png")
    return sorted(folder.glob("*.png"))


def features(model, images, texts):
    with torch.no_grad():
        return model.encode_image(images, normalize=True), model.encode_text(texts, normalize=True)


def has_bf16():
    return "avx512_bf16" in Path("/proc/cpuinfo").read_text()


def main():
    names = sys.argv[1:] or list(MODELS)
    failed = False
    print(f"torch {torch.__version__}, open_clip {open_clip.__version__}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "images").mkdir()
        pngs = photographs(folder / "images")
        (folder / "texts.txt").write_text("\n".join(c.strip() for c in CAPTIONS) + "\n")
        transform = image_transform(224, is_train=False)
        images = torch.stack([transform(Image.open(p)) for p in pngs])
        texts = open_clip.SimpleTokenizer()([c.strip() for c in CAPTIONS])

        def embed(weights, model, precision="fp32"):
            out = folder / "out.safetensors"
            program(
                "embed", weights, "--model", model, "--images", folder / "images", "--texts",
                folder / "texts.txt", "--out", out, "--precision", precision,
            )  # fmt: skip
            found = load_file(out)
            return found["image_features"], found["text_features"]

        for seed, name in enumerate(names):
            print(name)
            model = random_model(MODELS[name], seed)
            weights = folder / "weights.safetensors"
            save_file({k: v.contiguous() for k, v in model.state_dict().items()}, weights)
            want = features(model, images, texts)
            for precision in ["fp32", "amp_bf16"] if has_bf16() else ["fp32"]:
                got = embed(weights, name, precision)
                for kind, g, w in zip(("images", "texts"), got, want):
                    difference, cosine = worst(f"{precision} {kind}", g, w)
                    failed |= difference > 1e-5 if precision == "fp32" else cosine < 0.999
            del model

        print("a checkpoint of ours, in open_clip")
        student = names[0]
        program(
            "train", "--model", student, "--method", "clip", "--train-data", "demo", "--batch-size", 2,
            "--steps", 1, "--shuffle-buffer", 2, "--logs", folder / "logs", "--name", "one",
        )  # fmt: skip
        checkpoint = folder / "logs" / "one" / "checkpoints" / "step_1"
        config = json.loads((checkpoint / "open_clip_config.json").read_text())
        cfg = config.get("model_cfg", config)
        model = CLIP(**cfg)
        print(f"  strict load: {model.load_state_dict(load_file(checkpoint / 'model.safetensors'), strict=True)}")
        want = features(model.eval(), images, texts)
        for kind, g, w in zip(("images", "texts"), embed(checkpoint, student), want):
            difference, _ = worst(f"fp32 {kind}", g, w)
            failed |= difference > 1e-5
    sys.exit(failed)


if __name__ == "__main__":
    main()
