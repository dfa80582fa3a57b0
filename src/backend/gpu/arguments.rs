//! The structs that kernels take, as the launching side fills them.
//!
//! A kernel takes one struct by value, declared beside it in C++ and here in Rust: two declarations that have to agree
//! in every byte. [`arguments!`] makes a table of each struct's fields, and [`checks`] turns the tables into the last
//! lines of a module's source: every compiler of a module, NVRTC and the emulated device's, proves names, types,
//! offsets and the number of fields. `Gpu::launch` takes only structs that are in `LAYOUTS` of this room.

use super::LAYOUTS;
use super::device::Address;
use bytemuck::Pod;

/// Declares an operation's argument structs, each under its name in C++ and with the modules that declare it, and
/// `LAYOUTS`, the table of them.
macro_rules! arguments {
    ($(
        $(#[$meta:meta])*
        $visibility:vis struct $name:ident in $($module:literal),+ {
            $($(#[$field_meta:meta])* $field_visibility:vis $field:ident: $type:ty),+ $(,)?
        }
    )+) => {
        $(
            $(#[$meta])*
            #[repr(C)]
            #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
            $visibility struct $name {
                $($(#[$field_meta])* $field_visibility $field: $type),+
            }

            impl $crate::backend::gpu::arguments::Arguments for $name {
                const LAYOUT: $crate::backend::gpu::arguments::Layout =
                    $crate::backend::gpu::arguments::Layout {
                        name: stringify!($name),
                        modules: &[$($module),+],
                        size: size_of::<Self>(),
                        fields: &[$($crate::backend::gpu::arguments::Field {
                            name: stringify!($field),
                            of: <$type as $crate::backend::gpu::arguments::Argument>::TYPE,
                            at: std::mem::offset_of!(Self, $field),
                        }),+],
                    };
            }

            impl $crate::backend::gpu::arguments::Argument for $name {
                const TYPE: $crate::backend::gpu::arguments::Type =
                    $crate::backend::gpu::arguments::Type {
                        name: stringify!($name),
                        elements: None,
                    };
            }
        )+

        pub(super) const LAYOUTS: &[$crate::backend::gpu::arguments::Layout] =
            &[$(<$name as $crate::backend::gpu::arguments::Arguments>::LAYOUT),+];
    };
}
pub(in crate::backend) use arguments;

/// A struct that kernels take, or that is in one or in a table that they read.
pub(in crate::backend) trait Arguments: Pod {
    const LAYOUT: Layout;
}

/// A struct in C++.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend) struct Layout {
    pub name: &'static str,
    /// The modules that declare it.
    pub modules: &'static [&'static str],
    /// In bytes.
    pub size: usize,
    pub fields: &'static [Field],
}

#[derive(Clone, Copy, Debug)]
pub(in crate::backend) struct Field {
    pub name: &'static str,
    pub of: Type,
    /// Bytes before it.
    pub at: usize,
}

/// A type in C++: an array if it has `elements`.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend) struct Type {
    pub name: &'static str,
    pub elements: Option<usize>,
}

/// What a field may be.
pub(in crate::backend) trait Argument {
    const TYPE: Type;
}

macro_rules! scalars {
    ($($rust:ty: $cpp:literal),+) => {
        $(impl Argument for $rust {
            const TYPE: Type = Type { name: $cpp, elements: None };
        })+
    };
}
scalars!(Address: "Address", i64: "long long", i32: "int", u32: "unsigned", f32: "float", f64: "double");

impl<T: Argument, const N: usize> Argument for [T; N] {
    const TYPE: Type = Type {
        name: T::TYPE.name,
        elements: Some(N),
    };
}

impl Layout {
    /// Whether it is in `LAYOUTS` of this room, and so checked.
    pub(super) const fn is_listed(&self) -> bool {
        let (mut i, mut found) = (0, false);
        while i < LAYOUTS.len() {
            let mut k = 0;
            while k < LAYOUTS[i].len() {
                let one = &LAYOUTS[i][k];
                found |= same(one.name, self.name) && same(one.modules[0], self.modules[0]);
                k += 1;
            }
            i += 1;
        }
        found
    }

    /// C++ that compiles where the same struct is declared.
    fn check(&self) -> String {
        let (mut text, mut in_order) = (String::new(), Vec::new());
        for (i, Field { name, of, at }) in self.fields.iter().enumerate() {
            let elements = of.elements.map(|n| format!("[{n}]")).unwrap_or_default();
            text += &format!(
                "ARGUMENT({}, {name}, {}{elements}, {at})\n",
                self.name, of.name
            );
            in_order.push(format!("&a.{name} == &_{i}"));
        }
        let bindings: Vec<_> = (0..self.fields.len()).map(|i| format!("_{i}")).collect();
        let (bindings, in_order) = (bindings.join(", "), in_order.join(" && "));
        text + &format!(
            "ARGUMENTS({}, {}, ({bindings}), {in_order})\n",
            self.name, self.size
        )
    }
}

/// `==` at compile time.
const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

/// The structs of every kernel.
pub(in crate::backend) fn layouts() -> impl Iterator<Item = &'static Layout> {
    LAYOUTS.iter().copied().flatten()
}

/// The last lines of a module's source: its argument structs are those of this side.
pub(in crate::backend) fn checks(module: &str) -> String {
    let of = layouts().filter(|layout| layout.modules.contains(&module));
    let text: String = of.map(Layout::check).collect();
    match text.as_str() {
        "" => text,
        _ => format!("\n#include \"arguments.cuh\"\n{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::relation::LogitsArgument;
    use crate::backend::gpu::device::{Kernel, Launch};
    use crate::require::{Part, require};
    use bytemuck::Zeroable;

    #[test]
    fn each_kernel_is_launched_with_its_own_struct() {
        let found = crate::backend::cuda::emulated(false);
        let Some(gpu) = require(Part::Emulated, "structs of kernels", found) else {
            return;
        };
        let kernel = Kernel::new("relation", "relation_f32");
        let launch = Launch::blocks([1, 1, 1], 256);
        let error = gpu.launch(kernel, launch, &LogitsArgument::zeroed());
        let error = error.unwrap_err().to_string();
        let words = "relation_f32 takes RelationArguments and was launched with LogitsArgument";
        assert!(error.contains(words), "{error}");
    }
}
