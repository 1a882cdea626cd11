//! The resources of a host, and one value for each of them.
//!
//! Every search step goes through [`HostResource::ALL`], so a new resource or a new limit per host needs no change
//! there: `model` says how much of it a copy uses and a host may use. Its `match` expressions are exhaustive.

use std::ops::{Add, Index, IndexMut, Sub};

/// A quantity that copies use on their hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum HostResource {
    /// Memory in bytes.
    Bytes,
    /// Thousandths of operations per second; only primaries use them.
    Ops,
    /// Number of copies: one per primary and per replica.
    Shards,
}

impl HostResource {
    /// All resources, in the order of the values in a [`PerResource`].
    pub(crate) const ALL: [Self; 3] = [Self::Bytes, Self::Ops, Self::Shards];
}

/// One value per resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PerResource<T>([T; HostResource::ALL.len()]);

/// The load of a copy or a host, in units of each resource. Integers keep sums exact, so that an assignment's
/// feasibility does not depend on the order in which it was reached.
pub(crate) type Weight = PerResource<i64>;

impl<T> PerResource<T> {
    /// Creates the values from a function of the resource.
    pub(crate) fn from_fn(value: impl FnMut(HostResource) -> T) -> Self {
        Self(HostResource::ALL.map(value))
    }
}

impl<T> Index<HostResource> for PerResource<T> {
    type Output = T;

    fn index(&self, resource: HostResource) -> &T {
        &self.0[resource as usize]
    }
}

impl<T> IndexMut<HostResource> for PerResource<T> {
    fn index_mut(&mut self, resource: HostResource) -> &mut T {
        &mut self.0[resource as usize]
    }
}

impl Add for Weight {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self::from_fn(|resource| self[resource] + other[resource])
    }
}

impl Sub for Weight {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self::from_fn(|resource| self[resource] - other[resource])
    }
}

/// The loads that a host may end with, inclusive, per resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LoadRange {
    pub min: Weight,
    pub max: Weight,
}

impl LoadRange {
    /// Returns whether the load is within the range.
    pub(crate) fn contains(&self, load: Weight) -> bool {
        self.is_below_max(load) && self.is_above_min(load)
    }

    /// Returns whether the load exceeds no maximum.
    pub(crate) fn is_below_max(&self, load: Weight) -> bool {
        HostResource::ALL.iter().all(|resource| load[*resource] <= self.max[*resource])
    }

    /// Returns whether the load reaches every minimum.
    pub(crate) fn is_above_min(&self, load: Weight) -> bool {
        HostResource::ALL.iter().all(|resource| load[*resource] >= self.min[*resource])
    }

    /// Returns how far a load is outside the range, in units of the resource.
    pub(crate) fn violation(&self, resource: HostResource, load: Weight) -> i64 {
        (load[resource] - self.max[resource]).max(self.min[resource] - load[resource]).max(0)
    }
}
