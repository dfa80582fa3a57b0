//! Reading a cubin, the ELF file that holds a module's machine code: what a launch must know about a kernel,
//! and which units its instructions use.
//!
//! The layout is ELF64's; the code of kernel `k` is section `.text.k`, and its metadata `.nv.info.k`.
//! NVIDIA does not describe that section: its entries start with a format and an attribute byte, and the
//! size of the arguments is the 16-bit value of attribute 0x19, as `cuobjdump -elf` shows (EIATTR_CBANK_PARAM_SIZE).

/// A cubin's metadata of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its name.
    pub name: String,
    /// Size of its arguments in bytes.
    pub arguments: usize,
    /// Tensor-core instructions (HMMA, HGMMA) in its code.
    pub tensor: usize,
}

const HALF_WORD: u8 = 0x03;
const SIZED: u8 = 0x04;
const ARGUMENTS: u8 = 0x19;

/// Low twelve bits of an instruction, since Volta 128 bits long: its operation. As `nvdisasm -hex` shows.
const TENSOR: [u16; 2] = [0x23c, 0x9f0];

/// The kernels of a cubin; `None` if it is not one.
pub(super) fn entries(file: &[u8]) -> Option<Vec<Entry>> {
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = word(file, 0x28)?;
    let size = half(file, 0x3a)?;
    let count = half(file, 0x3c)?;
    let header = |i: usize| -> Option<(usize, &[u8])> {
        let at = table.checked_add(i.checked_mul(size)?)?;
        let name = usize::try_from(u32::from_le_bytes(bytes(file, at)?)).ok()?;
        let (offset, length) = (word(file, at + 0x18)?, word(file, at + 0x20)?);
        // What takes no room in the file (shared memory) has no bytes.
        let data = file.get(offset..offset.checked_add(length)?).unwrap_or(&[]);
        Some((name, data))
    };
    let (_, names) = header(half(file, 0x3e)?)?;
    let sections = (0..count)
        .map(|i| {
            let (name, data) = header(i)?;
            let name = names.get(name..)?.split(|&b| b == 0).next()?;
            Some((std::str::from_utf8(name).ok()?, data))
        })
        .collect::<Option<Vec<_>>>()?;
    let entries = sections.iter().filter_map(|(name, code)| {
        let name = name.strip_prefix(".text.")?;
        let info = format!(".nv.info.{name}");
        let (_, info) = sections.iter().find(|(n, _)| *n == info)?;
        Some(Entry {
            name: name.to_owned(),
            arguments: arguments(info).unwrap_or(0),
            tensor: tensor(code),
        })
    });
    Some(entries.collect())
}

fn arguments(mut info: &[u8]) -> Option<usize> {
    loop {
        let format = *info.first()?;
        let attribute = *info.get(1)?;
        let value = half(info, 2)?;
        if (format, attribute) == (HALF_WORD, ARGUMENTS) {
            return Some(value);
        }
        // An entry of format 4 is followed by as many bytes as its value says.
        let more = if format == SIZED { value } else { 0 };
        info = info.get(4 + more..)?;
    }
}

fn tensor(code: &[u8]) -> usize {
    code.chunks_exact(16)
        .filter(|i| TENSOR.contains(&(u16::from_le_bytes([i[0], i[1]]) & 0xfff)))
        .count()
}

fn bytes<const N: usize>(file: &[u8], at: usize) -> Option<[u8; N]> {
    file.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn half(file: &[u8], at: usize) -> Option<usize> {
    bytes(file, at).map(|b| usize::from(u16::from_le_bytes(b)))
}

fn word(file: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(bytes(file, at)?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_recognised_by_their_low_bits() {
        // As nvdisasm prints: HMMA.16816.F32.BF16, HGMMA.64x8x16.F32.BF16, and an LDG.
        let words: [u64; 3] = [
            0x0000_0006_0c08_723c,
            0x0000_0000_0418_79f0,
            0x0000_0004_0206_7981,
        ];
        let code: Vec<u8> = words
            .iter()
            .flat_map(|w| [w.to_le_bytes(), [0; 8]].concat())
            .collect();
        assert_eq!(tensor(&code), 2);
    }

    #[test]
    fn arguments_are_found_after_other_entries() {
        let info = [
            4, 0x17, 4, 0, 9, 9, 9, 9, 3, 0x1b, 0xff, 0, 3, 0x19, 0x18, 0,
        ];
        assert_eq!(arguments(&info), Some(24));
        assert_eq!(arguments(&info[..10]), None);
    }

    #[test]
    fn what_is_no_cubin_is_refused() {
        assert_eq!(entries(b"#!/bin/sh"), None);
        let mut torn = b"\x7fELF\x02\x01".to_vec();
        torn.resize(64, 0xff);
        assert_eq!(entries(&torn), None);
    }
}
