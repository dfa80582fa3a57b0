//! A kernel's argument struct as a shader takes it: buffers to bind, and apart from them plain numbers of 32 bits.
//!
//! The struct's layout ([`Layout`]) says what each field is. An address becomes a buffer, if the shader binds it, and a
//! number: the bytes from the buffer's beginning, or [`NONE`] for an address of 0. A count of 64 bits becomes a u32,
//! checked; an f64 becomes two f32 whose sum it is to 48 bits. The WGSL declaration of the numbers is made from the same
//! layout, so that the two sides cannot differ.

use crate::backend::gpu::arguments::{Field, Layout, layouts};
use crate::backend::gpu::device::Address;
use std::fmt::Write;

/// The number of an address of 0.
pub(super) const NONE: u32 = u32::MAX;

/// Numbers that precede the struct's.
const GRID: [&str; 5] = ["grid_x", "grid_y", "fold", "first", "last"];

/// The workgroups of a dispatch: some or all of a launch's grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Workgroups {
    /// Sides of the launch's grid; the third follows from the workgroups' number.
    pub grid: [u32; 2],
    /// Workgroups of a row of the dispatch, which is folded into two dimensions.
    pub fold: u32,
    /// The numbers of the first, and of the one after the last.
    pub first: u32,
    pub last: u32,
}

/// What a scalar of a struct is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Address,
    I64,
    I32,
    U32,
    F32,
    F64,
}

/// A scalar of a struct, of a nested one or of an array in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Scalar {
    /// The names on the way to it, with `_` between them.
    name: String,
    kind: Kind,
    at: usize,
}

/// How a struct is taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    scalars: Vec<Scalar>,
}

/// The layout of that name, as the kernels of `module` take it.
fn layout(module: &str, name: &str) -> Option<Layout> {
    let of = |l: &&Layout| l.name == name && l.modules.contains(&module);
    layouts()
        .chain(super::LAYOUTS.iter().copied().flatten())
        .find(of)
        .copied()
}

fn spread(
    module: &str,
    prefix: &str,
    base: usize,
    field: &Field,
    to: &mut Vec<Scalar>,
) -> Result<(), String> {
    // Filler between fields carries no value.
    if matches!(field.name, "padding" | "unused") {
        return Ok(());
    }
    let (kind, size) = match field.of.name {
        "Address" => (Kind::Address, 8),
        "long long" => (Kind::I64, 8),
        "int" => (Kind::I32, 4),
        "unsigned" => (Kind::U32, 4),
        "float" => (Kind::F32, 4),
        "double" => (Kind::F64, 8),
        nested => {
            let Some(inner) = layout(module, nested) else {
                return Err(format!("{module} has no struct {nested}"));
            };
            let prefix = format!("{prefix}{}_", field.name);
            let at = base + field.at;
            return inner
                .fields
                .iter()
                .try_for_each(|f| spread(module, &prefix, at, f, to));
        }
    };
    for i in 0..field.of.elements.unwrap_or(1) {
        let place = field
            .of
            .elements
            .map(|_| format!("_{i}"))
            .unwrap_or_default();
        to.push(Scalar {
            name: format!("{prefix}{}{place}", field.name),
            kind,
            at: base + field.at + i * size,
        });
    }
    Ok(())
}

impl Plan {
    /// How the struct `name` of `module` is taken apart.
    pub fn new(module: &str, name: &str) -> Result<Self, String> {
        let Some(layout) = layout(module, name) else {
            return Err(format!("{module} has no struct {name}"));
        };
        let mut scalars = Vec::new();
        for field in layout.fields {
            spread(module, "", 0, field, &mut scalars)?;
        }
        Ok(Self { scalars })
    }

    /// The declaration of `Numbers` in WGSL.
    pub fn declaration(&self) -> String {
        let mut text = String::from("struct Numbers {\n");
        for name in GRID {
            writeln!(text, "  {name}: u32,").expect("to a string");
        }
        for Scalar { name, kind, .. } in &self.scalars {
            match kind {
                Kind::F64 => writeln!(text, "  {name}_high: f32,\n  {name}_low: f32,"),
                Kind::F32 => writeln!(text, "  {name}: f32,"),
                Kind::I32 => writeln!(text, "  {name}: i32,"),
                Kind::Address | Kind::I64 | Kind::U32 => writeln!(text, "  {name}: u32,"),
            }
            .expect("to a string");
        }
        text + "}\n"
    }

    /// Bytes of `Numbers`.
    pub fn size(&self) -> usize {
        let doubles = self.scalars.iter().filter(|s| s.kind == Kind::F64).count();
        4 * (GRID.len() + self.scalars.len() + doubles)
    }

    /// Bytes into the struct at which the address `name` stands.
    pub fn address(&self, name: &str) -> Option<usize> {
        let found = self
            .scalars
            .iter()
            .find(|s| s.name == name && s.kind == Kind::Address);
        found.map(|s| s.at)
    }

    /// The numbers of `bytes`, a struct, for a dispatch. `offset` gives the bytes from the beginning of the buffer bound to an address.
    ///
    /// # Errors
    /// A count that 32 bits do not hold.
    pub fn numbers(
        &self,
        bytes: &[u8],
        of: Workgroups,
        offset: impl Fn(&str, Address) -> Result<u32, String>,
    ) -> Result<Vec<u32>, String> {
        let mut words = Vec::with_capacity(self.size() / 4);
        words.extend(of.grid);
        words.extend([of.fold, of.first, of.last]);
        for Scalar { name, kind, at } in &self.scalars {
            let word = |n: usize| {
                u32::from_ne_bytes(bytes[at + n..at + n + 4].try_into().expect("four bytes"))
            };
            let wide = || u64::from_ne_bytes(bytes[*at..at + 8].try_into().expect("eight bytes"));
            match kind {
                Kind::Address => words.push(match wide() {
                    0 => NONE,
                    address => offset(name, address)?,
                }),
                Kind::I64 => match u32::try_from(wide()) {
                    Ok(count) => words.push(count),
                    Err(_) => return Err(format!("{name} = {} is more than 32 bits hold", wide())),
                },
                Kind::I32 | Kind::U32 | Kind::F32 => words.push(word(0)),
                Kind::F64 => {
                    let value = f64::from_bits(wide());
                    let high = value as f32;
                    words.extend([high, (value - f64::from(high)) as f32].map(f32::to_bits));
                }
            }
        }
        Ok(words)
    }
}

/// The address that stands at `at` of a struct.
pub(super) fn address(bytes: &[u8], at: usize) -> Address {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
