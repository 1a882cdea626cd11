//! Removes the oldest releases, and what killed runs left; never one that serves or could be returned to.

use anyhow::Result;

use super::layout::{Layout, remove_all};
use super::releases::Kept;
use super::state::State;
use crate::wire::deploy::{PARTIAL, Reply, Version};
use crate::wire::{Event, Sink};

pub(super) fn prune(layout: &Layout, keep: usize, sink: &dyn Sink) -> Result<Reply> {
    let mut state = State::read(layout)?;
    let (kept, partial) = Kept::all(layout)?;
    let mut gone = Vec::new();
    let current = layout.points_to()?;
    let in_use = |version: &Version| state.is_used(version) || current.as_deref() == Some(version.as_str());
    let surplus = kept.len().saturating_sub(keep.max(1));
    let spare = kept.iter().map(|kept| &kept.manifest.version).filter(|version| !in_use(version));
    let spare: Vec<Version> = spare.take(surplus).cloned().collect();
    for version in spare {
        sink.emit(Event::Note { text: format!("removing release {version}") });
        // Renamed first: a kill in the middle leaves a folder that counts as incomplete, not as a damaged release.
        let partial = layout.partial(&version);
        remove_all(&partial)?;
        std::fs::rename(layout.release(&version), &partial)?;
        state.forget(&version);
        state.write(layout)?;
        remove_all(&partial)?;
        gone.push(version.to_string());
    }
    for name in partial {
        remove_all(&layout.releases().join(format!("{name}{PARTIAL}")))?;
        gone.push(format!("{name}{PARTIAL}"));
    }
    Ok(Reply::Pruned(gone))
}
