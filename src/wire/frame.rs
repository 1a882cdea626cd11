//! Frames: a length, a kind, a payload.
//!
//! `u32` big-endian length of what follows; one byte kind (0 JSON message, 1 blob); the payload. A blob's payload is
//! its SHA-256 as 64 hexadecimal digits, then its bytes compressed with zstd.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::plan::Digest;

/// Longest frame, in bytes: a release's binary fits, a broken length does not.
const LONGEST: u32 = 1 << 30;
/// zstd's level for contents on the wire: quick, most of the gain.
const LEVEL: i32 = 1;
const MESSAGE: u8 = 0;
const BLOB: u8 = 1;
const DIGITS: usize = 64;

/// A frame as it arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A message, still as JSON.
    Message(Vec<u8>),
    /// A content; its digest was checked.
    Blob {
        /// The digest, equal to that of the bytes.
        digest: Digest,
        /// The bytes, decompressed.
        bytes: Vec<u8>,
    },
}

impl Frame {
    /// The message in a frame.
    ///
    /// # Errors
    /// The frame is a blob, or not a message of that type.
    pub fn message<T: DeserializeOwned>(&self) -> io::Result<T> {
        match self {
            Self::Message(json) => serde_json::from_slice(json).map_err(invalid),
            Self::Blob { .. } => Err(invalid("a blob where a message was due")),
        }
    }
}

/// A message as the bytes of its frame.
///
/// # Errors
/// The message cannot be written as JSON, or is too long.
pub fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(message).map_err(invalid)?;
    framed(MESSAGE, &[&json])
}

/// A content as the bytes of its frame.
///
/// # Errors
/// It is too long.
pub fn encode_blob(digest: &Digest, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let packed = zstd::bulk::compress(bytes, LEVEL)?;
    let length = u64::try_from(bytes.len()).map_err(invalid)?.to_be_bytes();
    framed(BLOB, &[digest.as_str().as_bytes(), &length, &packed])
}

fn framed(kind: u8, parts: &[&[u8]]) -> io::Result<Vec<u8>> {
    let length = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
    let prefix = u32::try_from(length).ok().filter(|&length| length <= LONGEST).ok_or_else(|| invalid("too long"))?;
    let mut frame = Vec::with_capacity(4 + length);
    frame.extend_from_slice(&prefix.to_be_bytes());
    frame.push(kind);
    for part in parts {
        frame.extend_from_slice(part);
    }
    Ok(frame)
}

/// How many bytes follow a prefix.
///
/// # Errors
/// The length cannot be that of a frame: the other side does not speak this protocol.
pub fn length(prefix: [u8; 4]) -> io::Result<usize> {
    match u32::from_be_bytes(prefix) {
        0 => Err(invalid("an empty frame")),
        length if length > LONGEST => Err(invalid(format!("a frame of {length} bytes: this is not dunlin's protocol"))),
        length => usize::try_from(length).map_err(invalid),
    }
}

/// The frame in the bytes that follow a prefix.
///
/// # Errors
/// Unknown kind, broken compression, or bytes that do not have the digest they were sent under.
pub fn decode(body: Vec<u8>) -> io::Result<Frame> {
    match body.split_first() {
        Some((&MESSAGE, json)) => Ok(Frame::Message(json.to_vec())),
        Some((&BLOB, rest)) if rest.len() >= DIGITS + 8 => decode_blob(rest),
        _ => Err(invalid("a frame of an unknown kind")),
    }
}

fn decode_blob(rest: &[u8]) -> io::Result<Frame> {
    let (digits, rest) = rest.split_at(DIGITS);
    let (length, packed) = rest.split_at(8);
    let length = u64::from_be_bytes(length.try_into().map_err(invalid)?);
    if length > u64::from(LONGEST) {
        return Err(invalid("a content that is too long"));
    }
    let bytes = zstd::bulk::decompress(packed, usize::try_from(length).map_err(invalid)?)?;
    let digest = Digest::of(&bytes);
    if digest.as_str().as_bytes() != digits {
        return Err(invalid("a content that does not have its digest"));
    }
    Ok(Frame::Blob { digest, bytes })
}

/// Reads one frame; `None` at the end of the stream.
///
/// # Errors
/// The stream ends within a frame, or what arrives is no frame.
pub fn read(input: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut prefix = [0; 4];
    match input.read(&mut prefix[..1])? {
        0 => return Ok(None),
        _ => input.read_exact(&mut prefix[1..])?,
    }
    let mut body = vec![0; length(prefix)?];
    input.read_exact(&mut body)?;
    decode(body).map(Some)
}

/// Writes one message and flushes it.
///
/// # Errors
/// The stream is closed.
pub fn write<T: Serialize>(output: &mut impl Write, message: &T) -> io::Result<()> {
    output.write_all(&encode(message)?)?;
    output.flush()
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_blobs_come_back() {
        let bytes = b"some content, some content, some content".repeat(50);
        let digest = Digest::of(&bytes);
        let mut stream = encode(&vec![1, 2, 3]).unwrap();
        stream.extend(encode_blob(&digest, &bytes).unwrap());
        let mut input = stream.as_slice();
        assert_eq!(read(&mut input).unwrap().unwrap().message::<Vec<u8>>().unwrap(), [1, 2, 3]);
        assert_eq!(read(&mut input).unwrap(), Some(Frame::Blob { digest, bytes }));
        assert_eq!(read(&mut input).unwrap(), None);
    }

    #[test]
    fn a_blob_under_a_wrong_digest_is_refused() {
        let frame = encode_blob(&Digest::of(b"one"), b"other").unwrap();
        let error = read(&mut frame.as_slice()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        crate::messages::check("blob-digest", [("another digest", error)]);
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        for garbage in [&b"bash: command not found\n"[..], &[0, 0, 0, 0], &[0, 0, 0, 2, 9, 9], &[0, 0, 0, 5, 0]] {
            assert!(read(&mut &garbage[..]).is_err(), "{garbage:?}");
        }
    }
}
