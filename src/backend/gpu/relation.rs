//! Streaming similarity losses: the statistics of every row of logits. Memory is O(n·width); features and
//! statistics are f32 in either precision.

use super::device::{Address, Kernel, Launch};
use super::operand::Operand;
use super::{Gpu, arguments};
use crate::backend::{Logits, Pair, Relation, Result, RowStats, shape_error};
use crate::tensor::DType;
use bytemuck::Zeroable;

const OP: &str = "relation";

/// Rows and columns of the tile that a block makes at a time.
pub(super) const TILE_ROWS: usize = 128;
pub(super) const TILE_COLUMNS: usize = 64;
/// Threads of a block.
pub(super) const THREADS: u32 = 256;
/// Blocks among which the tiles are split, where there are as many: a large GPU is full, and on any GPU the sums
/// have the same order.
const BLOCKS: usize = 512;

arguments! {
    /// [`Logits`] as kernels take them; all zero if there are none.
    pub(super) struct LogitsArgument in "relation", "relation_backward", "relation_curvature" {
        x: Address,
        y: Address,
        scale: Address,
        pub(super) width: i32,
        padding: i32,
    }

    struct RelationArguments in "relation" {
        student: LogitsArgument,
        teacher: LogitsArgument,
        partials: Address,
        own: Address,
        n: i32,
        m: i32,
        tiles: i32,
        skip_diagonal: i32,
    }

    struct RelationFinishArguments in "relation" {
        partials: Address,
        softmax: Address,
        teacher_softmax: Address,
        value: Address,
        n: i32,
        splits: i32,
    }
}

impl LogitsArgument {
    /// The products of two sets of features, under no scale.
    pub(super) fn products(x: Address, y: Address, width: usize) -> Self {
        Self {
            x,
            y,
            scale: 0,
            width: width as i32,
            padding: 0,
        }
    }
}

/// A [`Relation`]'s memory.
pub(super) struct Features<'a> {
    pub(super) x: Operand<'a>,
    pub(super) y: Operand<'a>,
    scale: Operand<'a>,
    pub(super) n: usize,
    pub(super) m: usize,
    pub(super) width: usize,
}

impl<'a> Features<'a> {
    pub(super) fn new(gpu: &Gpu, op: &'static str, r: &'a Logits) -> Result<Self> {
        let (xs, ys) = (r.x.shape(), r.y.shape());
        if xs.len() != 2 || ys.len() != 2 || xs[1] != ys[1] || r.scale.len() != 1 {
            let detail = format!("x {xs:?}, y {ys:?}, scale {:?}", r.scale.shape());
            return shape_error(op, detail + ": want [n, width], [m, width], [1]");
        }
        Ok(Self {
            x: gpu.read(op, &r.x, DType::F32)?,
            y: gpu.read(op, &r.y, DType::F32)?,
            scale: gpu.read(op, &r.scale, DType::F32)?,
            n: xs[0],
            m: ys[0],
            width: xs[1],
        })
    }

    pub(super) fn argument(&self) -> LogitsArgument {
        LogitsArgument {
            scale: self.scale.at(),
            ..LogitsArgument::products(self.x.at(), self.y.at(), self.width)
        }
    }

    /// Whether a feature's similarity with another is also the other's with it.
    fn symmetric(&self) -> bool {
        self.x.at() == self.y.at() && self.n == self.m
    }
}

/// The memory of a [`Pair`], whose two relations fit each other.
pub(super) struct Operands<'a> {
    student: Features<'a>,
    teacher: Option<Features<'a>>,
    /// Rows.
    pub n: usize,
    /// Columns.
    pub m: usize,
    /// Elements of a student's feature.
    pub width: usize,
}

impl<'a> Operands<'a> {
    pub(super) fn new(gpu: &Gpu, op: &'static str, pair: &'a Pair) -> Result<Self> {
        let student = Features::new(gpu, op, &pair.student)?;
        let teacher = pair.teacher.as_ref();
        let teacher = teacher.map(|t| Features::new(gpu, op, t)).transpose()?;
        let (n, m, width) = (student.n, student.m, student.width);
        match &teacher {
            Some(t) if (t.n, t.m) != (n, m) => {
                let detail = format!("student {n}×{m}, teacher {}×{}", t.n, t.m);
                return shape_error(op, detail);
            }
            None if m < n => return shape_error(op, format!("{n} rows, but only {m} classes")),
            _ => {}
        }
        Ok(Self {
            student,
            teacher,
            n,
            m,
            width,
        })
    }

    /// Student and teacher.
    pub(super) fn arguments(&self) -> (LogitsArgument, LogitsArgument) {
        let none = LogitsArgument::zeroed();
        let teacher = self.teacher.as_ref().map_or(none, Features::argument);
        (self.student.argument(), teacher)
    }

    /// Elements of a student's and a teacher's feature together.
    pub(super) fn widths(&self) -> usize {
        self.width + self.teacher.as_ref().map_or(0, |t| t.width)
    }

    /// The student's candidates.
    pub(super) fn y(&self) -> Address {
        self.student.y.at()
    }

    /// Whether candidates are the anchors themselves, of student and teacher.
    pub(super) fn symmetric(&self) -> bool {
        self.student.symmetric() && self.teacher.as_ref().is_none_or(Features::symmetric)
    }
}

/// Bytes of a row's statistics over some of its columns.
const PARTIAL: usize = 32;

/// Into how many parts of how many tiles the columns are split.
pub(super) fn split(n: usize, m: usize) -> (usize, usize) {
    let tiles = m.div_ceil(TILE_COLUMNS).max(1);
    let wanted = BLOCKS.div_ceil(n.div_ceil(TILE_ROWS).max(1));
    let each = tiles.div_ceil(wanted.min(tiles));
    (tiles.div_ceil(each), each)
}

impl Relation for Gpu {
    fn relation(&self, pair: &Pair) -> Result<RowStats> {
        let operands = Operands::new(self, OP, pair)?;
        let (n, m) = (operands.n, operands.m);
        let (student, teacher) = operands.arguments();
        let (splits, tiles) = split(n, m);
        let partials = self.allocate(splits * n * PARTIAL)?;
        let (softmax, softmax_at) = self.empty(&[2, n], DType::F32)?;
        let (value, value_at) = self.empty(&[n], DType::F32)?;
        let (teacher_softmax, teacher_softmax_at) = match &pair.teacher {
            Some(_) => {
                let (tensor, at) = self.empty(&[2, n], DType::F32)?;
                (Some(tensor), at)
            }
            None => (None, 0),
        };
        let kernel = |entry| Kernel { module: OP, entry };
        let arguments = RelationArguments {
            student,
            teacher,
            partials: partials.at(),
            own: value_at,
            n: n as i32,
            m: m as i32,
            tiles: tiles as i32,
            skip_diagonal: pair.skip_diagonal.into(),
        };
        let launch = Launch::blocks([n.div_ceil(TILE_ROWS), splits, 1], THREADS)
            .of_work(2 * n * m * operands.widths());
        let entry = match &pair.teacher {
            Some(_) => "relation_teacher_f32",
            None => "relation_f32",
        };
        self.launch(kernel(entry), launch, &arguments)?;
        let arguments = RelationFinishArguments {
            partials: partials.at(),
            softmax: softmax_at,
            teacher_softmax: teacher_softmax_at,
            value: value_at,
            n: n as i32,
            splits: splits as i32,
        };
        let launch = Launch::blocks([n.div_ceil(256), 1, 1], 256);
        self.launch(kernel("relation_finish_f32"), launch, &arguments)?;
        Ok(RowStats {
            softmax,
            teacher_softmax,
            value,
        })
    }
}
