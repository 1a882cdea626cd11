//! Frames: a length, a kind, a payload.
//!
//! `u32` big-endian length of what follows; one byte kind (0 JSON message, 1 blob); the payload. A blob's payload is
//! its SHA-256 as 64 hexadecimal digits, its length as a `u64`, then its bytes compressed with zstd.
//!
//! Every frame has a limit, checked before its payload is read. A receiver names the kinds that it accepts: only the
//! controller sends blobs, so that no host can make the controller decompress anything.

use std::io::{self, Read};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::plan::Digest;

/// Longest message, in bytes: the plan of a host with large diffs fits.
pub const MAX_MESSAGE_BYTES: u32 = 16 << 20;
/// Longest event, in bytes: a receiver keeps several of them in memory.
pub const MAX_EVENT_BYTES: usize = 1 << 20;
/// Longest content, in bytes, before and after compression: a release's binary fits.
pub const MAX_BLOB_BYTES: u32 = 1 << 30;
/// Number of bytes before the payload: the length and the kind.
pub const HEADER_BYTES: usize = 5;
/// zstd's level for contents on the wire: most of the gain at the speed of a fast network. Contents of releases are
/// compressed once for all hosts.
const ZSTD_LEVEL: i32 = 3;
/// Largest window that a compressed content may require, as a power of two: 16 MiB. Level 3 uses less.
const MAX_ZSTD_WINDOW_LOG: u32 = 24;
const KIND_MESSAGE: u8 = 0;
const KIND_BLOB: u8 = 1;
const DIGEST_DIGITS: usize = 64;
/// Digest and length before a content's compressed bytes.
const BLOB_HEADER_BYTES: usize = DIGEST_DIGITS + 8;

/// Names the side that reads a frame, and so the frames that it accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// Accepts messages only.
    Controller,
    /// Accepts messages and contents.
    Agent,
}

/// Describes a frame whose payload has not been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    kind: u8,
    /// Number of bytes of the payload.
    pub payload_length: usize,
}

/// A frame as it arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A message, still as JSON.
    Message(Vec<u8>),
    /// A content, still compressed.
    Blob(PackedBlob),
}

/// A content as it arrives: nothing of it is checked, and nothing decompressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedBlob {
    /// The payload of its frame.
    payload: Vec<u8>,
}

impl Frame {
    /// Parses the message in a frame.
    ///
    /// # Errors
    /// Returns an error if the frame is a blob, or not a message of that type.
    pub fn parse_message<T: DeserializeOwned>(&self) -> io::Result<T> {
        match self {
            Self::Message(json) => serde_json::from_slice(json).map_err(invalid_data),
            Self::Blob(_) => Err(invalid_data("expected a message, received content")),
        }
    }
}

impl FrameHeader {
    /// Parses the first bytes of a frame.
    ///
    /// # Errors
    /// Returns an error if the bytes do not begin a frame that this side accepts, or the frame exceeds the limit of its
    /// kind.
    pub fn parse(bytes: [u8; HEADER_BYTES], receiver: Receiver) -> io::Result<Self> {
        let [length @ .., kind] = bytes;
        let payload_length = u32::from_be_bytes(length).checked_sub(1).ok_or_else(|| invalid_data("an empty frame"))?;
        let limit = match (kind, receiver) {
            (KIND_MESSAGE, _) => MAX_MESSAGE_BYTES,
            (KIND_BLOB, Receiver::Agent) => MAX_BLOB_BYTES,
            (KIND_BLOB, Receiver::Controller) => {
                return Err(invalid_data("the agent sent content; only the controller does that"));
            }
            _ => return Err(invalid_data("a frame of an unknown kind: this is not dunlin's protocol")),
        };
        if payload_length > limit {
            return Err(invalid_data(format!("a frame of {payload_length} bytes exceeds the limit of {limit} bytes")));
        }
        Ok(Self { kind, payload_length: usize::try_from(payload_length).map_err(invalid_data)? })
    }

    /// Returns the frame of this header with its payload.
    ///
    /// # Errors
    /// Returns an error if the payload is shorter than the header says.
    pub fn with_payload(self, payload: Vec<u8>) -> io::Result<Frame> {
        if payload.len() < self.payload_length {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stream ends within a frame"));
        }
        match self.kind {
            KIND_MESSAGE => Ok(Frame::Message(payload)),
            _ if payload.len() >= BLOB_HEADER_BYTES => Ok(Frame::Blob(PackedBlob { payload })),
            _ => Err(invalid_data("content without a digest")),
        }
    }
}

impl PackedBlob {
    /// Returns the digest under which the content was sent, as hexadecimal digits; not checked.
    pub fn claimed_digest(&self) -> &[u8] {
        &self.payload[..DIGEST_DIGITS]
    }

    /// Decompresses the content, and stops as soon as it is longer than its sender declared.
    ///
    /// # Errors
    /// Returns an error if the declared length exceeds the limit or is not that of the content, the compression is
    /// broken, or the bytes do not have the digest under which they were sent.
    pub fn unpack(&self) -> io::Result<(Digest, Vec<u8>)> {
        let length = self.payload[DIGEST_DIGITS..BLOB_HEADER_BYTES].try_into().map_err(invalid_data)?;
        let length = u64::from_be_bytes(length);
        if length > u64::from(MAX_BLOB_BYTES) {
            return Err(invalid_data(format!("content of {length} bytes exceeds the limit of {MAX_BLOB_BYTES}")));
        }
        let mut decoder = zstd::stream::read::Decoder::new(&self.payload[BLOB_HEADER_BYTES..])?;
        decoder.window_log_max(MAX_ZSTD_WINDOW_LOG)?;
        // Grows with what arrives: the declared length allocates nothing.
        let mut bytes = Vec::new();
        decoder.take(length + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != length {
            return Err(invalid_data("content that does not have its declared length"));
        }
        let digest = Digest::of_bytes(&bytes);
        if digest.as_str().as_bytes() != self.claimed_digest() {
            return Err(invalid_data("content that does not have its digest"));
        }
        Ok((digest, bytes))
    }
}

/// Encodes a message as the bytes of its frame.
///
/// # Errors
/// Returns an error if the message cannot be written as JSON, or exceeds the limit.
pub fn encode_message<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(message).map_err(invalid_data)?;
    build_frame(KIND_MESSAGE, &[&json], MAX_MESSAGE_BYTES)
}

/// Encodes a content as the bytes of its frame.
///
/// # Errors
/// Returns an error if the content exceeds the limit.
pub fn encode_blob(digest: &Digest, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let length = u64::try_from(bytes.len()).map_err(invalid_data)?;
    encode_compressed_blob(digest, length, &compress_content(bytes)?)
}

/// Compresses a content as frames carry it.
///
/// # Errors
/// Returns an error if the content cannot be compressed.
pub fn compress_content(bytes: &[u8]) -> io::Result<Vec<u8>> {
    zstd::bulk::compress(bytes, ZSTD_LEVEL)
}

/// Returns the frame of a content of `length` bytes that [`compress_content`] compressed.
///
/// # Errors
/// Returns an error if the content exceeds the limit.
pub fn encode_compressed_blob(digest: &Digest, length: u64, compressed: &[u8]) -> io::Result<Vec<u8>> {
    if length > u64::from(MAX_BLOB_BYTES) {
        return Err(invalid_data(format!("{length} bytes exceed the limit of {MAX_BLOB_BYTES} bytes")));
    }
    build_frame(KIND_BLOB, &[digest.as_str().as_bytes(), &length.to_be_bytes(), compressed], MAX_BLOB_BYTES)
}

fn build_frame(kind: u8, parts: &[&[u8]], limit: u32) -> io::Result<Vec<u8>> {
    let payload_length = parts.iter().map(|part| part.len()).sum::<usize>();
    let length = u32::try_from(payload_length)
        .ok()
        .filter(|&length| length <= limit)
        .ok_or_else(|| invalid_data(format!("{payload_length} bytes exceed the limit of {limit} bytes")))?;
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload_length);
    frame.extend_from_slice(&(length + 1).to_be_bytes());
    frame.push(kind);
    for part in parts {
        frame.extend_from_slice(part);
    }
    Ok(frame)
}

/// Reads one frame; `None` at the end of the stream.
///
/// # Errors
/// Returns an error if the stream ends within a frame, or what arrives is no frame that this side accepts.
pub fn read_frame(input: &mut impl Read, receiver: Receiver) -> io::Result<Option<Frame>> {
    let mut header = [0; HEADER_BYTES];
    match input.read(&mut header[..1])? {
        0 => return Ok(None),
        _ => input.read_exact(&mut header[1..])?,
    }
    let header = FrameHeader::parse(header, receiver)?;
    // Grows with what arrives: a length alone allocates nothing.
    let mut payload = Vec::new();
    input.take(header.payload_length as u64).read_to_end(&mut payload)?;
    header.with_payload(payload).map(Some)
}

fn invalid_data(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_blob(frame: &[u8]) -> io::Result<(Digest, Vec<u8>)> {
        match read_frame(&mut &frame[..], Receiver::Agent)?.unwrap() {
            Frame::Blob(blob) => blob.unpack(),
            Frame::Message(_) => panic!("a message"),
        }
    }

    /// A frame of a content of zeros, with a length of the sender's choice.
    fn bomb(zeros: u64, declared: u64) -> Vec<u8> {
        let mut packed = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        io::copy(&mut io::repeat(0).take(zeros), &mut packed).unwrap();
        let packed = packed.finish().unwrap();
        let parts = [&[b'0'; DIGEST_DIGITS][..], &declared.to_be_bytes(), &packed];
        build_frame(KIND_BLOB, &parts, MAX_BLOB_BYTES).unwrap()
    }

    #[test]
    fn messages_and_blobs_round_trip() {
        let bytes = b"some content, some content, some content".repeat(50);
        let digest = Digest::of_bytes(&bytes);
        let stream = encode_message(&vec![1, 2, 3]).unwrap();
        let mut input = stream.as_slice();
        let frame = read_frame(&mut input, Receiver::Controller).unwrap().unwrap();
        assert_eq!(frame.parse_message::<Vec<u8>>().unwrap(), [1, 2, 3]);
        assert_eq!(read_frame(&mut input, Receiver::Controller).unwrap(), None);
        assert_eq!(read_blob(&encode_blob(&digest, &bytes).unwrap()).unwrap(), (digest, bytes));
    }

    #[test]
    fn a_blob_with_a_wrong_digest_is_rejected() {
        let error = read_blob(&encode_blob(&Digest::of_bytes(b"one"), b"other").unwrap()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        crate::messages::check("blob-digest", [("another digest", error)]);
    }

    #[test]
    fn invalid_frames_are_rejected() {
        for garbage in [
            &b"bash: command not found\n"[..],
            &[0, 0, 0, 0, 0],
            &[0, 0, 0, 2, 9, 9],
            &[0, 0, 0, 5, 0],
            &[0, 0, 0, 2, 1, 9],
        ] {
            assert!(read_frame(&mut &garbage[..], Receiver::Agent).is_err(), "{garbage:?}");
        }
    }

    #[test]
    fn no_host_makes_the_controller_decompress() {
        // Refused by its header alone: nothing of the payload needs to arrive.
        let bomb = bomb(1 << 20, 1 << 20);
        let error = read_frame(&mut &bomb[..HEADER_BYTES], Receiver::Controller).unwrap_err();
        assert!(error.to_string().contains("only the controller does that"), "{error}");
    }

    #[test]
    fn a_content_never_grows_beyond_its_declared_length() {
        let error = read_blob(&bomb(1 << 30, 1000)).unwrap_err();
        assert!(error.to_string().contains("declared length"), "{error}");
        let error = read_blob(&bomb(1000, u64::from(MAX_BLOB_BYTES) + 1)).unwrap_err();
        assert!(error.to_string().contains("exceeds the limit"), "{error}");
        let error = read_blob(&bomb(1000, u64::from(MAX_BLOB_BYTES))).unwrap_err();
        assert!(error.to_string().contains("declared length"), "{error}");
    }

    #[test]
    fn messages_have_a_limit_on_both_sides() {
        let long = "x".repeat(MAX_MESSAGE_BYTES as usize);
        let error = encode_message(&long).unwrap_err();
        assert!(error.to_string().contains("exceed the limit of 16777216 bytes"), "{error}");
        let mut header = (MAX_MESSAGE_BYTES + 2).to_be_bytes().to_vec();
        header.push(KIND_MESSAGE);
        let error = read_frame(&mut header.as_slice(), Receiver::Agent).unwrap_err();
        assert!(error.to_string().contains("exceeds the limit"), "{error}");
    }
}
