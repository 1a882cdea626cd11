//! A file read once, from its beginning to its end, with digests of what was passed.

use std::io::Read;

use anyhow::{Result, bail};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// What is read at once.
const BUFFER: usize = 1 << 20;

/// Bytes to come, and the digest of those since [`Input::begin`].
pub struct Input<R> {
    source: R,
    buffer: Vec<u8>,
    /// In the buffer: the first byte that was not digested yet, the next one to take, the end.
    digested: usize,
    at: usize,
    end: usize,
    /// Where what is being digested did not fit into the buffer: its beginning.
    begun: Xxh3,
    has_begun: bool,
}

impl<R: Read> Input<R> {
    pub fn new(source: R) -> Self {
        Self { source, buffer: vec![0; BUFFER], digested: 0, at: 0, end: 0, begun: Xxh3::new(), has_begun: false }
    }

    /// The next bytes, so many of them that a buffer holds them.
    ///
    /// # Errors
    /// The file ends before, or cannot be read.
    pub fn take(&mut self, count: usize) -> Result<&[u8]> {
        if self.end - self.at < count {
            self.refill(count)?;
        }
        let from = self.at;
        self.at += count;
        Ok(&self.buffer[from..self.at])
    }

    /// The next byte.
    ///
    /// # Errors
    /// As [`Input::take`].
    pub fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// The next bytes as an array.
    ///
    /// # Errors
    /// As [`Input::take`].
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// Passes over bytes, however many.
    ///
    /// # Errors
    /// As [`Input::take`].
    pub fn skip(&mut self, count: u64) -> Result<()> {
        self.chunks(count, |_| ())
    }

    /// Puts bytes behind those of a list, however many.
    ///
    /// # Errors
    /// As [`Input::take`].
    pub fn append(&mut self, count: u64, to: &mut Vec<u8>) -> Result<()> {
        self.chunks(count, |bytes| to.extend_from_slice(bytes))
    }

    #[inline]
    fn chunks(&mut self, mut count: u64, mut each: impl FnMut(&[u8])) -> Result<()> {
        loop {
            let here = (self.end - self.at).min(usize::try_from(count).unwrap_or(usize::MAX));
            each(&self.buffer[self.at..self.at + here]);
            self.at += here;
            count -= here as u64;
            if count == 0 {
                return Ok(());
            }
            self.refill(1)?;
        }
    }

    /// What is passed from here on is digested.
    pub fn begin(&mut self) {
        self.digested = self.at;
        if std::mem::take(&mut self.has_begun) {
            self.begun.reset();
        }
    }

    /// The digest of what was passed since [`Input::begin`]; the next one begins here. It does not depend on how the
    /// file came into the buffer.
    pub fn digest(&mut self) -> u128 {
        let rest = &self.buffer[self.digested..self.at];
        let digest = if self.has_begun {
            self.begun.update(rest);
            self.begun.digest128()
        } else {
            xxh3_128(rest)
        };
        self.begin();
        digest
    }

    /// Moves what was not taken to the front, and reads until there are so many bytes.
    #[cold]
    fn refill(&mut self, count: usize) -> Result<()> {
        if self.digested < self.at {
            self.begun.update(&self.buffer[self.digested..self.at]);
            self.has_begun = true;
        }
        self.buffer.copy_within(self.at..self.end, 0);
        (self.end, self.at, self.digested) = (self.end - self.at, 0, 0);
        while self.end < count {
            match self.source.read(&mut self.buffer[self.end..])? {
                0 => bail!("the file ends in the middle"),
                read => self.end += read,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives so many bytes at a time, whatever is asked for.
    struct Drops<'a>(&'a [u8], usize);

    impl Read for Drops<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let most = self.1.min(into.len());
            self.0.read(&mut into[..most])
        }
    }

    #[test]
    fn a_digest_is_of_the_bytes_however_they_come() {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        for drop in [7 << 10, 1 << 20, 5 << 20] {
            let mut input = Input::new(Drops(&bytes, drop));
            assert_eq!(input.take(3).unwrap(), [0, 1, 2]);
            input.begin();
            input.skip(2_500_000).unwrap();
            assert_eq!(input.digest(), xxh3_128(&bytes[3..2_500_003]));
            input.skip(10).unwrap();
            assert_eq!(input.digest(), xxh3_128(&bytes[2_500_003..2_500_013]), "the next one begins there");
            let mut rest = Vec::new();
            input.append(499_987, &mut rest).unwrap();
            assert_eq!(rest, &bytes[2_500_013..]);
            crate::messages::check("input-ends", [("one byte more", input.byte().unwrap_err())]);
        }
    }
}
