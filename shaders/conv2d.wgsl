// Convolutions over NHWC images as implicit products: y [pixels, out] = F(x) wᵀ, dx = F(dy) w, dw = dyᵀ F(x), where row
// (b, i, j) of F holds the pixels under a filter there. F is never stored: its tiles are gathered from the image, four
// channels (of one pixel) at a time, with zeros where the filter reaches beyond. So channels are whole multiples of four:
// others are padded first (`pad_channels`).
//
// A workgroup of 128 makes 128 × 64 elements, an invocation 8 × 8 of them, 16 steps of the sum at a time. dw has few rows
// and k² C columns: 64 × 128 there; its sum runs over all pixels, so it is split and the splits' sums are added in their
// order by `conv2d_weights_finish`.
#include common
#values K conv2d conv2d_input

const DEPTH = 16u;
// Lines of rows, then lines of columns, as vectors of four.
#if kernel conv2d_weights_$T
const ROW_VECTORS = 16u;
const COLUMN_VECTORS = 32u;
#else
const ROW_VECTORS = 32u;
const COLUMN_VECTORS = 16u;
#end
const COLUMNS_AT = DEPTH * ROW_VECTORS;
var<workgroup> tile: array<vec4<f32>, 768>;

// Into line k of the rows: four steps of row i, from k on.
fn stage_along(at: u32, vectors: u32, k: u32, i: u32, v: vec4<f32>) {
  tile[at + k * vectors + i / 4u][i % 4u] = v.x;
  tile[at + (k + 1u) * vectors + i / 4u][i % 4u] = v.y;
  tile[at + (k + 2u) * vectors + i / 4u][i % 4u] = v.z;
  tile[at + (k + 3u) * vectors + i / 4u][i % 4u] = v.w;
}

// An invocation's 8 × 8: rows 4y … and half a tile on, columns 4x … and half a tile on.
const HALF_ROWS = ROW_VECTORS / 2u;
const HALF_COLUMNS = COLUMN_VECTORS / 2u;

fn multiply_tile(thread: u32, c: ptr<function, array<vec4<f32>, 16>>) {
  let across = COLUMNS_AT + thread % HALF_COLUMNS;
  let down = thread / HALF_COLUMNS;
#each R 0 1 2 3 4 5 6 7
  var p$R = vec4<f32>();
  var q$R = vec4<f32>();
#end
  for (var k = 0u; k < DEPTH; k++) {
    let l = tile[k * ROW_VECTORS + down];
    let m = tile[k * ROW_VECTORS + down + HALF_ROWS];
    let r = tile[k * COLUMN_VECTORS + across];
    let s = tile[k * COLUMN_VECTORS + across + HALF_COLUMNS];
#each R 0 1 2 3
    p$R = fma(vec4<f32>(l[$R]), r, p$R);
    q$R = fma(vec4<f32>(l[$R]), s, q$R);
#end
#each R 4 5 6 7
    p$R = fma(vec4<f32>(m[$R - 4]), r, p$R);
    q$R = fma(vec4<f32>(m[$R - 4]), s, q$R);
#end
  }
#each R 0 1 2 3 4 5 6 7
  (*c)[2 * $R] += p$R;
  (*c)[2 * $R + 1] += q$R;
#end
}

// The tile's row of an invocation's r-th, and the column of its c-th vector.
fn row_of(thread: u32, r: u32) -> u32 { return 4u * (thread / HALF_COLUMNS + r / 4u * HALF_ROWS) + r % 4u; }
fn column_of(thread: u32, c: u32) -> u32 { return 4u * (thread % HALF_COLUMNS + c * HALF_COLUMNS); }

#if kernel conv2d_$T conv2d_input_$T
// How one side of the target reads the source: its pixel `at` is at `first + at · stride` and takes, at distance t, the
// source's pixel shift + at · step ± t with tap tap + t · tap_step, for t < taps.
//
// During backward only those taps meet a pixel for which (pixel + padding − tap) / stride is whole: pixels with the same
// remainder have the same taps, and a workgroup takes pixels of one remainder. No product is with a zero that the stride
// put there.
struct Side {
  first: i32,
  stride: i32,
  count: i32,
  shift: i32,
  step: i32,
  tap: i32,
  tap_step: i32,
  taps: i32,
}

fn side_of(size: i32, remainder: i32) -> Side {
#if kernel conv2d_$T
  return Side(0, 1, size, -a.kernel_padding, a.stride, 0, 1, a.kernel);
#else
  let tap = (remainder + a.kernel_padding) % a.stride;
  return Side(
    remainder, a.stride, (size - remainder + a.stride - 1) / a.stride, (remainder + a.kernel_padding - tap) / a.stride, 1,
    tap, a.stride, select(0, (a.kernel - tap + a.stride - 1) / a.stride, tap < a.kernel));
#end
}

// A pixel of the target by its number among those of its kind.
struct Pixel { image: i32, y: i32, x: i32 }
fn pixel_of(number: i32, sy: Side, sx: Side) -> Pixel {
  let line = number / sx.count;
  return Pixel(line / sy.count, line % sy.count, number % sx.count);
}

// Four channels of F, from step k of the sum on, in the row of a pixel.
fn field(pixel: Pixel, sy: Side, sx: Side, k: i32) -> vec4<f32> {
  let channels = a.source_channels;
  let tap = k / channels;
  let v = tap / sx.taps;
  let u = tap % sx.taps;
#if kernel conv2d_$T
  let y = pixel.y * sy.step + sy.shift + v;
  let x = pixel.x * sx.step + sx.shift + u;
#else
  let y = pixel.y * sy.step + sy.shift - v;
  let x = pixel.x * sx.step + sx.shift - u;
#end
  if (v >= sy.taps || y < 0 || x < 0 || y >= a.source_height || x >= a.source_width) { return vec4<f32>(); }
  let at = ((pixel.image * a.source_height + y) * a.source_width + x) * channels + k % channels;
  return vec4<f32>(source[u32(at) / 4u]);
}
#end

#kernel $K_$T Conv2dArguments 128
#buffer source array<vec4<$T>>
#buffer filters array<vec4<$T>>
#buffer result array<$T>
  let sy = side_of(a.target_height, i32(block.z) / a.stride);
  let sx = side_of(a.target_width, i32(block.z) % a.stride);
  let tiles = (u32(a.target_channels) + 63u) / 64u;
  let column = block.x % tiles * 64u;
  let row = block.x / tiles * 128u;
  let rows = u32(a.batch * sy.count * sx.count);
  if (row >= rows) { return; }
  let depth = sy.taps * sx.taps * a.source_channels;
  // An invocation gathers four steps of every 32nd row.
  var pixels: array<Pixel, 4>;
  for (var i = 0u; i < 4u; i++) { pixels[i] = pixel_of(i32(min(row + thread / 4u + 32u * i, rows - 1u)), sy, sx); }
  var c: array<vec4<f32>, 16>;
  for (var first = 0; first < depth; first += i32(DEPTH)) {
    workgroupBarrier();
    let k = thread % 4u * 4u;
    for (var i = 0u; i < 4u; i++) {
      var v = vec4<f32>();
      if (row + thread / 4u + 32u * i < rows && first + i32(k) < depth) { v = field(pixels[i], sy, sx, first + i32(k)); }
      stage_along(0u, ROW_VECTORS, k, thread / 4u + 32u * i, v);
    }
#if kernel conv2d_$T
    // Filters are along the sum.
    for (var i = 0u; i < 2u; i++) {
      let filter_ = column + thread / 4u + 32u * i;
      var v = vec4<f32>();
      if (filter_ < u32(a.filter_rows) && first + i32(k) < depth) {
        v = vec4<f32>(filters[(filter_ * u32(depth) + u32(first) + k) / 4u]);
      }
      stage_along(COLUMNS_AT, COLUMN_VECTORS, k, thread / 4u + 32u * i, v);
    }
#else
    // Filters are across it.
    for (var i = 0u; i < 2u; i++) {
      let line = thread / 16u + 8u * i;
      let at = column + thread % 16u * 4u;
      let step = first + i32(line);
      let tap = step / a.source_channels;
      let channel = step % a.source_channels;
      var v = vec4<f32>();
      if (step < depth && channel < a.filter_rows && at < u32(a.filter_width)) {
        let of_kernel = (sy.tap + tap / sx.taps * sy.tap_step) * a.kernel + sx.tap + tap % sx.taps * sx.tap_step;
        let place = u32((channel * a.kernel * a.kernel + of_kernel) * a.filter_width) + at;
        v = vec4<f32>(filters[place / 4u]);
      }
      tile[COLUMNS_AT + line * COLUMN_VECTORS + thread % 16u] = v;
    }
#end
    workgroupBarrier();
    multiply_tile(thread, &c);
  }
  for (var r = 0u; r < 8u; r++) {
    let number = row + row_of(thread, r);
    if (number < rows) {
      let pixel = pixel_of(i32(number), sy, sx);
      let y = sy.first + pixel.y * sy.stride;
      let x = sx.first + pixel.x * sx.stride;
      let at = u32(((pixel.image * a.target_height + y) * a.target_width + x) * a.target_channels);
      for (var h = 0u; h < 2u; h++) {
        for (var i = 0u; i < 4u; i++) {
          let channel = column + column_of(thread, h) + i;
          if (channel < u32(a.target_channels)) {
            let v = c[2u * r + h][i];
            result[at + channel] = $T(select(v, f32(result[at + channel]) + v, a.add != 0));
          }
        }
      }
    }
  }
#end

#kernel conv2d_weights_$T Conv2dWeightsArguments 128
#buffer dy array<vec4<$T>>
#buffer x array<vec4<$T>>
#buffer partials array<f32>
  let row = block.y * 64u;
  let column = block.x * 128u;
  let columns = u32(a.kernel * a.kernel * a.channels);
  let first = block.z * u32(a.split);
  let last = min(first + u32(a.split), u32(a.pixels));
  let y_width = u32(a.y_width);
  let y_height = u32(a.y_height);
  var c: array<vec4<f32>, 16>;
  for (var pixel = first; pixel < last; pixel += DEPTH) {
    workgroupBarrier();
    for (var i = thread; i < DEPTH * ROW_VECTORS; i += 128u) {
      let at = pixel + i / ROW_VECTORS;
      let m = row + i % ROW_VECTORS * 4u;
      var v = vec4<f32>();
      if (at < last && m < u32(a.rows)) { v = vec4<f32>(dy[(at * u32(a.rows) + m) / 4u]); }
      tile[i] = v;
    }
    for (var i = thread; i < DEPTH * COLUMN_VECTORS; i += 128u) {
      let at = pixel + i / COLUMN_VECTORS;
      let place = column + i % COLUMN_VECTORS * 4u;
      let tap = i32(place) / a.channels;
      let y = i32(at / y_width % y_height) * a.stride + tap / a.kernel - a.kernel_padding;
      let at_x = i32(at % y_width) * a.stride + tap % a.kernel - a.kernel_padding;
      var v = vec4<f32>();
      if (at < last && place < columns && y >= 0 && y < a.height && at_x >= 0 && at_x < a.width) {
        let base = (i32(at / y_width / y_height) * a.height + y) * a.width + at_x;
        v = vec4<f32>(x[u32(base * a.channels + i32(place) % a.channels) / 4u]);
      }
      tile[COLUMNS_AT + i] = v;
    }
    workgroupBarrier();
    multiply_tile(thread, &c);
  }
  for (var r = 0u; r < 8u; r++) {
    let m = row + row_of(thread, r);
    for (var h = 0u; h < 2u; h++) {
      let n = column + column_of(thread, h);
      if (m < u32(a.out) && n < columns) {
        let to = (block.z * u32(a.out) + m) * columns + n;
        for (var i = 0u; i < 4u; i++) { partials[to + i] = c[2u * r + h][i]; }
      }
    }
  }
#end

#kernel conv2d_weights_finish FinishArguments 256
#buffer partials array<f32>
#buffer dw array<f32>
  let width = u32(a.width);
  let apart = a.rows * u32(a.padded);
  for (var i = block.x * 256u + thread; i < a.rows * width; i += grid.x * 256u) {
    let base = i / width * u32(a.padded) + i % width;
    var sum = 0.0;
    for (var s = 0u; s < u32(a.splits); s++) { sum += partials[base + s * apart]; }
    dw[i] = select(sum, dw[i] + sum, a.add != 0);
  }
#end

// Rows padded with zeros, up to a whole number of units.
#kernel pad_channels_$S_$T PadArguments 256
#buffer x array<$S>
#buffer y array<$T>
  let padded = u32(a.padded);
  for (var i = block.x * 256u + thread; i < a.rows * padded; i += grid.x * 256u) {
    let column = i % padded;
    if (column < u32(a.width)) { y[i] = $T(x[i / padded * u32(a.width) + column]); } else { y[i] = $T(0); }
  }
#end
