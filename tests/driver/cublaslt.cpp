// cuBLASLt's matrix products, by plain loops: the numbers of the emulated device's.
#include <cstring>

#include "stand_in.h"

namespace stand_in {

// ---- cublasStatus_t

using Status = int;
constexpr Status DONE = 0, BAD_VALUE = 7, NOT_SUPPORTED = 15;

// cudaDataType_t
constexpr unsigned F32 = 0, BF16 = 14;
// cublasLtEpilogue_t
constexpr unsigned EPILOGUE_DEFAULT = 1, EPILOGUE_BIAS = 4;

struct Description {
  unsigned across[2] = {0, 0};
  unsigned epilogue = EPILOGUE_DEFAULT;
  Address bias = 0;
};

struct Layout {
  unsigned type;
  uint64_t rows, columns;
  int64_t stride;

  size_t size() const { return type == F32 ? 4 : 2; }
  size_t bytes() const { return ((columns - 1) * stride + rows) * size(); }
};

struct Preference {
  uint64_t workspace = 0;
  unsigned alignments[4] = {256, 256, 256, 256};
};

// Inside of a cublasLtMatmulAlgo_t: which of ours it is, and what it was made for.
struct Algorithm {
  uint64_t number;
  uint64_t rows, columns, depth;
  unsigned alignments[4];
  uint64_t workspace;
  uint64_t unused;
};
static_assert(sizeof(Algorithm) == 64);

// cublasLtMatmulHeuristicResult_t
struct Heuristic {
  Algorithm algorithm;
  size_t workspace;
  Status state;
  float waves;
  int reserved[4];
};

namespace {

Status refuse(Status status, const char* what) {
  violation(0, "cuBLASLt: %s", what);
  return status;
}

// Every object is counted from its making to its end.
template <class T, class... Values>
Status make(T** made, Values... values) {
  *made = new T{values...};
  count("cuBLASLt objects not given back");
  return DONE;
}

template <class T>
Status destroy(const char* name, T* object) {
  Call call(name, Call::nothing);
  delete object;
  count("cuBLASLt objects not given back", -1);
  return DONE;
}

template <class T>
Status set(T& attribute, const void* value, size_t bytes) {
  if (bytes != sizeof attribute) return refuse(BAD_VALUE, "an attribute of another size");
  memcpy(&attribute, value, bytes);
  return DONE;
}

float value(const char* at, unsigned type) {
  if (type == F32) {
    float x;
    memcpy(&x, at, 4);
    return x;
  }
  unsigned short half;
  memcpy(&half, at, 2);
  const unsigned bits = unsigned(half) << 16;
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

void put(char* at, unsigned type, float x) {
  if (type == F32) {
    memcpy(at, &x, 4);
    return;
  }
  unsigned bits;
  memcpy(&bits, &x, 4);
  const bool nan = x != x;
  const unsigned short half = nan ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  memcpy(at, &half, 2);
}

// A stored matrix, unpacked: rows × columns after `across`, one column after the other.
std::vector<float> unpacked(const Layout& layout, Address at, bool across) {
  const char* from = reinterpret_cast<const char*>(at);
  const size_t size = layout.size();
  std::vector<float> out(layout.rows * layout.columns);
  for (size_t c = 0; c < layout.columns; c++) {
    for (size_t r = 0; r < layout.rows; r++) {
      const float x = value(from + (c * layout.stride + r) * size, layout.type);
      out[across ? r * layout.columns + c : c * layout.rows + r] = x;
    }
  }
  return out;
}

struct Problem {
  Description description;
  Layout layouts[4];
  Address at[4];
  float beta;
  Address workspace;
  size_t workspace_bytes;
  uint64_t rows, columns, depth;
};

// Whether the sizes fit, and what they are.
bool fit(const Description& d, const Layout* const (&layouts)[4], uint64_t& rows, uint64_t& columns, uint64_t& depth) {
  const Layout &a = *layouts[0], &b = *layouts[1], &c = *layouts[2], &result = *layouts[3];
  rows = d.across[0] ? a.columns : a.rows;
  depth = d.across[0] ? a.rows : a.columns;
  columns = d.across[1] ? b.rows : b.columns;
  const uint64_t depth_of_b = d.across[1] ? b.columns : b.rows;
  const auto is = [&](const Layout& l) { return l.rows == rows && l.columns == columns; };
  return depth == depth_of_b && is(c) && is(result) && a.type == b.type && c.type == result.type;
}

// Sums over k in its order, then adds them to C and the bias, as `emulated/product.rs` does.
Result run(const Problem& p) {
  for (int i = 0; i < 4; i++) {
    if (i == 2 && p.beta == 0) continue;
    if (!on_device(p.at[i], p.layouts[i].bytes())) return violation(ILLEGAL_ADDRESS, "cuBLASLt: an operand outside its memory");
  }
  const bool biased = p.description.epilogue == EPILOGUE_BIAS;
  if (!on_device(p.workspace, p.workspace_bytes) ||
      (biased && !on_device(p.description.bias, p.rows * p.layouts[3].size()))) {
    return violation(ILLEGAL_ADDRESS, "cuBLASLt: workspace or bias outside their memory");
  }
  // An algorithm may write to any of it.
  poison(reinterpret_cast<void*>(p.workspace), p.workspace_bytes);
  const size_t m = p.rows, n = p.columns, k = p.depth;
  const auto a = unpacked(p.layouts[0], p.at[0], p.description.across[0]);
  const auto b = unpacked(p.layouts[1], p.at[1], p.description.across[1]);
  const Layout& result = p.layouts[3];
  std::vector<float> start(m);
  const char* bias = reinterpret_cast<const char*>(p.description.bias);
  char* d = reinterpret_cast<char*>(p.at[3]);
  const char* c = reinterpret_cast<const char*>(p.at[2]);
  for (size_t j = 0; j < n; j++) {
    constexpr size_t TILE = 64;
    for (size_t first = 0; first < m; first += TILE) {
      const size_t width = m - first < TILE ? m - first : TILE;
      float sum[TILE] = {};
      for (size_t l = 0; l < k; l++) {
        const float x = b[j * k + l];
        const float* column = &a[l * m + first];
        if (width == TILE) {
          for (size_t i = 0; i < TILE; i++) sum[i] += x * column[i];
        } else {
          for (size_t i = 0; i < width; i++) sum[i] += x * column[i];
        }
      }
      for (size_t i = 0; i < width; i++) {
        const size_t row = first + i;
        float begin = p.beta ? value(c + (j * p.layouts[2].stride + row) * p.layouts[2].size(), p.layouts[2].type) : 0;
        if (biased) begin += value(bias + row * result.size(), result.type);
        put(d + (j * result.stride + row) * result.size(), result.type, begin + sum[i]);
      }
    }
  }
  return SUCCESS;
}

}  // namespace

}  // namespace stand_in

using namespace stand_in;

API size_t cublasLtGetVersion() { return 120804; }
API const char* cublasLtGetStatusString(Status status) { return status == NOT_SUPPORTED ? "not supported" : "an error"; }

API Status cublasLtCreate(char** handle) {
  Call call("cublasLtCreate", Call::context_outside_capture);
  if (call.refused) return refuse(1, "a handle without a context");
  return make(handle);
}

API Status cublasLtDestroy(char* handle) {
  Call call("cublasLtDestroy");
  if (!idle()) violation(SUCCESS, "cuBLASLt's handle is destroyed before its work is finished");
  return destroy("cublasLtDestroy", handle);
}

API Status cublasLtMatmulDescCreate(Description** made, unsigned compute, unsigned scale) {
  Call call("cublasLtMatmulDescCreate", Call::nothing);
  // CUBLAS_COMPUTE_32F: f32 products stay f32.
  if (compute != 68 || scale != F32) return refuse(BAD_VALUE, "computes in a type other than f32");
  return make(made);
}

API Status cublasLtMatmulDescSetAttribute(Description* d, unsigned attribute, const void* value, size_t bytes) {
  Call call("cublasLtMatmulDescSetAttribute", Call::nothing);
  switch (attribute) {
    case 3:  // CUBLASLT_MATMUL_DESC_TRANSA
      return set(d->across[0], value, bytes);
    case 4:  // CUBLASLT_MATMUL_DESC_TRANSB
      return set(d->across[1], value, bytes);
    case 7:  // CUBLASLT_MATMUL_DESC_EPILOGUE
      return set(d->epilogue, value, bytes);
    case 8:  // CUBLASLT_MATMUL_DESC_BIAS_POINTER
      return set(d->bias, value, bytes);
  }
  return refuse(BAD_VALUE, "an unknown attribute of a product");
}

API Status cublasLtMatmulDescDestroy(Description* object) { return destroy("cublasLtMatmulDescDestroy", object); }

API Status cublasLtMatrixLayoutCreate(Layout** made, unsigned type, uint64_t rows, uint64_t columns, int64_t stride) {
  Call call("cublasLtMatrixLayoutCreate", Call::nothing);
  if ((type != F32 && type != BF16) || !rows || !columns || stride < int64_t(rows)) {
    return refuse(BAD_VALUE, "an invalid layout");
  }
  return make(made, type, rows, columns, stride);
}

API Status cublasLtMatrixLayoutDestroy(Layout* object) { return destroy("cublasLtMatrixLayoutDestroy", object); }

API Status cublasLtMatmulPreferenceCreate(Preference** made) {
  Call call("cublasLtMatmulPreferenceCreate", Call::nothing);
  return make(made);
}

API Status cublasLtMatmulPreferenceSetAttribute(Preference* p, unsigned attribute, const void* value, size_t bytes) {
  Call call("cublasLtMatmulPreferenceSetAttribute", Call::nothing);
  unsigned ignored;
  switch (attribute) {
    case 1:  // CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES
      return set(p->workspace, value, bytes);
    case 3:  // CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK
      return set(ignored, value, bytes);
    case 5:  // CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, and of B, C and D
    case 6:
    case 7:
    case 8:
      return set(p->alignments[attribute - 5], value, bytes);
  }
  return refuse(BAD_VALUE, "an unknown preference");
}

API Status cublasLtMatmulPreferenceDestroy(Preference* object) { return destroy("cublasLtMatmulPreferenceDestroy", object); }

// Four algorithms: one marked unsupported, one that works, one that fails when it runs, and another that works.
API Status cublasLtMatmulAlgoGetHeuristic(void*, Description* d, Layout* a, Layout* b, Layout* c, Layout* result,
                                          Preference* p, int most, Heuristic* found, int* number) {
  Call call("cublasLtMatmulAlgoGetHeuristic", Call::context_outside_capture);
  if (call.refused) return refuse(BAD_VALUE, "a search that is not allowed here");
  Algorithm algorithm{};
  if (!fit(*d, {a, b, c, result}, algorithm.rows, algorithm.columns, algorithm.depth)) {
    return refuse(BAD_VALUE, "operands that do not fit");
  }
  memcpy(algorithm.alignments, p->alignments, sizeof algorithm.alignments);
  algorithm.workspace = p->workspace;
  *number = most < 4 ? most : 4;
  for (int i = 0; i < *number; i++) {
    found[i] = {};
    found[i].algorithm = algorithm;
    found[i].algorithm.number = i;
    found[i].state = i == 0 ? NOT_SUPPORTED : DONE;
  }
  count("kinds of product");
  return DONE;
}

API Status cublasLtMatmul(void*, Description* d, const float* alpha, Address a, Layout* a_layout, Address b,
                          Layout* b_layout, const float* beta, Address c, Layout* c_layout, Address result,
                          Layout* result_layout, const Algorithm* algorithm, Address workspace, size_t workspace_bytes,
                          Stream* stream) {
  Call call("cublasLtMatmul");
  if (call.refused) return refuse(14, "a product where none may be");
  if (algorithm->number == 2) return NOT_SUPPORTED;
  Problem p{*d, {*a_layout, *b_layout, *c_layout, *result_layout}, {a, b, c, result}, *beta, workspace,
            workspace_bytes, 0, 0, 0};
  if (!fit(*d, {a_layout, b_layout, c_layout, result_layout}, p.rows, p.columns, p.depth) || *alpha != 1) {
    return refuse(BAD_VALUE, "operands that do not fit");
  }
  if (p.rows != algorithm->rows || p.columns != algorithm->columns || p.depth != algorithm->depth) {
    return refuse(BAD_VALUE, "an algorithm for another product");
  }
  for (int i = 0; i < 4; i++) {
    if (p.at[i] % algorithm->alignments[i]) return refuse(BAD_VALUE, "an operand less aligned than was said");
  }
  if (c == result && c_layout->stride != result_layout->stride) return refuse(BAD_VALUE, "C and D, the same, differ");
  if (p.description.epilogue == EPILOGUE_BIAS) {
    if (!on_device(d->bias, p.rows * result_layout->size())) return refuse(BAD_VALUE, "a bias outside its memory");
    if (d->bias % algorithm->alignments[3]) return refuse(BAD_VALUE, "a bias less aligned than D");
  } else if (p.description.epilogue != EPILOGUE_DEFAULT) {
    return refuse(NOT_SUPPORTED, "an unknown epilogue");
  }
  if (workspace % 256 || !on_device(workspace, workspace_bytes) || workspace_bytes < algorithm->workspace) {
    return refuse(BAD_VALUE, "no workspace, or less than was said");
  }
  count(capturing() ? "products captured" : "products");
  return enqueue(stream, {"cublasLtMatmul", [=] { return run(p); }}) ? NOT_SUPPORTED : DONE;
}
