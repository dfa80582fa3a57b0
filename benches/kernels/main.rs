//! Each kernel beside its ceiling: the rate of its products and per cent of what the device was just seen to do at
//! most, or bytes a second and per cent of a copy's. Shapes are those of ViT-B-16 (the teacher), ViT-T-16 and RN50
//! (students).
//!
//!     cargo bench --bench kernels -- --batch 16 --repetitions 9
//!     cargo bench --bench kernels -- --backend cuda --precision amp_bf16 --batch 256
//!     cargo bench --bench kernels -- --backend wgpu --precision amp_fp16 --batch 256 --each
//!
//! Shared machines change their speed from second to second, so a ceiling is measured again beside each repetition of
//! each kernel, and the per cent are medians of those ratios. `benches/peers/kernels.py` times PyTorch's kernels at the
//! same shapes. A loss is timed with its gradients; the losses also have a bench of their own, with larger batches and
//! their memory.

mod bench;
#[path = "../ceilings/mod.rs"]
mod ceilings;
mod convolution;
mod memory;
#[path = "../pairs/mod.rs"]
mod pairs;
mod transformer;

use bench::Bench;
use clap::Parser;
use clip_distill::backend::Activation;
use clip_distill::settings::values::{Device, Precision};

// As the programs: see the library's page.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Flags {
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Of the losses.
    #[arg(long, default_value_t = 1024)]
    pairs: usize,
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    #[arg(long, value_enum, default_value = "fp32")]
    precision: Precision,
    #[arg(long, value_enum, default_value = "cpu")]
    backend: Device,
    /// Rows whose name holds this.
    #[arg(long, default_value = "")]
    only: String,
    /// An adapter's kernels by the host's clock, launches and all, rather than by its own.
    #[arg(long)]
    host_clock: bool,
    /// A line for each kernel of a row, where an adapter times them.
    #[arg(long)]
    each: bool,
    /// What cargo passes to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let flags = Flags::parse();
    clip_distill::programs::terminal::show();
    let mut bench = Bench::new(&flags, flags.precision);
    bench.ceilings();
    let batch = flags.batch;
    let tokens = batch * 197;
    bench.square(4096);
    bench.block(192);
    bench.block(768);
    for width in [768, 192] {
        bench.linear(tokens, width, 3 * width, Activation::None);
        bench.linear(tokens, width, width, Activation::None);
        bench.linear(tokens, width, 4 * width, Activation::Gelu);
        bench.linear(tokens, 4 * width, width, Activation::None);
        bench.layer_norm(tokens, width);
    }
    bench.linear(batch * 15, 384, 3 * 384, Activation::None);
    bench.attention(197, 12, false);
    bench.attention(197, 3, false);
    bench.attention(15, 8, true);
    bench.attention(77, 8, true);
    bench.conv2d(224, 3, 32, 2);
    bench.conv2d(112, 32, 64, 1);
    bench.conv2d(56, 64, 64, 1);
    bench.conv2d(14, 256, 256, 1);
    bench.conv2d(7, 512, 512, 1);
    bench.batch_norm(56, 256);
    bench.batch_norm(14, 1024);
    bench.pools();
    bench.tokens(768);
    bench.texts(15, 384);
    bench.rows(512);
    bench.optimiser(36_000_000);
    // Similarities are f32 in either precision.
    if flags.precision != Precision::Fp32 {
        bench = Bench::new(&flags, Precision::Fp32);
    }
    bench.losses(flags.pairs);
}
