//! Convolutions. (Those of single pixels with stride 1 are linear layers: the operation runs them as such.)

use super::device::{Address, Kernel, Launch};
use super::memory::Memory;
use super::operand::{Operand, Target, done};
use super::{Gpu, arguments, instance};
use crate::backend::{Conv2d, Convolution, Op, Result, Slot, shape_error};
use crate::tensor::{DType, Tensor};

const OP: &str = "conv2d";

arguments! {
    struct PadArguments in "conv2d" {
        x: Address,
        y: Address,
        rows: i64,
        width: i32,
        padded: i32,
    }

    struct Conv2dArguments in "conv2d" {
        source: Address,
        filters: Address,
        result: Address,
        batch: i32,
        source_height: i32,
        source_width: i32,
        source_channels: i32,
        target_height: i32,
        target_width: i32,
        target_channels: i32,
        filter_rows: i32,
        filter_width: i32,
        kernel: i32,
        stride: i32,
        kernel_padding: i32,
        add: i32,
        unused: i32,
    }

    struct Conv2dWeightsArguments in "conv2d" {
        dy: Address,
        x: Address,
        partials: Address,
        pixels: i32,
        split: i32,
        height: i32,
        width: i32,
        channels: i32,
        y_height: i32,
        y_width: i32,
        rows: i32,
        out: i32,
        kernel: i32,
        stride: i32,
        kernel_padding: i32,
    }

    struct FinishArguments in "conv2d" {
        partials: Address,
        dw: Address,
        rows: i64,
        splits: i32,
        width: i32,
        padded: i32,
        add: i32,
    }
}

/// Tiles of `cuda/conv2d.cu`: rows and columns of a block, of y and dx, and of dw.
const TILE: [usize; 2] = [128, 64];
const WEIGHTS_TILE: [usize; 2] = [64, 128];
const THREADS: u32 = 128;

/// Blocks that dw's sum is split for: about what fills a large GPU.
const WEIGHTS_BLOCKS: usize = 528;
/// Fewest pixels of a split: beside them its partial sums cost little.
const LEAST_SPLIT: usize = 256;

/// A tensor whose channels are whole units of 16 bytes.
enum Units<'a> {
    Own(Operand<'a>),
    Padded(Memory),
}

impl Units<'_> {
    fn at(&self) -> Address {
        match self {
            Self::Own(operand) => operand.at(),
            Self::Padded(memory) => memory.at(),
        }
    }
}

/// `channels` up to whole units.
fn padded(channels: usize, dtype: DType) -> usize {
    channels.next_multiple_of(16 / dtype.size())
}

/// The rows of `width` channels of `t`, padded with zeros to whole units.
fn units<'a>(gpu: &Gpu, t: &'a Tensor, width: usize, dtype: DType) -> Result<Units<'a>> {
    let padded = padded(width, dtype);
    if padded == width {
        return Ok(Units::Own(gpu.read(OP, t, dtype)?));
    }
    // On its way to the low type the kernel rounds while it pads.
    let (from, entry) = match (t.dtype(), dtype) {
        (DType::F32, DType::BF16) => (DType::F32, "pad_channels_f32_bf16"),
        (DType::F32, DType::F16) => (DType::F32, "pad_channels_f32_f16"),
        (_, DType::F16) => (DType::F16, "pad_channels_f16_f16"),
        (_, DType::BF16) => (DType::BF16, "pad_channels_bf16_bf16"),
        _ => (DType::F32, "pad_channels_f32_f32"),
    };
    let rows = t.len() / width.max(1);
    let x = gpu.read(OP, t, from)?;
    let memory = gpu.allocate(rows * padded * dtype.size())?;
    let arguments = PadArguments {
        x: x.at(),
        y: memory.at(),
        rows: rows as i64,
        width: width as i32,
        padded: padded as i32,
    };
    let launch = Launch::spread(rows * padded * dtype.size() / 16, 256);
    let kernel = Kernel { module: OP, entry };
    gpu.launch(kernel, launch, &arguments)?;
    Ok(Units::Padded(memory))
}

/// Whether the kernels, which count pixels (and somewhat beyond their end) in 32 bits, can count those of such images,
/// and which they can.
pub(super) fn limit(shape: &[usize]) -> (bool, &'static str) {
    let fits = match *shape {
        [batch, height, width, _] => batch * height * width < 1 << 30,
        _ => true,
    };
    (fits, "fewer than 2^30 pixels")
}

fn sides(t: &[usize]) -> Result<[usize; 4]> {
    match *t {
        [batch, height, width, channels] => Ok([batch, height, width, channels]),
        _ => shape_error(OP, format!("{t:?} is not [batch, h, w, channels]")),
    }
}

/// The number of filters, of which each has fewer elements than the kernels' 32 bits count.
fn filters_of(w: &Tensor) -> Result<usize> {
    if w.width() >= 1 << 30 {
        return shape_error(OP, format!("filters {:?} are too large", w.shape()));
    }
    Ok(w.rows())
}

impl Conv2d for Gpu {
    fn conv2d(&self, x: &Tensor, w: &Tensor, shape: Convolution) -> Result<Tensor> {
        let dtype = self.activations();
        self.check_size(Op::Conv2d, x.shape())?;
        let [batch, height, width, channels] = sides(x.shape())?;
        let out = filters_of(w)?;
        let y_shape = [batch, shape.output(height), shape.output(width), out];
        self.check_size(Op::Conv2d, &y_shape)?;
        let source = units(self, x, channels, dtype)?;
        let filters = units(self, w, channels, dtype)?;
        let (y, y_at) = self.empty(&y_shape, dtype)?;
        let channels = padded(channels, dtype);
        let arguments = Conv2dArguments {
            source: source.at(),
            filters: filters.at(),
            result: y_at,
            batch: batch as i32,
            source_height: height as i32,
            source_width: width as i32,
            source_channels: channels as i32,
            target_height: y_shape[1] as i32,
            target_width: y_shape[2] as i32,
            target_channels: out as i32,
            filter_rows: out as i32,
            filter_width: channels as i32,
            kernel: shape.kernel as i32,
            stride: shape.stride as i32,
            kernel_padding: shape.padding as i32,
            add: 0,
            unused: 0,
        };
        let pixels = batch * y_shape[1] * y_shape[2];
        let kernel = instance!("conv2d", "conv2d", dtype);
        let taps = shape.kernel * shape.kernel * channels;
        let launch = launch(pixels, out, 1).of_work(2 * pixels * out * taps);
        self.launch(kernel, launch, &arguments)?;
        Ok(y)
    }

    fn conv2d_backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        w: &Tensor,
        shape: Convolution,
        dx: Slot,
        dw: Slot,
    ) -> Result<()> {
        let dtype = self.activations();
        self.check_size(Op::Conv2d, dy.shape())?;
        self.check_size(Op::Conv2d, x.shape())?;
        let dx = self.target(OP, dx, x.shape(), dtype)?;
        let dw = self.target(OP, dw, w.shape(), DType::F32)?;
        let dy_units = units(self, dy, dy.width(), dtype)?;
        if let Some(dx) = &dx {
            input_gradient(self, dy_units.at(), dy.shape(), x.shape(), w, shape, dx)?;
        }
        if let Some(dw) = &dw {
            weight_gradient(self, dy_units.at(), dy.shape(), x, shape, dw)?;
        }
        done(self, [dx, dw])
    }
}

/// For `pixels` of each of `kinds` kinds of pixels, and `channels` of the result.
fn launch(pixels: usize, channels: usize, kinds: usize) -> Launch {
    let blocks = pixels.div_ceil(TILE[0]) * channels.div_ceil(TILE[1]);
    Launch::blocks([blocks, 1, kinds], THREADS)
}

fn input_gradient(
    gpu: &Gpu,
    dy: Address,
    dy_shape: &[usize],
    x_shape: &[usize],
    w: &Tensor,
    shape: Convolution,
    dx: &Target,
) -> Result<()> {
    let dtype = gpu.activations();
    let ([_, from_height, from_width, out], [batch, height, width, channels]) =
        (sides(dy_shape)?, sides(x_shape)?);
    let filters = units(gpu, w, channels, dtype)?;
    let arguments = Conv2dArguments {
        source: dy,
        filters: filters.at(),
        result: dx.at(),
        batch: batch as i32,
        source_height: from_height as i32,
        source_width: from_width as i32,
        source_channels: padded(out, dtype) as i32,
        target_height: height as i32,
        target_width: width as i32,
        target_channels: channels as i32,
        filter_rows: out as i32,
        filter_width: padded(channels, dtype) as i32,
        kernel: shape.kernel as i32,
        stride: shape.stride as i32,
        kernel_padding: shape.padding as i32,
        add: dx.add().into(),
        unused: 0,
    };
    // Pixels of one remainder by the stride: at most these, and stride² kinds of them.
    let pixels = batch * height.div_ceil(shape.stride) * width.div_ceil(shape.stride);
    let kinds = shape.stride * shape.stride;
    let work = 2 * batch * from_height * from_width * out * channels * shape.kernel * shape.kernel;
    let launch = launch(pixels, channels, kinds).of_work(work);
    let kernel = instance!("conv2d", "conv2d_input", dtype);
    gpu.launch(kernel, launch, &arguments)
}

fn weight_gradient(
    gpu: &Gpu,
    dy: Address,
    dy_shape: &[usize],
    x: &Tensor,
    shape: Convolution,
    dw: &Target,
) -> Result<()> {
    let dtype = gpu.activations();
    let [batch, y_height, y_width, out] = sides(dy_shape)?;
    let [_, height, width, channels] = sides(x.shape())?;
    let source = units(gpu, x, channels, dtype)?;
    let (pixels, wide) = (batch * y_height * y_width, padded(channels, dtype));
    let rows = out * shape.kernel * shape.kernel;
    let tiles = [
        (shape.kernel * shape.kernel * wide).div_ceil(WEIGHTS_TILE[1]),
        out.div_ceil(WEIGHTS_TILE[0]),
    ];
    let wanted = (WEIGHTS_BLOCKS / (tiles[0] * tiles[1]).max(1)).max(1);
    let split = pixels.div_ceil(wanted).max(LEAST_SPLIT);
    // Whole steps of either type.
    let split = split.next_multiple_of(32);
    let splits = pixels.div_ceil(split);
    let partials = gpu.allocate(splits * rows * wide * 4)?;
    let arguments = Conv2dWeightsArguments {
        dy,
        x: source.at(),
        partials: partials.at(),
        pixels: pixels as i32,
        split: split as i32,
        height: height as i32,
        width: width as i32,
        channels: wide as i32,
        y_height: y_height as i32,
        y_width: y_width as i32,
        rows: padded(out, dtype) as i32,
        out: out as i32,
        kernel: shape.kernel as i32,
        stride: shape.stride as i32,
        kernel_padding: shape.padding as i32,
    };
    let launch =
        Launch::blocks([tiles[0], tiles[1], splits], THREADS).of_work(2 * pixels * rows * wide);
    let kernel = instance!("conv2d", "conv2d_weights", dtype);
    gpu.launch(kernel, launch, &arguments)?;
    let arguments = FinishArguments {
        partials: partials.at(),
        dw: dw.at(),
        rows: rows as i64,
        splits: splits as i32,
        width: channels as i32,
        padded: wide as i32,
        add: dw.add().into(),
    };
    let launch = Launch::spread(rows * channels, 256);
    let kernel = Kernel::new(OP, "conv2d_weights_finish");
    gpu.launch(kernel, launch, &arguments)
}
