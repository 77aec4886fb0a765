//! The content codings of the built-in files, by `Accept-Encoding` (RFC 9110 §12.5.3).

use std::io::Write as _;
use std::sync::OnceLock;

use bytes::Bytes;

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// None: the file as it is.
    Identity,
    Gzip,
    Brotli,
}

/// The compressed forms of one file, each made when it is first requested, and kept: a file is compressed once in a process, and
/// takes no more memory than it has bytes, twice. (To compress while the crate is built would take a build script, and the newcomer's
/// first build waits for that.)
#[derive(Debug, Default)]
pub(super) struct CompressedForms {
    gzip: OnceLock<Bytes>,
    brotli: OnceLock<Bytes>,
}

/// Of 0 to 11. The two levels above save some percent more, at ten times the time.
const BROTLI_QUALITY: u32 = 9;

/// The base-two logarithm of Brotli's window: the library's default, larger than every file.
const BROTLI_WINDOW: u32 = 22;

const BUFFER_BYTES: usize = 4096;

impl Coding {
    /// The coding to respond with. Of those that are accepted equally, the smaller.
    pub(super) fn negotiated(accept_encoding: &str) -> Self {
        let weight = |coding: &str| {
            let (mut named, mut other) = (None, None);
            for element in accept_encoding.split(',') {
                let (name, parameters) = element.split_once(';').unwrap_or((element, ""));
                match name.trim() {
                    "*" => other = Some(quality(parameters)),
                    name if name.eq_ignore_ascii_case(coding) => named = Some(quality(parameters)),
                    _ => {}
                }
            }
            named.or(other).unwrap_or(0.0)
        };
        let (brotli, gzip) = (weight("br"), weight("gzip"));
        if brotli > 0.0 && brotli >= gzip {
            Self::Brotli
        } else if gzip > 0.0 {
            Self::Gzip
        } else {
            Self::Identity
        }
    }

    /// The value of `Content-Encoding`, if there is one.
    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Brotli => Some("br"),
        }
    }
}

impl CompressedForms {
    pub(super) const fn new() -> Self {
        Self { gzip: OnceLock::new(), brotli: OnceLock::new() }
    }

    /// The content in this coding. Compressing takes some milliseconds: on a thread where that is allowed.
    pub(super) async fn of(&'static self, content: &'static [u8], coding: Coding) -> Bytes {
        let (form, compress): (&'static OnceLock<Bytes>, Compress) = match coding {
            Coding::Identity => return Bytes::from_static(content),
            Coding::Gzip => (&self.gzip, gzip),
            Coding::Brotli => (&self.brotli, brotli),
        };
        if let Some(kept) = form.get() {
            return kept.clone();
        }
        // Requests for the same form wait for the one that compresses it.
        let make = move || {
            form.get_or_init(|| match compress(content) {
                Ok(compressed) => compressed.into(),
                Err(error) => unreachable!("a vector takes every write: {error}"),
            })
        };
        match tokio::task::spawn_blocking(make).await {
            Ok(made) => made.clone(),
            Err(_) => Bytes::from_static(content),
        }
    }
}

/// Compresses all of a content.
type Compress = fn(&[u8]) -> std::io::Result<Vec<u8>>;

fn gzip(content: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    writer.write_all(content)?;
    writer.finish()
}

fn brotli(content: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut writer = brotli::CompressorWriter::new(Vec::new(), BUFFER_BYTES, BROTLI_QUALITY, BROTLI_WINDOW);
    writer.write_all(content)?;
    writer.flush()?;
    Ok(writer.into_inner())
}

/// The weight of an element of a list, 0 to 1; 0 where it is malformed.
fn quality(parameters: &str) -> f32 {
    match parameters.trim().strip_prefix(['q', 'Q']).and_then(|rest| rest.trim_start().strip_prefix('=')) {
        None if parameters.trim().is_empty() => 1.0,
        Some(value) => value.trim().parse().ok().filter(|quality| (0.0..=1.0).contains(quality)).unwrap_or(0.0),
        None => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_coding_is_used_only_where_it_is_accepted() {
        for (header, expected) in [
            ("", Coding::Identity),
            ("identity", Coding::Identity),
            ("gzip", Coding::Gzip),
            ("gzip, deflate, br, zstd", Coding::Brotli),
            ("GZIP ; q=0.5 , br; q=0.4", Coding::Gzip),
            ("br;q=0, gzip", Coding::Gzip),
            ("br;q=0, *", Coding::Gzip),
            ("*", Coding::Brotli),
            ("*;q=0", Coding::Identity),
            ("gzip;q=2", Coding::Identity),
            ("br;q=nan, gzip;level=9", Coding::Identity),
            ("brotli, x-gzip", Coding::Identity),
        ] {
            assert_eq!(Coding::negotiated(header), expected, "{header}");
        }
    }

    #[test]
    fn what_is_compressed_is_smaller_and_the_same() {
        let content = include_bytes!("../../../static/client.js");
        let [gzip, brotli] = [gzip(content).unwrap(), brotli(content).unwrap()];
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(&gzip[..]).read_to_end(&mut text).unwrap();
        assert!(text == content);
        text.clear();
        brotli::Decompressor::new(&brotli[..], BUFFER_BYTES).read_to_end(&mut text).unwrap();
        assert!(text == content);
        assert!(brotli.len() < gzip.len() && gzip.len() < content.len() / 3, "{} {}", brotli.len(), gzip.len());
    }
}
