// Kernels over all parameters at once: a table with one entry a tensor, and workgroups that take a chunk each. Tensors
// are parts of a few buffers; an address in an entry is the buffer's number, counted from 1, and the words before the
// tensor in it. 0 is a tensor that is not there.

// Elements of a chunk: a workgroup's.
const TABLE_CHUNK = 4096u;

// The entry whose chunks begin last at or before `chunk`. Entries have `size` words, of which the one at `first` is the
// number of the first chunk.
fn entry_of(chunk: u32, size: u32, first: u32) -> u32 {
  var low = 0u;
  var high = u32(a.count) - 1u;
  while (low < high) {
    let middle = (low + high + 1u) / 2u;
    if (table[middle * size + first] <= chunk) { low = middle; } else { high = middle - 1u; }
  }
  return low * size;
}

fn load_word(buffer: u32, at: u32) -> u32 {
  switch buffer {
    case 1u: { return buffers_0[at]; }
    case 2u: { return buffers_1[at]; }
    case 3u: { return buffers_2[at]; }
    case 4u: { return buffers_3[at]; }
    default: { return buffers_4[at]; }
  }
}

// Element i of the tensor whose address is at word `entry` of the table.
fn load(entry: u32, i: u32) -> f32 { return bitcast<f32>(load_word(table[entry], table[entry + 1u] + i)); }

#if kernel adamw_f32
fn store_word(buffer: u32, at: u32, v: u32) {
  switch buffer {
    case 1u: { buffers_0[at] = v; }
    case 2u: { buffers_1[at] = v; }
    case 3u: { buffers_2[at] = v; }
    case 4u: { buffers_3[at] = v; }
    default: { buffers_4[at] = v; }
  }
}

fn store(entry: u32, i: u32, v: f32) { store_word(table[entry], table[entry + 1u] + i, bitcast<u32>(v)); }
#end
