"""Image and text features of every built-in model, ours against open_clip's, in both directions.

    python tests/parity/features.py [MODEL ...]

The inputs are photographs, captions, and those of open_clip's own inference regression tests: images of noise and texts
of random tokens.

Exits with 1 if unit features differ by more than 1e-5 in f32, or their cosine is below 0.999 in bf16 (where
the processor has it).
"""

import json
import random
import sys
import tempfile
from pathlib import Path

import ftfy
import numpy
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


# Drawn at random; open_clip's tests take the first of each.
IMAGES, TEXTS = 4, 16


def photographs():
    for path in sorted((ROOT / "tests" / "fixtures" / "images").glob("0*.jpg")):
        yield Image.open(path).convert("RGB")


def noise():
    """Uniform bytes, of the models' own size so that nothing is resized. As in open_clip's tests, 255 never comes."""
    rng = numpy.random.RandomState(0)
    for _ in range(IMAGES):
        yield Image.fromarray(rng.randint(255, size=(224, 224, 3), dtype=numpy.uint8))


def random_texts():
    """Each the strings of 75 random tokens, put together. Tokens that are parts of UTF-8 sequences look like text read
    in a wrong code page. Which one, ftfy guesses by its statistics, which our tokenizer does not have (see
    `src/data/tokenizer/clean.rs`). So ftfy repairs the texts for both sides, and those are skipped that open_clip
    then tokenizes differently, or that still hold what could be UTF-8 read as Windows-1252."""
    tokenizer, rng = open_clip.SimpleTokenizer(), random.Random(0)
    words = [w.replace("</w>", " ") for i, w in tokenizer.decoder.items() if i not in tokenizer.all_special_ids]
    drawn = ["".join(rng.choices(words, k=rng.randint(75, 75))).strip() for _ in range(TEXTS)]
    repaired = [ftfy.fix_encoding(text) for text in drawn]
    same = (tokenizer(drawn) == tokenizer(repaired)).all(1)
    clear = [text.encode("cp1252", "replace").decode("utf-8", "ignore").isascii() for text in repaired]
    skipped = [i for i in range(TEXTS) if not (same[i] and clear[i])]
    print(f"random texts: {TEXTS}, of which {skipped} skipped; open_clip's tests use 0")
    return [text for i, text in enumerate(repaired) if i not in skipped]


def features(model, images, texts):
    with torch.no_grad():
        return model.encode_image(images, normalize=True), model.encode_text(texts, normalize=True)


def split(rows, kinds):
    return rows.split([len(inputs) for inputs in kinds.values()])


def has_bf16():
    return "avx512_bf16" in Path("/proc/cpuinfo").read_text()


def main():
    names = sys.argv[1:] or list(MODELS)
    failed = False
    print(f"torch {torch.__version__}, open_clip {open_clip.__version__}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "images").mkdir()
        pixels = {"photographs": list(photographs()), "noise": list(noise())}
        lines = {"captions": [c.strip() for c in CAPTIONS], "random texts": random_texts()}
        all_images, all_texts = sum(pixels.values(), []), sum(lines.values(), [])
        for i, image in enumerate(all_images):
            image.save(folder / "images" / f"{i:03}.png")  # lossless: both sides see the same pixels
        (folder / "texts.txt").write_text("\n".join(all_texts) + "\n")
        transform = image_transform(224, is_train=False)
        images = torch.stack([transform(i) for i in all_images])
        texts = open_clip.SimpleTokenizer()(all_texts)

        def embed(weights, model, precision="fp32"):
            out = folder / "out.safetensors"
            program(
                "embed", weights, "--model", model, "--images", folder / "images", "--texts",
                folder / "texts.txt", "--out", out, "--precision", precision,
            )  # fmt: skip
            found = load_file(out)
            return found["image_features"], found["text_features"]

        def differences(precision, got, want):
            """Prints each kind of input on a line; returns whether one differs too much."""
            failed = False
            for kinds, g, w in zip((pixels, lines), got, want):
                for kind, g, w in zip(kinds, split(g, kinds), split(w, kinds)):
                    difference, cosine = worst(f"{precision} {kind}", g, w)
                    failed |= not (difference <= 1e-5 if precision == "fp32" else cosine >= 0.999)  # nor NaN
            return failed

        for seed, name in enumerate(names):
            print(name)
            model = random_model(MODELS[name], seed)
            weights = folder / "weights.safetensors"
            save_file({k: v.contiguous() for k, v in model.state_dict().items()}, weights)
            want = features(model, images, texts)
            for precision in ["fp32", "amp_bf16"] if has_bf16() else ["fp32"]:
                failed |= differences(precision, embed(weights, name, precision), want)
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
        failed |= differences("fp32", embed(checkpoint, student), want)
    sys.exit(failed)


if __name__ == "__main__":
    main()
