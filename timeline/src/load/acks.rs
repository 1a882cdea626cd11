//! The file of acknowledgements: one line `uid id` for each, appended, on its way to the file within 100 ms.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{File, OpenOptions},
    io::{BufWriter, Write as _},
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Context as _;

const FLUSH_EVERY: Duration = Duration::from_millis(100);

/// Store of acknowledged writes.
pub(super) struct Acks {
    sender: Sender<(u64, u64)>,
    writer: JoinHandle<std::io::Result<()>>,
}

impl Acks {
    pub(super) fn append(path: &Path) -> anyhow::Result<Acks> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.with_context(|| format!("opening {}", path.display()))?;
        let (sender, receiver) = channel();
        Ok(Acks { sender, writer: std::thread::spawn(move || write(BufWriter::new(file), &receiver)) })
    }

    /// A sender of `(uid, id)`. The file is complete once all of them are dropped and [`Acks::finish`] has returned.
    pub(super) fn sender(&self) -> Sender<(u64, u64)> {
        self.sender.clone()
    }

    /// Waits until everything is in the file.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        drop(self.sender);
        let written = self.writer.join().map_err(|_| anyhow::anyhow!("the thread that notes acknowledgements died"))?;
        written.context("noting acknowledgements")
    }
}

fn write(mut file: BufWriter<File>, receiver: &Receiver<(u64, u64)>) -> std::io::Result<()> {
    let mut flushed = Instant::now();
    loop {
        match receiver.recv_timeout(FLUSH_EVERY.saturating_sub(flushed.elapsed())) {
            Ok((uid, id)) => writeln!(file, "{uid} {id}")?,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return file.flush(),
        }
        if flushed.elapsed() >= FLUSH_EVERY {
            file.flush()?;
            flushed = Instant::now();
        }
    }
}

/// The acknowledged ids of each user. A last line without its end was cut off by a kill, and does not count.
pub(super) fn read(path: &Path) -> anyhow::Result<BTreeMap<u64, BTreeSet<u64>>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let mut acks: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for (number, line) in text.split_inclusive('\n').enumerate().filter(|(_, line)| line.ends_with('\n')) {
        let pair = line.trim_end().split_once(' ').and_then(|(uid, id)| Some((uid.parse().ok()?, id.parse().ok()?)));
        let (uid, id) = pair.with_context(|| format!("{}:{}: not \"uid id\"", path.display(), number + 1))?;
        acks.entry(uid).or_default().insert(id);
    }
    Ok(acks)
}
