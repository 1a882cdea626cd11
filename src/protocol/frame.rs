//! Frames: a length, a kind, a payload.
//!
//! `u32` big-endian length of what follows; one byte kind (0 JSON message, 1 blob); the payload. A blob's payload is
//! its SHA-256 as 64 hexadecimal digits, then its bytes compressed with zstd.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::plan::Digest;

/// Longest frame, in bytes: a release's binary fits, a broken length does not.
const MAX_FRAME_BYTES: u32 = 1 << 30;
/// zstd's level for contents on the wire: quick, most of the gain.
const ZSTD_LEVEL: i32 = 1;
const KIND_MESSAGE: u8 = 0;
const KIND_BLOB: u8 = 1;
const DIGEST_DIGITS: usize = 64;

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
    pub fn parse_message<T: DeserializeOwned>(&self) -> io::Result<T> {
        match self {
            Self::Message(json) => serde_json::from_slice(json).map_err(invalid_data),
            Self::Blob { .. } => Err(invalid_data("a blob where a message was due")),
        }
    }
}

/// A message as the bytes of its frame.
///
/// # Errors
/// The message cannot be written as JSON, or is too long.
pub fn encode_message<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(message).map_err(invalid_data)?;
    build_frame(KIND_MESSAGE, &[&json])
}

/// A content as the bytes of its frame.
///
/// # Errors
/// It is too long.
pub fn encode_blob(digest: &Digest, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let packed = zstd::bulk::compress(bytes, ZSTD_LEVEL)?;
    let length = u64::try_from(bytes.len()).map_err(invalid_data)?.to_be_bytes();
    build_frame(KIND_BLOB, &[digest.as_str().as_bytes(), &length, &packed])
}

fn build_frame(kind: u8, parts: &[&[u8]]) -> io::Result<Vec<u8>> {
    let length = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
    let prefix = u32::try_from(length)
        .ok()
        .filter(|&length| length <= MAX_FRAME_BYTES)
        .ok_or_else(|| invalid_data("too long"))?;
    let mut frame = Vec::with_capacity(4 + length);
    frame.extend_from_slice(&prefix.to_be_bytes());
    frame.push(kind);
    for part in parts {
        frame.extend_from_slice(part);
    }
    Ok(frame)
}

/// Returns the number of bytes that follow a prefix.
///
/// # Errors
/// The length cannot be that of a frame: the other side does not speak this protocol.
pub fn parse_length(prefix: [u8; 4]) -> io::Result<usize> {
    match u32::from_be_bytes(prefix) {
        0 => Err(invalid_data("an empty frame")),
        length if length > MAX_FRAME_BYTES => {
            Err(invalid_data(format!("a frame of {length} bytes: this is not dunlin's protocol")))
        }
        length => usize::try_from(length).map_err(invalid_data),
    }
}

/// The frame in the bytes that follow a prefix.
///
/// # Errors
/// Unknown kind, broken compression, or bytes that do not have the digest they were sent under.
pub fn decode_frame(body: Vec<u8>) -> io::Result<Frame> {
    match body.split_first() {
        Some((&KIND_MESSAGE, json)) => Ok(Frame::Message(json.to_vec())),
        Some((&KIND_BLOB, rest)) if rest.len() >= DIGEST_DIGITS + 8 => decode_blob(rest),
        _ => Err(invalid_data("a frame of an unknown kind")),
    }
}

fn decode_blob(rest: &[u8]) -> io::Result<Frame> {
    let (digits, rest) = rest.split_at(DIGEST_DIGITS);
    let (length, packed) = rest.split_at(8);
    let length = u64::from_be_bytes(length.try_into().map_err(invalid_data)?);
    if length > u64::from(MAX_FRAME_BYTES) {
        return Err(invalid_data("a content that is too long"));
    }
    let bytes = zstd::bulk::decompress(packed, usize::try_from(length).map_err(invalid_data)?)?;
    let digest = Digest::of_bytes(&bytes);
    if digest.as_str().as_bytes() != digits {
        return Err(invalid_data("a content that does not have its digest"));
    }
    Ok(Frame::Blob { digest, bytes })
}

/// Reads one frame; `None` at the end of the stream.
///
/// # Errors
/// The stream ends within a frame, or what arrives is no frame.
pub fn read_frame(input: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut prefix = [0; 4];
    match input.read(&mut prefix[..1])? {
        0 => return Ok(None),
        _ => input.read_exact(&mut prefix[1..])?,
    }
    let mut body = vec![0; parse_length(prefix)?];
    input.read_exact(&mut body)?;
    decode_frame(body).map(Some)
}

/// Writes one message and flushes it.
///
/// # Errors
/// The stream is closed.
pub fn write_message<T: Serialize>(output: &mut impl Write, message: &T) -> io::Result<()> {
    output.write_all(&encode_message(message)?)?;
    output.flush()
}

fn invalid_data(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_blobs_round_trip() {
        let bytes = b"some content, some content, some content".repeat(50);
        let digest = Digest::of_bytes(&bytes);
        let mut stream = encode_message(&vec![1, 2, 3]).unwrap();
        stream.extend(encode_blob(&digest, &bytes).unwrap());
        let mut input = stream.as_slice();
        assert_eq!(read_frame(&mut input).unwrap().unwrap().parse_message::<Vec<u8>>().unwrap(), [1, 2, 3]);
        assert_eq!(read_frame(&mut input).unwrap(), Some(Frame::Blob { digest, bytes }));
        assert_eq!(read_frame(&mut input).unwrap(), None);
    }

    #[test]
    fn a_blob_with_a_wrong_digest_is_rejected() {
        let frame = encode_blob(&Digest::of_bytes(b"one"), b"other").unwrap();
        let error = read_frame(&mut frame.as_slice()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        crate::messages::check("blob-digest", [("another digest", error)]);
    }

    #[test]
    fn invalid_frames_are_rejected() {
        for garbage in [&b"bash: command not found\n"[..], &[0, 0, 0, 0], &[0, 0, 0, 2, 9, 9], &[0, 0, 0, 5, 0]] {
            assert!(read_frame(&mut &garbage[..]).is_err(), "{garbage:?}");
        }
    }
}
