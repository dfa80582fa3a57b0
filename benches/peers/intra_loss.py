"""The intra-modal loss with its N x N matrices materialised, in PyTorch: time and memory at growing N.

    python benches/peers/intra_loss.py [--sizes 1024 2048 4096 8192] [--dim 512] [--steps 3] [--device cpu]

Forward and backward of both modalities, f32, `divergence` weights: what one would write without a fused
operation. Prints median milliseconds and the peak memory above what the features themselves take (CPU: of the
process; CUDA: of PyTorch's allocator). Needs torch.
"""

import argparse
import statistics
import threading
import time
from pathlib import Path

import torch
import torch.nn.functional as F


def intra(x, y, alpha, alpha_t, eye):
    log_p = (alpha * x @ x.T).masked_fill(eye, -1e9).log_softmax(1)
    log_q = (alpha_t * y @ y.T).masked_fill(eye, -1e9).log_softmax(1)
    d = (log_q.exp() * (log_q - log_p)).sum(1)
    return (d / d.sum().clamp_min(1e-12) * d).sum()


class Resident:
    """Peak resident memory of this process, sampled every millisecond (Linux)."""

    def read(self):
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def __enter__(self):
        self.start = self.peak = self.read()
        self.running = True
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while self.running:
            self.peak = max(self.peak, self.read())
            time.sleep(1e-3)

    def __exit__(self, *_):
        self.running = False
        self.thread.join()


def measure(n, dim, steps, device):
    leaves = [F.normalize(torch.randn(n, dim, device=device), dim=-1).requires_grad_() for _ in range(2)]
    teachers = [F.normalize(torch.randn(n, dim, device=device), dim=-1) for _ in range(2)]
    log_scale = torch.tensor(2.659, device=device, requires_grad=True)
    cuda = device.startswith("cuda")

    def step():
        for x in (*leaves, log_scale):
            x.grad = None
        eye = torch.eye(n, dtype=torch.bool, device=device)
        start = time.perf_counter()
        loss = sum(intra(x, y, log_scale.exp(), 100.0, eye) for x, y in zip(leaves, teachers))
        loss.backward()
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        memory = torch.cuda.max_memory_allocated() - before
    else:
        with Resident() as resident:
            step()
        memory = resident.peak - resident.start
    return statistics.median(step() for _ in range(steps)), memory


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's own choice")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    where = f"{torch.get_num_threads()} threads" if args.device == "cpu" else torch.cuda.get_device_name()
    print(f"torch {torch.__version__}, f32, {where}, width {args.dim}, median of {args.steps}")
    print("       N          ms   peak MiB")
    measure(256, args.dim, 1, args.device)  # warm-up
    for n in args.sizes:
        seconds, memory = measure(n, args.dim, args.steps, args.device)
        print(f"{n:>8}{seconds * 1e3:>12.1f}{memory / 2**20:>11.0f}", flush=True)


if __name__ == "__main__":
    main()
