//! Reading everything back: is each acknowledged entry there?

use std::{collections::BTreeSet, path::Path};

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::{
    Base, acks,
    client::{ApiCall, Client},
};
use crate::entries::store::CAP;

const READERS: usize = 16;

/// Findings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct VerifySummary {
    /// Entries that were acknowledged.
    pub acked: u64,
    /// Acknowledged entries that are not there, though the cap leaves room for them.
    pub lost: u64,
    /// Entries that are there without a noted acknowledgement (writes whose reply was never heard).
    pub extra: u64,
}

#[derive(Deserialize)]
struct TimelinePage {
    entries: Vec<u64>,
    next_max_id: Option<u64>,
}

/// Reads the timeline of every user in the file of acknowledgements. Error: one cannot be read.
pub async fn verify(bases: Vec<Base>, path: &Path) -> anyhow::Result<VerifySummary> {
    let mut shares: Vec<Vec<(u64, BTreeSet<u64>)>> = (0..READERS).map(|_| Vec::new()).collect();
    for (index, user) in acks::read(path)?.into_iter().enumerate() {
        shares[index % READERS].push(user);
    }
    let mut readers = JoinSet::new();
    for (number, users) in shares.into_iter().enumerate() {
        let mut client = Client::new(bases.clone(), number);
        readers.spawn(async move {
            let mut summary = VerifySummary::default();
            for (uid, acked) in users {
                let stored = timeline(&mut client, uid).await?;
                summary.add(compare(&acked, &stored));
            }
            Ok::<VerifySummary, anyhow::Error>(summary)
        });
    }
    let mut summary = VerifySummary::default();
    while let Some(part) = readers.join_next().await {
        summary.add(part??);
    }
    Ok(summary)
}

impl VerifySummary {
    fn add(&mut self, other: VerifySummary) {
        self.acked += other.acked;
        self.lost += other.lost;
        self.extra += other.extra;
    }
}

/// Only the newest entries of all, noted or not, must be there: the others may have been trimmed.
fn compare(acked: &BTreeSet<u64>, stored: &BTreeSet<u64>) -> VerifySummary {
    let all: BTreeSet<&u64> = acked.union(stored).collect();
    VerifySummary {
        acked: acked.len() as u64,
        lost: all.into_iter().rev().take(CAP).filter(|id| !stored.contains(id)).count() as u64,
        extra: stored.difference(acked).count() as u64,
    }
}

async fn timeline(client: &mut Client, uid: u64) -> anyhow::Result<BTreeSet<u64>> {
    let mut stored = BTreeSet::new();
    let mut cursor = String::new();
    loop {
        let call = ApiCall::get(format!("/v1/timelines/{uid}?limit={CAP}{cursor}"), None);
        let page: TimelinePage = client.fetch(&call).await?;
        stored.extend(&page.entries);
        match page.next_max_id {
            Some(next) => cursor = format!("&max_id={next}"),
            None => return Ok(stored),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{VerifySummary, compare};

    fn set(ids: impl IntoIterator<Item = u64>) -> BTreeSet<u64> {
        ids.into_iter().collect()
    }

    #[test]
    fn what_counts_as_lost() {
        assert_eq!(compare(&set([1, 2, 3]), &set([1, 3, 4])), VerifySummary { acked: 3, lost: 1, extra: 1 });
        // 1500 were acknowledged, the newest 1000 are kept
        assert_eq!(compare(&set(0..1500), &set(500..1500)), VerifySummary { acked: 1500, lost: 0, extra: 0 });
        assert_eq!(compare(&set(0..1500), &set(501..1500)), VerifySummary { acked: 1500, lost: 1, extra: 0 });
        // an entry that was not noted has pushed the oldest out
        assert_eq!(compare(&set(0..1000), &set(1..1001)), VerifySummary { acked: 1000, lost: 0, extra: 1 });
    }
}
