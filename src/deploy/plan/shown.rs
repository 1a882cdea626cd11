//! A plan as it is shown: digests of sensitive files under the inventory's key, so that nobody can test guesses.

use crate::plan::{Digest, DigestKey, HostPlan};
use crate::protocol::deploy::{DesiredState, ObservedPath, ServiceObservation};

/// Replaces the digests of sensitive files. Without a key there is no digest: an inventory without secrets can still
/// have files that its user calls sensitive.
pub fn hide_sensitive_digests(
    plan: &mut HostPlan,
    desired: &DesiredState,
    observation: &ServiceObservation,
    key: Option<&DigestKey>,
) {
    let describe = |digest: &Digest| match key {
        Some(key) => key.authenticate(digest.as_str().as_bytes()).short_hex().to_owned(),
        None => "hidden".to_owned(),
    };
    let configs = desired.config.configs.iter().zip(&observation.configs);
    for (config, observed) in configs.filter(|(config, _)| config.sensitive) {
        let resource = format!("config {}", config.dest.display());
        let rows = plan.rows.iter_mut().filter(|row| row.resource == resource);
        for change in rows.flat_map(|row| &mut row.changes).filter(|change| change.attribute == "content") {
            change.to = Some(format!("{}, {} bytes", describe(&config.digest), config.size));
            if let (Some(from), ObservedPath::File { digest, .. }) = (&mut change.from, &observed.state) {
                *from = describe(digest);
            }
        }
    }
}
