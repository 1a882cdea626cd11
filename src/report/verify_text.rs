//! The outcome of `shards verify`.

use serde_json::json;

use super::Reporter;
use crate::plan::format_count;
use crate::rebalance::verify::VerifiedPair;

/// Prints the comparison of two instances.
pub fn report_verified_pair(VerifiedPair { pair, result }: &VerifiedPair, reporter: &Reporter) {
    let (shard, from, to) = (pair.spec.header.shard, &pair.spec.record.from, &pair.spec.record.to);
    let verified = match result {
        Ok(verified) => verified,
        Err(error) => return reporter.report_failure(&format!("shard {shard}"), &format!("{error:#}"), None),
    };
    reporter.print_json(
        "verified",
        json!({ "shard": shard, "from": from, "to": to, "equal": verified.is_equal(), "result": verified }),
    );
    if verified.is_equal() {
        let (keys, retried) = (format_count(verified.keys, "key"), verified.retried);
        reporter.print_data(&format!("shard {shard}: {from} and {to} are equal: {keys} ({retried} compared again)"));
    } else {
        let named = [&verified.differing[..], &verified.missing, &verified.extra].concat().join(", ");
        reporter.report_failure(&format!("shard {shard}"), &format!("{from} and {to} differ: {named}"), None);
    }
}
