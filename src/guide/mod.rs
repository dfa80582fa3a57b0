//! The guide: what to read before using the programs or changing the code.
//!
//! Every page is a Markdown file in `src/guide`, which reads as well on a forge. The Rust in it runs as
//! documentation tests.
//!
//! For users: [`first_run`], [`losses`], [`results`], [`inheritance`], [`data`], [`pictures`], [`evaluation`],
//! [`flags`], [`speed`], [`cuda`], [`wgsl`]. For those who want to trust it or change it: [`verification`], [`architecture`],
//! [`adding_an_operation`].

/// A page, which sees the targets of `links.md` first: of two definitions of a link Markdown takes the first, so
/// that the same link leads to a file on a forge and to an item here.
macro_rules! pages {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[doc = ""]
        #[doc = include_str!("links.md")]
        #[doc = ""]
        #[doc = include_str!(concat!(stringify!($name), ".md"))]
        pub mod $name {}
    )*};
}

pages! {
    first_run
    losses
    results
    inheritance
    data
    pictures
    evaluation
    flags
    speed
    cuda
    wgsl
    verification
    architecture
    adding_an_operation
}
