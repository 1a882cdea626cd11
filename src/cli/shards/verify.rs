//! `dunlin shards verify`.

use serde_json::json;

use super::Work;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::shard_run::{Tally, begin, show};
use crate::rebalance::resume::journals;
use crate::rebalance::verify::{Pair, pairs, verify};
use crate::report::Bars;

impl Work<'_> {
    /// Compares every two copies of the shards; exit 1 where keys differ.
    ///
    /// # Errors
    /// A host does not answer, a lock.
    pub async fn verify(&self, shards: &[u32], tally: &mut Tally) -> Result<Exit, Failure> {
        let fleet = self.files.fleet(self.common)?;
        let mut ground = self.files.ground(&fleet, self.common).await?;
        begin(self.files, &mut ground, ("shards verify", &self.id), &self.reporter).await?;
        let mut pairs = pairs(&ground, self.files.map()?, &journals(&ground).await?)?;
        pairs.retain(|pair| shards.is_empty() || shards.contains(&pair.spec.job.shard));
        if pairs.is_empty() {
            self.reporter.data("no shard has a second copy to compare with");
            return Ok(Exit::Done);
        }
        let reporter = &self.reporter;
        let bars = Bars::new(reporter.json, reporter.style.quiet);
        let watch = |host: &str, event: &crate::wire::Event| show(reporter, &bars, host, event);
        let results = fleet.each(&pairs, |pair| verify(&ground, pair, &watch)).await;
        bars.finish();
        let mut differing = 0;
        for (Pair { spec, .. }, result) in pairs.iter().zip(results) {
            match result {
                Ok(verified) => {
                    reporter.line(
                        "verified",
                        json!({
                            "shard": spec.job.shard, "from": spec.from, "to": spec.to,
                            "equal": verified.is_equal(), "result": verified,
                        }),
                    );
                    if verified.is_equal() {
                        let retried = verified.retried;
                        reporter.data(&format!(
                            "shard {}: {} and {}: {} keys are equal ({retried} looked at again)",
                            spec.job.shard, spec.from, spec.to, verified.keys
                        ));
                    } else {
                        differing += 1;
                        let named = [&verified.differing[..], &verified.missing, &verified.extra].concat().join(", ");
                        let text = format!("{} and {} differ: {named}", spec.from, spec.to);
                        reporter.failed(&format!("shard {}", spec.job.shard), &text, None);
                    }
                }
                Err(error) => {
                    tally.failed += 1;
                    reporter.failed(&format!("shard {}", spec.job.shard), &format!("{error:#}"), None);
                }
            }
        }
        Ok(match (tally.failed, differing) {
            (0, 0) => Exit::Done,
            (0, _) => Exit::Error,
            _ => Exit::Partial,
        })
    }
}
