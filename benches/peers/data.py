"""open_clip's image pipelines on the photographs of `cargo bench --bench data`: images a second on one thread.

    python benches/peers/data.py [--photos FOLDER] [--repetitions 7]

Training: Pillow's decoding, RandomResizedCrop (0.9 to 1, bicubic), RGB, to tensor, normalised. Evaluation: resize of the
shortest side, centre crop, the same after it. Ours leaves the last two to the device, where they cost nothing to speak
of. Needs torch, torchvision and Pillow.
"""

import argparse
import io
import statistics
import time
from pathlib import Path

import PIL
import torch
import torchvision
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

SIZE = 224
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def rgb(image):
    return image.convert("RGB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parents[2]
    parser.add_argument("--photos", type=Path, default=here / "tests" / "fixtures" / "images")
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    photos = [path.read_bytes() for path in sorted(arguments.photos.glob("*.jpg"))]
    after = [rgb, transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    crop = transforms.RandomResizedCrop(SIZE, scale=(0.9, 1.0), interpolation=InterpolationMode.BICUBIC)
    shortest = transforms.Resize(SIZE, interpolation=InterpolationMode.BICUBIC)
    train = transforms.Compose([crop, *after])
    evaluate = transforms.Compose([shortest, transforms.CenterCrop(SIZE), *after])

    def opened(photo):
        return Image.open(io.BytesIO(photo))

    rows = {
        "decode": lambda photo: opened(photo).load(),
        "training": lambda photo: train(opened(photo)),
        "evaluation": lambda photo: evaluate(opened(photo)),
    }
    print(f"Pillow {PIL.__version__}, torchvision {torchvision.__version__}, {len(photos)} photographs")
    times = {name: [] for name in rows}
    for _ in range(arguments.repetitions):
        for name, work in rows.items():
            start = time.perf_counter()
            for photo in photos:
                work(photo)
            times[name].append((time.perf_counter() - start) / len(photos))
    for name, seconds in times.items():
        print(f"{name:<30} {1 / statistics.median(seconds):8.0f}")


if __name__ == "__main__":
    main()
