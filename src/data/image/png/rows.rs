//! The rows of a PNG: inflated, unfiltered, and put in their places.

use flate2::{Decompress, FlushDecompress, Status};

use super::super::DecodeError;
use super::super::convert::Alpha;
use super::chunks::Chunks;
use super::kind::Painter;
use super::{corrupt, truncated};

/// Bytes that are inflated at once.
const BLOCK: usize = 1 << 16;

/// One pass of Adam7: first column and row, and the steps between them.
struct Pass {
    column: usize,
    row: usize,
    columns: usize,
    rows: usize,
}

const fn pass(column: usize, row: usize, columns: usize, rows: usize) -> Pass {
    Pass {
        column,
        row,
        columns,
        rows,
    }
}

const WHOLE: [Pass; 1] = [pass(0, 0, 1, 1)];
const ADAM7: [Pass; 7] = [
    pass(0, 0, 8, 8),
    pass(4, 0, 8, 8),
    pass(0, 4, 4, 8),
    pass(2, 0, 4, 4),
    pass(0, 2, 2, 4),
    pass(1, 0, 2, 2),
    pass(0, 1, 1, 2),
];

/// The picture's RGB. Where the data end between two rows, the rest is of the sample 0, as in
/// Pillow.
///
/// # Errors
/// Data that do not inflate, an unknown filter, a file that ends within the pixels.
pub(super) fn read(chunks: &Chunks<'_>, alpha: Alpha) -> Result<Vec<u8>, DecodeError> {
    let (width, height) = (chunks.width as usize, chunks.height as usize);
    let bits = chunks.kind.bits();
    let painter = Painter::new(chunks, alpha);
    let mut pixels = blank(&painter, width, height);
    let mut data = Inflater::new(&chunks.data);
    let passes: &[Pass] = if chunks.interlaced { &ADAM7 } else { &WHOLE };
    let longest = (width * bits).div_ceil(8) + 1;
    let (mut row, mut above) = (vec![0; longest], vec![0; longest]);
    let mut first = true;
    for pass in passes {
        let columns = width.saturating_sub(pass.column).div_ceil(pass.columns);
        let length = (columns * bits).div_ceil(8) + 1;
        if columns == 0 {
            continue;
        }
        above.fill(0);
        for y in (pass.row..height).step_by(pass.rows) {
            match data.fill(&mut row[..length])? {
                Filled::Whole => {}
                Filled::Ended if first => return Err(truncated()),
                Filled::Ended => return Ok(pixels),
            }
            first = false;
            unfilter(&mut row[..length], &above[..length], bits.div_ceil(8))?;
            let line = &mut pixels[y * width * 3..(y + 1) * width * 3];
            let places = line.as_chunks_mut::<3>().0;
            let mut places = places[pass.column..].iter_mut().step_by(pass.columns);
            painter.paint(&row[1..length], columns, |colour| {
                if let Some(place) = places.next() {
                    *place = colour;
                }
            });
            std::mem::swap(&mut row, &mut above);
        }
    }
    Ok(pixels)
}

/// A picture of the sample 0.
fn blank(painter: &Painter, width: usize, height: usize) -> Vec<u8> {
    let mut colour = [0; 3];
    painter.paint(&[0; 8], 1, |c| colour = c);
    if colour == [0; 3] {
        return vec![0; width * height * 3];
    }
    colour.repeat(width * height)
}

/// Undoes a row's filter, which its first byte names; `bytes` are those of a pixel, at least 1.
fn unfilter(row: &mut [u8], above: &[u8], bytes: usize) -> Result<(), DecodeError> {
    let Some((&mut filter, row)) = row.split_first_mut() else {
        return Ok(());
    };
    let above = &above[1..];
    let head = bytes.min(row.len());
    match filter {
        0 => {}
        1 => {
            for i in head..row.len() {
                row[i] = row[i].wrapping_add(row[i - bytes]);
            }
        }
        2 => row
            .iter_mut()
            .zip(above)
            .for_each(|(v, a)| *v = v.wrapping_add(*a)),
        3 => {
            for i in 0..row.len() {
                let left = if i < head { 0 } else { row[i - bytes] };
                let mean = (u16::from(left) + u16::from(above[i])) / 2;
                row[i] = row[i].wrapping_add(mean as u8);
            }
        }
        4 => {
            for i in 0..row.len() {
                let (left, corner) = match i < head {
                    true => (0, 0),
                    false => (row[i - bytes], above[i - bytes]),
                };
                row[i] = row[i].wrapping_add(paeth(left, above[i], corner));
            }
        }
        other => return Err(corrupt(format!("unknown filter {other}"))),
    }
    Ok(())
}

/// Whichever of the three is nearest to `left + above - corner`, the earlier if two are.
fn paeth(left: u8, above: u8, corner: u8) -> u8 {
    let (a, b, c) = (i16::from(left), i16::from(above), i16::from(corner));
    let (to_left, to_above, to_corner) = ((b - c).abs(), (a - c).abs(), (a + b - 2 * c).abs());
    if to_left <= to_above && to_left <= to_corner {
        left
    } else if to_above <= to_corner {
        above
    } else {
        corner
    }
}

enum Filled {
    Whole,
    /// The deflated stream ended exactly before it.
    Ended,
}

/// Inflates the bodies of the IDAT chunks, a block at a time.
struct Inflater<'a> {
    state: Decompress,
    input: &'a [u8],
    more: std::slice::Iter<'a, &'a [u8]>,
    block: Vec<u8>,
    /// Of the block, those not taken yet.
    ready: std::ops::Range<usize>,
    ended: bool,
}

impl<'a> Inflater<'a> {
    fn new(data: &'a [&'a [u8]]) -> Self {
        Self {
            state: Decompress::new(true),
            input: &[],
            more: data.iter(),
            block: vec![0; BLOCK],
            ready: 0..0,
            ended: false,
        }
    }

    fn fill(&mut self, mut out: &mut [u8]) -> Result<Filled, DecodeError> {
        let mut begun = false;
        while !out.is_empty() {
            if self.ready.is_empty() {
                if self.ended && !begun {
                    return Ok(Filled::Ended);
                }
                self.refill()?;
                continue;
            }
            let n = self.ready.len().min(out.len());
            let (head, tail) = out.split_at_mut(n);
            head.copy_from_slice(&self.block[self.ready.start..self.ready.start + n]);
            self.ready.start += n;
            out = tail;
            begun = true;
        }
        Ok(Filled::Whole)
    }

    fn refill(&mut self) -> Result<(), DecodeError> {
        if self.ended {
            return Err(truncated());
        }
        let (read, written) = (self.state.total_in(), self.state.total_out());
        let status = self
            .state
            .decompress(self.input, &mut self.block, FlushDecompress::None)
            .map_err(|e| corrupt(format!("the image data: {e}")))?;
        let read = (self.state.total_in() - read) as usize;
        let written = (self.state.total_out() - written) as usize;
        self.input = &self.input[read..];
        self.ready = 0..written;
        self.ended = status == Status::StreamEnd;
        if written == 0 && !self.ended && self.input.is_empty() {
            self.input = self.more.next().ok_or_else(truncated)?;
        }
        Ok(())
    }
}
