"""Seeds for the fuzz targets, written to fuzz/corpus/: small inputs that are accepted, so that fuzzing starts behind the
first checks. Run by hand; needs Pillow.

    python fuzz/seeds.py
"""

import gzip
import io
import json
import struct
import tarfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests" / "fixtures"


def pictures():
    """Each format, a few pixels: colour kinds, interlacing, progression, animation."""
    picture = Image.linear_gradient("L").resize((9, 7))
    rgb = Image.merge("RGB", (picture, picture.transpose(Image.Transpose.ROTATE_180), picture))
    frames = {"save_all": True, "append_images": [rgb.rotate(90)], "lossless": True}
    for mode, kind, options in (
        ("RGB", "jpeg", {}), ("RGB", "jpeg", {"progressive": True, "subsampling": 2}), ("L", "jpeg", {}),
        ("CMYK", "jpeg", {"restart_marker_blocks": 1}), ("RGB", "png", {}), ("RGBA", "png", {}), ("L", "png", {}),
        ("P", "png", {}), ("1", "png", {}), ("I;16", "png", {}), ("RGB", "webp", {}), ("RGBA", "webp", {}),
        ("RGB", "webp", {"lossless": True}), ("RGB", "webp", frames),
    ):  # fmt: skip
        out = io.BytesIO()
        image = picture.convert("I;16") if mode == "I;16" else rgb.convert(mode)
        image.save(out, kind, **options)
        yield out.getvalue()


def tensors():
    """Safetensors by hand: every element type, a scalar, an empty tensor, metadata."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, dtype, shape, size in (
        ("a", "F32", [2, 3], 24), ("b", "BF16", [2], 4), ("c", "F16", [], 2), ("d", "I64", [1], 8),
        ("e", "I32", [0, 4], 0), ("f", "I32", [1, 1], 4),
    ):  # fmt: skip
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + size]}
        data += bytes(size)
    text = json.dumps(header, separators=(",", ":")).encode()
    yield struct.pack("<Q", len(text)) + text + data
    yield struct.pack("<Q", 2) + b"{}"


def shards():
    image = next(pictures())
    samples = {
        "0.jpg": image, "0.txt": b"a caption", "1.json": b'{"captions": ["a", "b"], "class": 3}', "1.png": image,
        "d/2.jpg": image, "d/2.json": b'{"caption": "c"}', "d/2.cls": b"1", "__meta.txt": b"x",
    }  # fmt: skip
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as tar:
            for name, content in samples.items():
                # A long name has an extension record of its own in the latter two formats.
                info = tarfile.TarInfo(name if form == tarfile.USTAR_FORMAT else "folder/" * 20 + name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        yield out.getvalue()
        yield gzip.compress(out.getvalue(), mtime=0)


def configs():
    for path in [*sorted((FIXTURES / "torch").glob("*.json")), *sorted((ROOT / "src" / "run" / "embedded").glob("*.json"))]:
        if "embed_dim" in path.read_text():
            yield path.read_bytes()
    for path in sorted((ROOT / "src" / "run" / "embedded").glob("*.toml")):
        yield path.read_bytes()
    yield b"shards/{00000..00331}.tar"
    yield b"{a,b{1..9..2}}/{x}*.tar"


def tables():
    yield b"\0filepath\ttitle\na.jpg\ta caption\n"
    yield b'\1title,filepath\r\n"a ""quoted"", caption\nof two lines",b.jpg\r\n\r\n,c.jpg\r\n'


def texts():
    yield from (b"a photo of a dog.", "1,234 café tables — “quoted”".encode(), "mojibake âœ” cafÃ©".encode())
    yield from (b"caf&amp;eacute; &lt;b&gt; &#x1F600;", "日本語 \u200d👩\u200d🚀 ﬁsh".encode(), b"\x1b[31mred\x1b[0m")


if __name__ == "__main__":
    made = {
        "config": configs, "csv": tables, "image": pictures, "safetensors": tensors, "shard": shards, "text": texts,
    }  # fmt: skip
    for target, seeds in made.items():
        folder = ROOT / "fuzz" / "corpus" / target
        folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds()):
            (folder / f"seed_{number:02}").write_bytes(seed)
        print(f"{target}: {len(list(folder.iterdir()))}")
