//! A file read once, from its beginning to its end, with digests of what was passed.

use std::io::Read;

use anyhow::{Result, bail};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// Size of one read, in bytes.
const BUFFER_BYTES: usize = 1 << 20;

/// A reader, and the digest of the bytes read since [`DigestReader::start_digest`].
pub struct DigestReader<R> {
    source: R,
    buffer: Vec<u8>,
    /// In the buffer: the first byte that was not digested yet, the next one to take, the end.
    digested: usize,
    position: usize,
    filled: usize,
    /// Digest of the bytes that no longer fit in the buffer.
    hasher: Xxh3,
    has_hashed: bool,
}

impl<R: Read> DigestReader<R> {
    pub fn new(source: R) -> Self {
        Self {
            source,
            buffer: vec![0; BUFFER_BYTES],
            digested: 0,
            position: 0,
            filled: 0,
            hasher: Xxh3::new(),
            has_hashed: false,
        }
    }

    /// Takes the next bytes, as many as fit into a buffer.
    ///
    /// # Errors
    /// Returns an error if the file ends before, or cannot be read.
    pub fn take_bytes(&mut self, count: usize) -> Result<&[u8]> {
        if self.filled - self.position < count {
            self.refill_buffer(count)?;
        }
        let from = self.position;
        self.position += count;
        Ok(&self.buffer[from..self.position])
    }

    /// Reads the next byte.
    ///
    /// # Errors
    /// Returns the errors of [`Self::take_bytes`].
    pub fn read_byte(&mut self) -> Result<u8> {
        Ok(self.take_bytes(1)?[0])
    }

    /// Reads the next bytes as an array.
    ///
    /// # Errors
    /// Returns the errors of [`Self::take_bytes`].
    pub fn read_array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take_bytes(N)?);
        Ok(array)
    }

    /// Passes over bytes, however many.
    ///
    /// # Errors
    /// Returns an error under the same conditions as [`Self::take_bytes`].
    pub fn skip_bytes(&mut self, count: u64) -> Result<()> {
        self.for_each_chunk(count, |_| ())
    }

    /// Puts bytes behind those of a list, however many.
    ///
    /// # Errors
    /// Returns an error under the same conditions as [`Self::take_bytes`].
    pub fn append_bytes(&mut self, count: u64, to: &mut Vec<u8>) -> Result<()> {
        self.for_each_chunk(count, |bytes| to.extend_from_slice(bytes))
    }

    #[inline]
    fn for_each_chunk(&mut self, mut count: u64, mut each: impl FnMut(&[u8])) -> Result<()> {
        loop {
            let available = (self.filled - self.position).min(usize::try_from(count).unwrap_or(usize::MAX));
            each(&self.buffer[self.position..self.position + available]);
            self.position += available;
            count -= available as u64;
            if count == 0 {
                return Ok(());
            }
            self.refill_buffer(1)?;
        }
    }

    /// Starts a digest over the bytes read from here on.
    pub fn start_digest(&mut self) {
        self.digested = self.position;
        if std::mem::take(&mut self.has_hashed) {
            self.hasher.reset();
        }
    }

    /// Returns the digest of the bytes read since [`Self::start_digest`]; the next one starts here. It does not depend
    /// on how the file was buffered.
    pub fn finish_digest(&mut self) -> u128 {
        let rest = &self.buffer[self.digested..self.position];
        let digest = if self.has_hashed {
            self.hasher.update(rest);
            self.hasher.digest128()
        } else {
            xxh3_128(rest)
        };
        self.start_digest();
        digest
    }

    /// Moves unread bytes to the front, and reads until there are this many bytes.
    #[cold]
    fn refill_buffer(&mut self, count: usize) -> Result<()> {
        if self.digested < self.position {
            self.hasher.update(&self.buffer[self.digested..self.position]);
            self.has_hashed = true;
        }
        self.buffer.copy_within(self.position..self.filled, 0);
        (self.filled, self.position, self.digested) = (self.filled - self.position, 0, 0);
        while self.filled < count {
            match self.source.read(&mut self.buffer[self.filled..])? {
                0 => bail!("the file is truncated"),
                read => self.filled += read,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns this many bytes at a time, independent of the request.
    struct SlowReader<'a>(&'a [u8], usize);

    impl Read for SlowReader<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let most = self.1.min(into.len());
            self.0.read(&mut into[..most])
        }
    }

    #[test]
    fn a_digest_does_not_depend_on_read_sizes() {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        for drop in [7 << 10, 1 << 20, 5 << 20] {
            let mut input = DigestReader::new(SlowReader(&bytes, drop));
            assert_eq!(input.take_bytes(3).unwrap(), [0, 1, 2]);
            input.start_digest();
            input.skip_bytes(2_500_000).unwrap();
            assert_eq!(input.finish_digest(), xxh3_128(&bytes[3..2_500_003]));
            input.skip_bytes(10).unwrap();
            assert_eq!(input.finish_digest(), xxh3_128(&bytes[2_500_003..2_500_013]), "the next one begins there");
            let mut rest = Vec::new();
            input.append_bytes(499_987, &mut rest).unwrap();
            assert_eq!(rest, &bytes[2_500_013..]);
            crate::messages::check("input-ends", [("one byte more", input.read_byte().unwrap_err())]);
        }
    }
}
