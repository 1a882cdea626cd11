//! Large keys, piece by piece: at first while they are written to, and a piece that differs again and again while
//! writes are paused.

use anyhow::{Result, bail};

use super::write_pause::MAX_PAUSE_ATTEMPTS;
use super::{LiveComparison, MAX_LIVE_RETRIES, RETRY_INTERVAL, value_bytes};
use crate::rebalance::host::verify::key_state::{Key, KeyVerdict};
use crate::rebalance::host::verify::large_key::PieceReader;
use crate::rebalance::host::verify::list_windows::{ListReader, ListWindow};
use crate::rebalance::host::verify::piece::Piece;

/// The windows of a list at source and target; `None` where the key is no list any more.
type WindowPair = (Option<ListWindow>, Option<ListWindow>);

impl LiveComparison<'_> {
    /// Compares a large key piece by piece.
    pub(super) fn compare_large_key(&mut self, key: &Key, memory: u64) -> Result<KeyVerdict> {
        let Some(mut reader) = PieceReader::new(self.source, key, memory)? else {
            // Deleted meanwhile; the replication stream deletes it at the target.
            return Ok(KeyVerdict::Equal);
        };
        if let Some(list) = reader.list_reader(self.source)?
            && !self.compare_list(key, list)?
        {
            return Ok(KeyVerdict::Differs);
        }
        while let Some(piece) = reader.next_piece(self.source)? {
            if !self.is_piece_equal(key, &piece)? {
                return Ok(KeyVerdict::Differs);
            }
            self.finish_batch()?;
        }
        Ok(KeyVerdict::Equal)
    }

    fn is_piece_equal(&mut self, key: &Key, piece: &Piece) -> Result<bool> {
        for _ in 0..MAX_LIVE_RETRIES {
            if self.compare_piece(piece)? {
                return Ok(true);
            }
            self.verified.retried += 1;
            std::thread::sleep(RETRY_INTERVAL);
        }
        self.repeat_with_writes_paused(key, |comparison| comparison.compare_piece(piece))
    }

    fn compare_piece(&mut self, piece: &Piece) -> Result<bool> {
        // An error answers a key of another type: it differs, and is compared again.
        let (here, there) = self.source.run_batch_with(&piece.cmds, self.target, &piece.cmds)?;
        self.unpaid_bytes += here.iter().map(value_bytes).sum::<u64>();
        Ok(here.into_iter().zip(there).all(|(here, there)| (piece.normalize)(here) == (piece.normalize)(there)))
    }

    /// Compares the elements of a list, except for its length.
    fn compare_list(&mut self, key: &Key, mut reader: ListReader) -> Result<bool> {
        while !reader.is_finished() {
            let Some(window) = self.find_equal_window(key, &reader)? else { return Ok(false) };
            // Of another type at both, and so without elements.
            let Some(window) = window else { return Ok(true) };
            reader.advance(&window);
            self.finish_batch()?;
        }
        Ok(true)
    }

    /// Compares the next window until it is equal; the inner option is that of [`WindowPair`].
    fn find_equal_window(&mut self, key: &Key, reader: &ListReader) -> Result<Option<Option<ListWindow>>> {
        for _ in 0..MAX_LIVE_RETRIES {
            match self.read_windows(reader)? {
                (Some(here), Some(there)) if reader.is_found_at(&here, &there) => return Ok(Some(Some(here))),
                (None, None) => return Ok(Some(None)),
                _ => {}
            }
            self.verified.retried += 1;
            std::thread::sleep(RETRY_INTERVAL);
        }
        match self.repeat_with_writes_paused(key, |comparison| comparison.read_windows(reader))? {
            (Some(here), Some(there)) => Ok(reader.is_identical(&here, &there).then_some(Some(here))),
            (here, there) => Ok((here.is_none() && there.is_none()).then_some(None)),
        }
    }

    fn read_windows(&mut self, reader: &ListReader) -> Result<WindowPair> {
        let cmds = [[reader.source_command()], [reader.target_command()]];
        let (here, there) = self.source.run_batch_with(&cmds[0], self.target, &cmds[1])?;
        self.unpaid_bytes += here.iter().map(value_bytes).sum::<u64>();
        let source = here.first().and_then(|answer| reader.parse_source(answer));
        Ok((source, there.first().and_then(|answer| reader.parse_target(answer))))
    }

    /// Runs a comparison while writes are paused, at one offset.
    fn repeat_with_writes_paused<T>(
        &mut self,
        key: &Key,
        mut compare: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<T> {
        for _ in 0..MAX_PAUSE_ATTEMPTS {
            if let (Some(found), _) = self.run_with_writes_paused(&mut compare)? {
                return Ok(found);
            }
            std::thread::sleep(RETRY_INTERVAL);
        }
        let key = String::from_utf8_lossy(key);
        bail!("shard {}: cannot compare {key}: the target does not catch up in time", self.spec.header.shard)
    }
}
