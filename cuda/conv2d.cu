// Convolutions over NHWC images as implicit products: y [pixels, out] = F(x) wᵀ, dx = F(dy) w, dw = dyᵀ F(x),
// where row (b, i, j) of F holds the pixels under a filter there. F is never stored: its tiles are gathered from
// the image while they are copied to shared memory, 16 bytes (of one pixel) at a time, with zeros where the
// filter reaches beyond. So channels are whole multiples of 16 bytes: others are padded first (`pad_channels`),
// which the images' three take anyway on their way to bf16.
//
// With P pixels, C inputs, O outputs and k × k taps each product takes 2 P C O k² FLOPs and, if every operand
// moves once, (P C s² + P O + C O k²) elements: at C = O = 128, 3 × 3, bf16 some 570 FLOPs a byte, beyond what a
// GPU needs to be bound by its tensor cores. A block of 128 × 64 elements of y reads (128 + 64) · 2 bytes for
// 2 · 128 · 64 FLOPs of a step, 43 FLOPs a byte, from the L2 cache, which the k² overlapping fields and the
// neighbouring blocks share. 128 threads hold it in 64 registers each, three stages take 36 KiB, so that
// several blocks of an SM cover each other's waits. 64 columns fit the 64 to 512 channels of ResNet-50. dw has O
// rows, as few as 32, and k² C columns: 64 × 128 there; its sum runs over all pixels, so it is split and the
// splits' sums are added in their order by `conv2d_weights_finish`.
//
// cuDNN, where it is present, would replace the launches in `conv2d.rs`: same operands, same layouts.
#include "tiles.cuh"

struct Conv2dArguments {
  // x; dy during backward: [batch, height, width, channels].
  const void* source;
  // [rows, kernel, kernel, width].
  const void* filters;
  // y or dx: [batch, height, width, channels].
  void* result;
  int batch;
  int source_height, source_width, source_channels;
  int target_height, target_width, target_channels;
  int filter_rows, filter_width;
  int kernel, stride, kernel_padding;
  int add;
  int unused;
};

// How one side of the target reads the source: its pixel `at` is at `first + at · stride` and takes, at
// distance t, the source's pixel shift + at · step ± t with tap tap + t · tap_step, for t < taps.
//
// During backward only those taps meet a pixel for which (pixel + padding − tap) / stride is whole: pixels with
// the same remainder have the same taps, and a block takes pixels of one remainder. No product is with a zero that
// the stride put there.
struct Side {
  int first, stride, count;
  int shift, step;
  int tap, tap_step, taps;
};

template <bool BACK>
__device__ __forceinline__ Side side_of(const Conv2dArguments& a, int target, int remainder) {
  if constexpr (!BACK) return {0, 1, target, -a.kernel_padding, a.stride, 0, 1, a.kernel};
  const int tap = (remainder + a.kernel_padding) % a.stride;
  return {remainder,
          a.stride,
          (target - remainder + a.stride - 1) / a.stride,
          (remainder + a.kernel_padding - tap) / a.stride,
          1,
          tap,
          a.stride,
          tap < a.kernel ? (a.kernel - tap + a.stride - 1) / a.stride : 0};
}

// The place of a step of the sum: the taps, and the channel.
struct Walk {
  int y, x, c;

  __device__ __forceinline__ void advance(int by, int channels, int taps_x) {
    c += by;
    while (c >= channels) {
      c -= channels;
      if (++x >= taps_x) {
        x = 0;
        y++;
      }
    }
  }
};

template <class T, bool BACK>
__device__ __forceinline__ void conv2d(const Conv2dArguments& a) {
  constexpr int M = 128, N = 64, V = Lanes<T>::n, K = TILE_DEPTH<T>, ROWS = M / 32;
  __shared__ __align__(128) unsigned char memory[TILE_BYTES<M, N>];
  const Side sy = side_of<BACK>(a, a.target_height, blockIdx.z / a.stride);
  const Side sx = side_of<BACK>(a, a.target_width, blockIdx.z % a.stride);
  const int tiles = (a.target_channels + N - 1) / N;
  const int column = static_cast<int>(blockIdx.x % tiles) * N;
  const long long row = static_cast<long long>(blockIdx.x / tiles) * M;
  const long long rows = static_cast<long long>(a.batch) * sy.count * sx.count;
  if (row >= rows) return;  // the whole block

  const T* source = static_cast<const T*>(a.source);
  const T* filters = static_cast<const T*>(a.filters);
  const int channels = a.source_channels;
  const int depth = sy.taps * sx.taps * channels;

  // A: a thread copies one unit of the sum for every 32nd row.
  const int place = threadIdx.x % 4, line = threadIdx.x / 4;
  int from[ROWS], at_y[ROWS], at_x[ROWS];
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
    const long long r = row + line + 32 * i;
    const unsigned pixel = static_cast<unsigned>(r < rows ? r : 0);
    const unsigned image_row = pixel / sx.count, x = pixel % sx.count;
    const unsigned image = image_row / sy.count, y = image_row % sy.count;
    at_y[i] = static_cast<int>(y) * sy.step + sy.shift;
    at_x[i] = static_cast<int>(x) * sx.step + sx.shift;
    from[i] = (static_cast<int>(image) * a.source_height + at_y[i]) * a.source_width + at_x[i];
    // Of a row beyond the matrix every pixel is out of sight.
    if (r >= rows) at_y[i] = -(1 << 30);
  }
  Walk walk = {};
  walk.advance(place * V, channels, sx.taps);

  // B forward: filters are along the sum. A thread copies one unit of the sum for every 32nd of them. Backward: they
  // are across, and a thread copies one unit of their width for every N-th step.
  constexpr int PLACES = N / V, LINES = TILE_THREADS / PLACES;
  Walk steps[2] = {};
  if constexpr (BACK) {
#pragma unroll
    for (int i = 0; i < 2; i++) steps[i].advance(threadIdx.x / PLACES + LINES * i, channels, sx.taps);
  }
  int k = place * V;

  const float* d = tile_product<T, M, N, true, !BACK>(memory, (depth + K - 1) / K, [&](T* to_a, T* to_b) {
    const int y = BACK ? -walk.y : walk.y, x = BACK ? -walk.x : walk.x;
    const int offset = y * a.source_width + x;
    const T* base = source + walk.c;
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
      const bool inside = walk.y < sy.taps && static_cast<unsigned>(at_y[i] + y) < static_cast<unsigned>(a.source_height) &&
                          static_cast<unsigned>(at_x[i] + x) < static_cast<unsigned>(a.source_width);
      const long long at = inside ? static_cast<long long>(from[i] + offset) * channels : 0;
      cp_async_16(unit<T, M, true>(to_a, line, 32 * i, place), base + at, inside ? 16 : 0);
    }
    walk.advance(K, channels, sx.taps);
    if constexpr (!BACK) {
#pragma unroll
      for (int i = 0; i < N / 32; i++) {
        const int filter = column + line + 32 * i;
        const bool inside = k < depth && filter < a.filter_rows;
        const T* at = inside ? filters + static_cast<long long>(filter) * depth + k : filters;
        cp_async_16(unit<T, N, true>(to_b, line, 32 * i, place), at, inside ? 16 : 0);
      }
      k += K;
    } else {
      const int c = column + threadIdx.x % PLACES * V;
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const Walk& s = steps[i];
        const bool inside = s.y < sy.taps && s.c < a.filter_rows && c < a.filter_width;
        const int tap = (sy.tap + s.y * sy.tap_step) * a.kernel + sx.tap + s.x * sx.tap_step;
        const T* at = filters + (static_cast<long long>(s.c) * a.kernel * a.kernel + tap) * a.filter_width + c;
        cp_async_16(unit<T, N, false>(to_b, threadIdx.x / PLACES, LINES * i, threadIdx.x % PLACES),
                    inside ? at : filters, inside ? 16 : 0);
        steps[i].advance(K, channels, sx.taps);
      }
    }
  });

  T* target = static_cast<T*>(a.result);
  const bool wide = a.target_channels % V == 0;
  for (int i = threadIdx.x; i < M * PLACES; i += TILE_THREADS) {
    const int c = i % PLACES * V;
    const long long r = row + i / PLACES;
    if (r >= rows || column + c >= a.target_channels) continue;
    const unsigned pixel = static_cast<unsigned>(r);
    const unsigned image_row = pixel / sx.count, x = pixel % sx.count;
    const unsigned image = image_row / sy.count, y = image_row % sy.count;
    const long long to = (static_cast<long long>(image) * a.target_height + sy.first + y * sy.stride) * a.target_width +
                         sx.first + x * sx.stride;
    float v[V];
    load_wide(v, d + i / PLACES * (N + 8) + c);
    contribute(target + to * a.target_channels + column + c, v, a.target_channels - column - c, wide, a.add);
  }
}

struct Conv2dWeightsArguments {
  // [pixels, rows].
  const void* dy;
  // [batch, height, width, channels].
  const void* x;
  // [splits, out, kernel, kernel, channels].
  float* partials;
  // Of y: all, and of a split, which is a multiple of TILE_DEPTH.
  int pixels, split;
  int height, width, channels;
  int y_height, y_width;
  // Of dy with its padding, and without.
  int rows, out;
  int kernel, stride, kernel_padding;
};

template <class T>
__device__ __forceinline__ void conv2d_weights(const Conv2dWeightsArguments& a) {
  constexpr int M = 64, N = 128, V = Lanes<T>::n, K = TILE_DEPTH<T>, PLACES = M / V, LINES = TILE_THREADS / PLACES;
  static_assert(2 * LINES == K, "a thread copies for two steps");
  __shared__ __align__(128) unsigned char memory[TILE_BYTES<M, N>];
  const int row = blockIdx.y * M, column = blockIdx.x * N, columns = a.kernel * a.kernel * a.channels;
  const int first = blockIdx.z * a.split;
  const int last = a.pixels - first < a.split ? a.pixels : first + a.split;
  const T* dy = static_cast<const T*>(a.dy);
  const T* x = static_cast<const T*>(a.x);
  const int place = threadIdx.x % PLACES, line = threadIdx.x / PLACES;

  // The two units of F that the thread copies at each step: which tap, and where its pixel and channel are.
  int tap_y[2], tap_x[2], channel[2];
  bool within[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int c = column + (place + PLACES * h) * V;
    const int tap = c / a.channels;
    within[h] = c < columns;
    channel[h] = c % a.channels;
    tap_y[h] = tap / a.kernel - a.kernel_padding;
    tap_x[h] = tap % a.kernel - a.kernel_padding;
  }
  // The pixels of y at the thread's two steps: they move on by K, which is this many images, rows and columns.
  const int by_x = K % a.y_width, by_row = K / a.y_width, by_y = by_row % a.y_height, by_image = by_row / a.y_height;
  int at[2], image[2], at_y[2], at_x[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    at[i] = first + line + LINES * i;
    at_x[i] = at[i] % a.y_width;
    at_y[i] = at[i] / a.y_width % a.y_height;
    image[i] = at[i] / a.y_width / a.y_height;
  }

  const float* d = tile_product<T, M, N, false, false>(memory, (last - first + K - 1) / K, [&](T* to_a, T* to_b) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const bool there = at[i] < last;
      const int m = row + place * V;
      const bool of_dy = there && m < a.rows;
      cp_async_16(unit<T, M, false>(to_a, line, LINES * i, place),
                  of_dy ? dy + static_cast<long long>(at[i]) * a.rows + m : dy, of_dy ? 16 : 0);
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int y = at_y[i] * a.stride + tap_y[h], x_at = at_x[i] * a.stride + tap_x[h];
        const bool inside = there && within[h] && static_cast<unsigned>(y) < static_cast<unsigned>(a.height) &&
                            static_cast<unsigned>(x_at) < static_cast<unsigned>(a.width);
        const long long pixel = (static_cast<long long>(image[i]) * a.height + y) * a.width + x_at;
        cp_async_16(unit<T, N, false>(to_b, line, LINES * i, place + PLACES * h),
                    inside ? x + pixel * a.channels + channel[h] : x, inside ? 16 : 0);
      }
      at[i] += K;
      at_x[i] += by_x;
      at_y[i] += by_y;
      image[i] += by_image;
      if (at_x[i] >= a.y_width) {
        at_x[i] -= a.y_width;
        at_y[i]++;
      }
      if (at_y[i] >= a.y_height) {
        at_y[i] -= a.y_height;
        image[i]++;
      }
    }
  });

  float* partials = a.partials + static_cast<long long>(blockIdx.z) * a.out * columns;
  for (int i = threadIdx.x; i < M * N / 4; i += TILE_THREADS) {
    const int m = i / (N / 4), n = i % (N / 4) * 4;
    if (row + m >= a.out || column + n >= columns) continue;
    float v[4];
    load_wide(v, d + m * (N + 8) + n);
    store_wide(partials + static_cast<long long>(row + m) * columns + column + n, v);
  }
}

#define CONV2D(T, Element)                                                                               \
  KERNEL(conv2d_##T, Conv2dArguments, TILE_THREADS) { conv2d<Element, false>(a); }                       \
  KERNEL(conv2d_input_##T, Conv2dArguments, TILE_THREADS) { conv2d<Element, true>(a); }                  \
  KERNEL(conv2d_weights_##T, Conv2dWeightsArguments, TILE_THREADS) { conv2d_weights<Element>(a); }

CONV2D(f32, float)
#if defined(CLIP_DISTILL_EMULATED) || __CUDA_ARCH__ >= 800
CONV2D(bf16, bf16)
#endif

struct FinishArguments {
  // [splits, rows, padded].
  const float* partials;
  // [rows, width].
  float* dw;
  long long rows;
  int splits;
  int width;
  int padded;
  int add;
};

KERNEL(conv2d_weights_finish, FinishArguments, 256) {
  const long long n = a.rows * a.width, apart = a.rows * a.padded;
  for (long long i = blockIdx.x * 256ll + threadIdx.x; i < n; i += gridDim.x * 256ll) {
    const float* from = a.partials + i / a.width * a.padded + i % a.width;
    float sum = 0;
#pragma unroll 8
    for (int s = 0; s < a.splits; s++) sum += from[s * apart];
    a.dw[i] = a.add ? a.dw[i] + sum : sum;
  }
}

struct PadArguments {
  // [rows, width].
  const void* x;
  // [rows, padded].
  void* y;
  long long rows;
  int width;
  int padded;
};

// Rows padded with zeros, up to a whole number of units.
template <class From, class To>
__device__ __forceinline__ void pad_channels(const PadArguments& a) {
  constexpr int N = Lanes<To>::n;
  const unsigned units = a.padded / N;
  for (long long i = blockIdx.x * 256ll + threadIdx.x; i < a.rows * units; i += gridDim.x * 256ll) {
    const long long row = i / units;
    const int column = static_cast<int>(i % units) * N;
    float v[N];
    load(v, static_cast<const From*>(a.x) + row * a.width + column, a.width - column, false);
    store_wide(static_cast<To*>(a.y) + i * N, v);
  }
}

KERNEL(pad_channels_f32_f32, PadArguments, 256) { pad_channels<float, float>(a); }
KERNEL(pad_channels_f32_bf16, PadArguments, 256) { pad_channels<float, bf16>(a); }
KERNEL(pad_channels_bf16_bf16, PadArguments, 256) { pad_channels<bf16, bf16>(a); }
