//! What no plan can beat.

use super::model::{BYTES, Band, Model};
use super::state::State;

/// Bytes that have to move whatever the plan: what hosts have over their bands, or lack below them, whichever is more
/// in sum; and whatever stands where it may not stay.
pub(crate) fn lower_bound(model: &Model, bands: &[Band]) -> i64 {
    let home = State::new(model);
    let (mut over, mut under) = (0, 0);
    for (host, band) in bands.iter().enumerate() {
        let load = home.load[host][BYTES];
        over += (load - band.hi[BYTES]).max(0);
        under += (band.lo[BYTES] - load).max(0);
    }
    over.max(under)
}
