"""PyTorch's kernels at the shapes of `cargo bench --bench kernels`.

    python benches/peers/kernels.py [--batch 16] [--repetitions 5] [--precision fp32 | amp_bf16]
                                    [--backend cpu | cuda] [--only TEXT] [--compile] [--pairs 1024]

Rows have the names of ours: linear layers, scaled-dot-product attention, LayerNorm, convolutions (channels last),
BatchNorm + ReLU, AdamW (fused) with the gradient's norm, and the losses with their gradients, in f32 and with all their
matrices in memory. `amp_bf16` is activations and weights in bf16, BatchNorm's and AdamW's parameters in f32. With
`--compile`, activations, norms and losses (but `gd`, a gradient of gradients) go through torch.compile. Prints the
median milliseconds; on a GPU, of enough runs in a row to fill five. Needs torch.
"""

import argparse
import math
import statistics
import sys
import time
from pathlib import Path

import torch
import torch._functorch.config
import torch.nn.functional as F
from intra_loss import intra

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "fixtures"))
import losses  # noqa: E402

SPAN = 5e-3


class Bench:
    def __init__(self, args):
        self.batch, self.repetitions, self.only = args.batch, args.repetitions, args.only
        self.cuda = args.backend == "cuda"
        self.dtype = torch.bfloat16 if args.precision == "amp_bf16" else torch.float32
        self.compile = torch.compile if args.compile else lambda f: f

    def tensor(self, *shape, dtype=None, grad=False):
        return torch.randn(*shape).to(dtype or self.dtype).requires_grad_(grad)

    def settle(self):
        if self.cuda:
            torch.cuda.synchronize()

    def time(self, body):
        def of(runs):
            self.settle()
            start = time.perf_counter()
            for _ in range(runs):
                body()
            self.settle()
            return (time.perf_counter() - start) / runs

        return of(min(500, math.ceil(SPAN / of(1)))) if self.cuda else of(1)

    def row(self, name, work, unit, body):
        if self.only not in name:
            return
        body()
        seconds = statistics.median(self.time(body) for _ in range(self.repetitions))
        print(f"{name:<50}{seconds * 1e3:>10.3f} ms {work / seconds / 1e9:>9.1f} {unit}", flush=True)

    def both(self, name, f, inputs, forward, backward, unit):
        """`f` of `inputs`, then its gradients for those that want one; work of each."""

        def run():
            with torch.no_grad():
                f(*inputs)

        self.row(f"{name} forward", forward, unit, run)
        y = f(*inputs)
        dy, wanted = torch.randn_like(y), [x for x in inputs if x.requires_grad]
        self.row(
            f"{name} backward", backward, unit,
            lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True),
        )  # fmt: skip

    def linear(self, rows, inner, out, act="None"):
        inputs = [self.tensor(*shape, grad=True) for shape in ((rows, inner), (out, inner), (out,))]
        f = F.linear if act == "None" else self.compile(lambda x, w, b: F.gelu(F.linear(x, w, b)))
        flop = 2 * rows * inner * out
        self.both(f"linear {rows}×{inner}→{out} {act}", f, inputs, flop, 2 * flop, "GFLOP/s")

    def layer_norm(self, rows, width):
        inputs = [self.tensor(*shape, grad=True) for shape in ((rows, width), (width,), (width,))]
        f = self.compile(lambda x, g, b: F.layer_norm(x, (width,), g, b))
        moved = rows * width * inputs[0].element_size()
        self.both(f"layer_norm {rows}×{width}", f, inputs, 2 * moved, 3 * moved, "GB/s")

    def attention(self, length, heads, causal=False):
        q, k, v = (self.tensor(self.batch, heads, length, 64, grad=True) for _ in range(3))
        flop = 4 * self.batch * length**2 * heads * 64 * (0.5 if causal else 1)
        name = f"attention {self.batch} × {length}{' causal' if causal else ''}, {heads} heads"
        f = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal)  # noqa: E731
        self.both(name, f, [q, k, v], flop, 2.5 * flop, "GFLOP/s")

    def conv2d(self, side, inputs, outputs, stride):
        x = self.tensor(self.batch, inputs, side, side).to(memory_format=torch.channels_last)
        w = self.tensor(outputs, inputs, 3, 3).to(memory_format=torch.channels_last)
        x.requires_grad_(inputs != 3), w.requires_grad_()
        small = (side - 1) // stride + 1
        flop = 2 * self.batch * small**2 * 9 * inputs * outputs
        name = f"conv2d {self.batch} × {side}²×{inputs}→{outputs} /{stride}"
        f = lambda x, w: F.conv2d(x, w, stride=stride, padding=1)  # noqa: E731
        self.both(name, f, [x, w], flop, flop if inputs == 3 else 2 * flop, "GFLOP/s")

    def batch_norm(self, side, channels):
        x = self.tensor(self.batch, channels, side, side).to(memory_format=torch.channels_last)
        x.requires_grad_()
        g, b = (self.tensor(channels, dtype=torch.float32, grad=True) for _ in range(2))
        f = self.compile(lambda x, g, b: F.relu(F.batch_norm(x, None, None, g, b, training=True)))
        moved = x.numel() * x.element_size()
        name = f"batch_norm + ReLU {self.batch} × {side}²×{channels}"
        self.both(name, f, [x, g, b], 3 * moved, 7 * moved, "GB/s")

    def optimiser(self, n):
        parameter = self.tensor(n, dtype=torch.float32, grad=True)
        parameter.grad = torch.randn(n)
        optimizer = torch.optim.AdamW([parameter], lr=1e-4, fused=True)
        norm = lambda: torch.nn.utils.clip_grad_norm_([parameter], 1e9)  # noqa: E731
        self.row(f"grad_norm {n}, clipped", 12 * n, "GB/s", norm)
        self.row(f"adamw {n}", 28 * n, "GB/s", optimizer.step)

    def losses(self, n, width=512):
        unit = lambda: F.normalize(self.tensor(n, width, dtype=torch.float32), dim=-1)  # noqa: E731
        v, s, V, T = (unit() for _ in range(4))
        alpha, eye = torch.tensor(14.3, requires_grad=True), torch.eye(n, dtype=torch.bool)
        wanted = [v.requires_grad_(), s.requires_grad_(), alpha]
        both = lambda v, s, a: intra(v, V, a, 50.0, eye) + intra(s, T, a, 50.0, eye)  # noqa: E731
        of = {
            "intra": self.compile(both),
            "clip": self.compile(losses.clip),
            "crd": self.compile(lambda v, s, a: losses.crd(v, s, V, T, a, 50.0)),
            "icl": self.compile(lambda v, s, a: losses.icl(v, s, V, T, a)),
            "affinity": self.compile(lambda v, s, a: losses.affinity(v, s, V, T, a, 50.0)),
            "gd": lambda v, s, a: losses.gd(v, s, V, T, a, 50.0),
        }
        for name, loss in of.items():
            # Products of 2 n² width as `cost::losses` counts ours.
            products = {"intra": 10, "clip": 6, "crd": 10, "icl": 6, "affinity": 12, "gd": 46}[name]
            self.row(
                f"{name} of {n} pairs", 2 * products * n**2 * width, "GFLOP/s",
                lambda loss=loss: torch.autograd.grad(loss(v, s, alpha), wanted),
            )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--precision", choices=["fp32", "amp_bf16"], default="fp32")
    parser.add_argument("--backend", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--pairs", type=int, default=1024, help="of the losses")
    args = parser.parse_args()
    torch.manual_seed(0)
    # Gradients are taken again and again from one forward pass.
    torch._functorch.config.donated_buffer = False
    torch.set_default_device(args.backend)
    # TF32 where PyTorch lets convolutions have it by default would not be f32.
    torch.backends.cudnn.allow_tf32 = False
    where = torch.cuda.get_device_name() if args.backend == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {args.precision}, {where}, batch {args.batch}")
    bench, tokens = Bench(args), args.batch * 197
    for width in (768, 192):
        bench.linear(tokens, width, 3 * width)
        bench.linear(tokens, width, width)
        bench.linear(tokens, width, 4 * width, "Gelu")
        bench.linear(tokens, 4 * width, width)
        bench.layer_norm(tokens, width)
    bench.linear(args.batch * 15, 384, 3 * 384)
    bench.attention(197, 12)
    bench.attention(197, 3)
    bench.attention(15, 8, causal=True)
    bench.attention(77, 8, causal=True)
    for shape in ((224, 3, 32, 2), (112, 32, 64, 1), (56, 64, 64, 1), (14, 256, 256, 1), (7, 512, 512, 1)):
        bench.conv2d(*shape)
    bench.batch_norm(56, 256)
    bench.batch_norm(14, 1024)
    bench.optimiser(36_000_000)
    bench.losses(args.pairs)


if __name__ == "__main__":
    main()
