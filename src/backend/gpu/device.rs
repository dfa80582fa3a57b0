//! What a device does for this backend: memory, launches, matrix products.
//!
//! Three devices do it: an NVIDIA GPU (`cuda/driver`), one that runs the same kernels on the processor
//! (`cuda/emulated`), so that everything above this trait, and the kernels themselves, run in `cargo test` on any
//! machine, and an adapter with the shaders (`wgpu/device`). A fourth one (`recorder`) wraps one of CUDA's and replays
//! steps that recur. All calls are in
//! the order of one stream; only [`Device::download`], [`Device::collect`] and [`Device::synchronise`] wait.

use crate::backend::Result;
use crate::tensor::DType;
use std::time::Duration;

/// An address in the device's memory.
pub(in crate::backend) type Address = u64;

/// An entry point of `cuda/<module>.cu` and of `shaders/<module>.wgsl`: a kernel that takes one struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::backend) struct Kernel {
    /// File name without its end.
    pub module: &'static str,
    /// Name of the function; instances for an element type end in `_f32`, `_bf16` or `_f16`.
    pub entry: &'static str,
}

impl Kernel {
    pub const fn new(module: &'static str, entry: &'static str) -> Self {
        Self { module, entry }
    }
}

/// What the runs of a kernel took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend) struct KernelTime {
    pub kernel: Kernel,
    pub dispatches: u64,
    /// Of all of them, by the device's clock.
    pub time: Duration,
}

/// How many threads run a kernel.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend) struct Launch {
    /// Blocks in x, y, z; y and z at most 65 535.
    pub grid: [u32; 3],
    /// Threads of a block, at most 1 024.
    pub block: u32,
    /// Dynamic shared memory of a block in bytes.
    pub shared: u32,
    /// About how many operations all blocks make, where they are many: a device may run them in several parts.
    pub work: u64,
}

impl PartialEq for Launch {
    /// Two launches that run the same threads are the same, whatever is known of their work.
    fn eq(&self, other: &Self) -> bool {
        (self.grid, self.block, self.shared) == (other.grid, other.block, other.shared)
    }
}

impl Eq for Launch {}

impl Launch {
    /// A grid of these blocks, of `threads` threads each, without dynamic shared memory.
    pub fn blocks(grid: [usize; 3], threads: u32) -> Self {
        Self {
            grid: grid.map(|blocks| blocks as u32),
            block: threads,
            shared: 0,
            work: 0,
        }
    }

    /// The same, of about as many operations.
    pub fn of_work(self, operations: usize) -> Self {
        Self {
            work: operations as u64,
            ..self
        }
    }

    /// A grid for `n` elements of which a block takes `each` at a time and then goes on by the grid's size: enough
    /// blocks to fill a large GPU several times over, and no more.
    pub fn spread(n: usize, each: usize) -> Self {
        Self::blocks([n.div_ceil(each).min(4096), 1, 1], 256)
    }
}

/// A row-major matrix, as stored or transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend) struct Matrix {
    /// First element.
    pub at: Address,
    /// [`DType::F32`] or the device's low type.
    pub dtype: DType,
    /// Elements from one stored row to the next.
    pub stride: usize,
    /// Whether the product takes the transpose of what is stored.
    pub transposed: bool,
}

/// D = A B + C + bias, accumulated in f32: A is m × k, B is k × n (after their transpositions), C and D
/// are m × n as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend) struct Product {
    /// Rows of D.
    pub m: usize,
    /// Columns of D.
    pub n: usize,
    /// Length of the sums.
    pub k: usize,
    /// Left operand.
    pub a: Matrix,
    /// Right operand, of A's dtype.
    pub b: Matrix,
    /// Added to the product: D itself to accumulate into it, or a residual of D's dtype and shape.
    pub c: Option<Matrix>,
    /// Where the result goes.
    pub d: Matrix,
    /// Added to every row of D: n values of D's dtype.
    pub bias: Option<Address>,
    /// D = act(A B + bias) + C, for a device that [fuses](Device::fuses) it.
    pub activation: Option<Fused>,
}

/// An activation within a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend) struct Fused {
    /// As the kernels number it.
    pub number: u32,
    /// Where A B + bias goes as well: as D.
    pub pre: Option<Address>,
}

/// A call that can be recorded and run again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::backend) enum Call {
    Launch(Kernel, Launch, Box<[u8]>),
    Product(Product),
    /// Address and bytes.
    Clear(Address, usize),
    /// From, to, bytes.
    Copy(Address, Address, usize),
}

impl Call {
    pub fn run(&self, device: &dyn Device) -> Result<()> {
        match self {
            Self::Launch(kernel, launch, arguments) => device.launch(*kernel, *launch, arguments),
            Self::Product(product) => device.product(product),
            Self::Clear(at, bytes) => device.clear(*at, *bytes),
            Self::Copy(from, to, bytes) => device.copy(*from, *to, *bytes),
        }
    }
}

/// Memory, launches and matrix products, in the order of one stream.
pub(in crate::backend) trait Device: Send + Sync + std::fmt::Debug {
    /// One line about the device, for the log.
    fn describe(&self) -> String;

    /// The element type beside f32 that its kernels take.
    fn low_type(&self) -> DType;

    /// Memory of at least `bytes` (and at least one byte), aligned to 256, of any content.
    fn allocate(&self, bytes: usize) -> Result<Address>;

    /// As [`Device::allocate`], for memory that an upload fills before all else.
    fn allocate_input(&self, bytes: usize) -> Result<Address> {
        self.allocate(bytes)
    }

    /// The most bytes that it had from the system at a time, where it counts them.
    fn held(&self) -> Option<usize> {
        None
    }

    /// Gives back what [`Device::allocate`] handed out for `bytes`.
    fn free(&self, at: Address, bytes: usize);

    /// Copies from the host to what [`Device::allocate_input`] gave, before all else that is done with it. `from` may
    /// change as soon as the call returns.
    fn upload(&self, to: Address, from: &[u8]) -> Result<()>;

    /// Copies to the host, waiting for everything before it.
    fn download(&self, from: Address, to: &mut [u8]) -> Result<()>;

    /// Starts to copy these bytes at each address to the host, after everything before it. Returns what
    /// [`Device::collect`] knows them by.
    fn fetch(&self, parts: &[(Address, usize)]) -> Result<u64>;

    /// The bytes of a [`Device::fetch`], one part after another, waiting until they have arrived; once.
    fn collect(&self, ticket: u64) -> Result<Vec<u8>>;

    /// Sets `bytes` bytes to zero.
    fn clear(&self, at: Address, bytes: usize) -> Result<()>;

    /// Copies within the device.
    fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<()>;

    /// Runs a kernel. `arguments` are the bytes of the struct that it takes, laid out as C does.
    fn launch(&self, kernel: Kernel, launch: Launch, arguments: &[u8]) -> Result<()>;

    /// The argument struct's name in C++, where the device knows it.
    fn takes(&self, _kernel: Kernel) -> Result<Option<String>> {
        Ok(None)
    }

    /// What kernels took since the last call, waiting for them; none where the device was not asked to time them.
    fn kernel_times(&self) -> Result<Vec<KernelTime>> {
        Ok(Vec::new())
    }

    /// The buffer that holds `at`, bound as a whole under this address, and the bytes before `at` in it; `None` where
    /// kernels follow addresses that they find in memory.
    fn buffer_of(&self, _at: Address) -> Option<(Address, u64)> {
        None
    }

    /// Whether a product can apply an activation to its result.
    fn fuses(&self) -> bool {
        false
    }

    /// Runs a matrix product.
    fn product(&self, product: &Product) -> Result<()>;

    /// What is asked from here to [`Device::end_step`] will be asked again: a step of training, or a part of one.
    fn begin_step(&self) -> Result<()> {
        Ok(())
    }

    /// See [`Device::begin_step`].
    fn end_step(&self) -> Result<()> {
        Ok(())
    }

    /// How many steps and parts of steps have been replayed.
    fn replays(&self) -> u64 {
        0
    }

    /// Waits for everything before it, and reports what failed meanwhile.
    fn synchronise(&self) -> Result<()>;

    /// How often the host has waited so far: in downloads and in [`Device::synchronise`].
    fn waits(&self) -> u64;
}

/// A device that can run many calls as one piece.
pub(in crate::backend) trait Replay: Device {
    /// Makes one piece of `calls`, each of which has run before. Returns what [`Replay::replay`] knows it by.
    fn capture(&self, calls: &[Call]) -> Result<u64>;

    /// Runs a piece, after everything before it. The memory that its calls name must be allocated to them.
    fn replay(&self, piece: u64) -> Result<()>;

    /// Forgets a piece.
    fn discard(&self, piece: u64);
}
