//! The bytes of a shard: from a file, a command or the program itself, decompressed as their first bytes say.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};
use ruzstd::decoding::FrameDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};

use crate::data::error::{Error, Result};
use crate::data::pattern::ShardSource;

/// Of what is read at once.
const BUFFER: usize = 1 << 18;
/// The first bytes, by which a format is known: a tar's first header.
const HEAD: usize = 512;
/// What decompression may keep in memory: the windows of `xz -9` and of `zstd --ultra -22` fit.
const WINDOW: u64 = 128 << 20;

/// An open shard.
pub(super) struct Opened<'a> {
    /// Its bytes, not yet decompressed.
    pub bytes: Box<dyn BufRead + 'a>,
    /// The command that they come from.
    pub command: Option<Running>,
}

/// Opens `source`.
///
/// # Errors
/// [`Error::Io`] for a file that cannot be opened or a command that cannot be started.
pub(super) fn open(source: &ShardSource) -> Result<Opened<'_>> {
    match source {
        ShardSource::Path(path) => {
            let file = File::open(path).map_err(|source| Error::Io {
                path: path.clone(),
                source,
            })?;
            Ok(Opened {
                bytes: Box::new(BufReader::with_capacity(BUFFER, file)),
                command: None,
            })
        }
        ShardSource::Memory { bytes, .. } => Ok(Opened {
            bytes: Box::new(*bytes),
            command: None,
        }),
        ShardSource::Command { name, words } => {
            let (child, out) = start(words).map_err(|source| Error::Io {
                path: name.into(),
                source,
            })?;
            Ok(Opened {
                bytes: Box::new(BufReader::with_capacity(BUFFER, out)),
                command: Some(Running(child)),
            })
        }
    }
}

fn start(words: &[String]) -> io::Result<(Child, ChildStdout)> {
    let [program, arguments @ ..] = words else {
        return Err(io::Error::other("an empty command"));
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let out = child.stdout.take();
    Ok((child, out.ok_or_else(|| io::Error::other("no output"))?))
}

/// A command that gives a shard; dropping it ends it.
pub(super) struct Running(Child);

impl Running {
    /// Waits for its end, when all its output has been read or nobody reads it any more: it does not fail by
    /// the latter.
    ///
    /// # Errors
    /// In words, unless it succeeded.
    pub fn finish(mut self) -> Result<(), String> {
        match self.0.wait() {
            Ok(status) if status.success() || unread(status) => Ok(()),
            Ok(status) => Err(status.to_string()),
            Err(e) => Err(e.to_string()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that ended already cannot be killed, and need not be.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a command ended because its output was closed: by the signal, or as a shell (141) and curl (23) tell it.
fn unread(status: ExitStatus) -> bool {
    #[cfg(unix)]
    if std::os::unix::process::ExitStatusExt::signal(&status) == Some(13) {
        return true;
    }
    matches!(status.code(), Some(141 | 23))
}

/// What `bytes` hold when they are decompressed; those that are no compression known here, as they are.
///
/// # Errors
/// If they cannot be read, or are clearly something else than a tar.
pub(super) fn decompressed<'a>(mut bytes: Box<dyn BufRead + 'a>) -> io::Result<Box<dyn Read + 'a>> {
    let mut head = Vec::with_capacity(HEAD);
    bytes.by_ref().take(HEAD as u64).read_to_end(&mut head)?;
    let what = match head.as_slice() {
        [] => return Err(io::Error::other("is empty")),
        [0x1f, 0x8b, ..] => Format::Gzip,
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Format::Bzip2,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Format::Xz,
        // A frame, or a skippable one.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Format::Zstd,
        _ => Format::Plain,
    };
    if what == Format::Plain
        && let Some(name) = stranger(&head)
    {
        return Err(io::Error::other(name));
    }
    let whole = Cursor::new(head).chain(bytes);
    Ok(match what {
        Format::Gzip => Box::new(MultiGzDecoder::new(whole)),
        Format::Bzip2 => Box::new(MultiBzDecoder::new(whole)),
        Format::Xz => {
            let stream = Stream::new_stream_decoder(WINDOW, CONCATENATED)?;
            Box::new(XzDecoder::new_stream(whole, stream))
        }
        Format::Zstd => Box::new(Frames::new(whole)),
        Format::Plain => Box::new(whole),
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Gzip,
    Bzip2,
    Xz,
    Zstd,
    Plain,
}

/// What stands there in place of a shard, if its first bytes say it.
fn stranger(head: &[u8]) -> Option<&'static str> {
    let begins = |with: &str| head.starts_with(with.as_bytes());
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let text = text.trim_start();
    Some(match head {
        [b'P', b'K', 3 | 5, 4 | 6, ..] => "is a zip archive, not a tar",
        [b'7', b'z', 0xbc, 0xaf, ..] => "is a 7z archive, not a tar",
        [0x04, 0x22, 0x4d, 0x18, ..] => {
            "is compressed by lz4, which is not read: `pipe:lz4 -dc FILE` is"
        }
        [0x1f, 0x9d, ..] => "is compressed by compress, which is not read: `pipe:zcat FILE` is",
        _ if begins("PAR1") => "is a Parquet file, not a tar",
        _ if begins("Rar!") => "is a rar archive, not a tar",
        _ if begins("version https://git-lfs") => {
            "is a Git LFS pointer, not the file: `git lfs pull` gets it"
        }
        _ if text.starts_with("<!doctype html") || text.starts_with("<html") => {
            "is an HTML page, not a tar: a download that failed?"
        }
        _ => return None,
    })
}

/// All frames of a zstd stream, one after the other.
struct Frames<R> {
    bytes: R,
    decoder: FrameDecoder,
    /// Whether a frame has begun and not yet been given out.
    open: bool,
}

impl<R: BufRead> Frames<R> {
    fn new(bytes: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW);
        Self {
            bytes,
            decoder,
            open: false,
        }
    }

    /// Begins the next frame; false at the end of the stream.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.bytes.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.bytes) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    if io::copy(&mut self.bytes.by_ref().take(length), &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(e) => return Err(io::Error::other(e.to_string())),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use ruzstd::decoding::BlockDecodingStrategy::UptoBlocks;
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.open {
                if !self.begin()? {
                    return Ok(0);
                }
                self.open = true;
            }
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            if self.decoder.is_finished() {
                let (said, found) = (
                    self.decoder.get_checksum_from_data(),
                    self.decoder.get_calculated_checksum(),
                );
                if said.is_some() && said != found {
                    return Err(io::Error::other("a zstd frame has a wrong checksum"));
                }
                self.open = false;
                continue;
            }
            self.decoder
                .decode_blocks(&mut self.bytes, UptoBlocks(1))
                .map_err(|e| io::Error::other(e.to_string()))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decompressed(Box::new(bytes))?.read_to_end(&mut out)?;
        Ok(out)
    }

    /// The same text by each program's own format, in two streams one after the other.
    #[test]
    fn compressed_streams_follow_one_another() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"one two ").unwrap();
        let gzip = gzip.finish().unwrap();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(b"one two ").unwrap();
        let bzip2 = bzip2.finish().unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(b"one two ").unwrap();
        let xz = xz.finish().unwrap();
        use ruzstd::encoding::{CompressionLevel, compress_to_vec};
        let zstd = compress_to_vec(&b"one two "[..], CompressionLevel::Fastest);
        for one in [gzip, bzip2, xz, zstd.clone()] {
            let two = [one.as_slice(), &one].concat();
            assert_eq!(read(&two).unwrap(), b"one two one two ");
            assert!(read(&two[..two.len() - 3]).is_err());
        }
        let skippable = [&[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9], &zstd[..]].concat();
        assert_eq!(read(&skippable).unwrap(), b"one two ");
    }

    #[test]
    fn what_is_no_tar_is_named() {
        for (bytes, words) in [
            (&b""[..], "empty"),
            (b"PK\x03\x04....", "zip"),
            (b"\n <!DOCTYPE html><html>", "HTML"),
            (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
            (b"PAR1....", "Parquet"),
        ] {
            let error = read(bytes).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert_eq!(read(b"anything else").unwrap(), b"anything else");
    }
}
