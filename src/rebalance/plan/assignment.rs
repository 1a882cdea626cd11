//! An assignment of copies to hosts, with its loads and range violations, updated incrementally.

use super::model::Model;
use super::resource::HostResource::{self, Bytes};
use super::resource::{LoadRange, PerResource, Weight};

/// The host of every item, and the loads that follow from it.
#[derive(Debug, Clone)]
pub(crate) struct Assignment {
    /// Host of each item.
    pub host_of: Vec<usize>,
    /// Load of each host.
    pub load: Vec<Weight>,
    /// Items on each host, in no particular order.
    pub items_on: Vec<Vec<usize>>,
    /// Position of each item in its host's list.
    position: Vec<usize>,
    /// Bytes of items away from home.
    pub moved: i64,
    /// Number of items away from home.
    pub moves: usize,
}

impl Assignment {
    /// Creates the assignment with every item at home.
    pub(crate) fn new(model: &Model) -> Self {
        Self::from_hosts(model, model.items.iter().map(|item| item.home).collect())
    }

    /// Creates the assignment with the given host of each item.
    pub(crate) fn from_hosts(model: &Model, host_of: Vec<usize>) -> Self {
        let mut state = Self {
            load: vec![Weight::default(); model.hosts.len()],
            items_on: vec![Vec::new(); model.hosts.len()],
            position: vec![0; host_of.len()],
            moved: 0,
            moves: 0,
            host_of,
        };
        for (item, data) in model.items.iter().enumerate() {
            let host = state.host_of[item];
            state.load[host] = state.load[host] + data.weight;
            state.position[item] = state.items_on[host].len();
            state.items_on[host].push(item);
            if host != data.home {
                state.moved += data.weight[Bytes];
                state.moves += 1;
            }
        }
        state
    }

    /// Reassigns an item to a host.
    pub(crate) fn reassign(&mut self, model: &Model, item: usize, host: usize) {
        let (from, data) = (self.host_of[item], &model.items[item]);
        if from == host {
            return;
        }
        let position = self.position[item];
        self.items_on[from].swap_remove(position);
        if let Some(other) = self.items_on[from].get(position) {
            self.position[*other] = position;
        }
        self.position[item] = self.items_on[host].len();
        self.items_on[host].push(item);
        self.load[from] = self.load[from] - data.weight;
        self.load[host] = self.load[host] + data.weight;
        self.host_of[item] = host;
        if from == data.home {
            self.moved += data.weight[Bytes];
            self.moves += 1;
        } else if host == data.home {
            self.moved -= data.weight[Bytes];
            self.moves -= 1;
        }
    }

    /// Returns whether the item may be on the host, given the current hosts of the other copies of its shard.
    pub(crate) fn is_legal(&self, model: &Model, item: usize, host: usize) -> bool {
        let mut siblings = model.items[item].siblings.iter();
        model.is_allowed(item, host)
            && !siblings.any(|sibling| model.excludes(item, host, *sibling, self.host_of[*sibling]))
    }

    /// Returns the items that may not be on their current host.
    pub(crate) fn misplaced_items(&self, model: &Model) -> Vec<usize> {
        (0..self.host_of.len()).filter(|item| !self.is_legal(model, *item, self.host_of[*item])).collect()
    }
}

/// The cost of loads outside their allowed range, in bytes.
#[derive(Debug, Clone)]
pub(crate) struct Penalty {
    /// The loads to aim for.
    ranges: Vec<LoadRange>,
    /// The loads that are never acceptable outside; at least as wide as the ranges.
    hard_limits: Vec<LoadRange>,
    /// Bytes per unit of each resource.
    scale: PerResource<f64>,
    /// Quadratic term per host and resource, so that two small violations cost less than one large one.
    curvature: Vec<PerResource<f64>>,
}

/// Cost of a byte outside a hard limit, relative to a byte outside a range.
const HARD_LIMIT_FACTOR: f64 = 20.0;

impl Penalty {
    /// Creates a penalty with the capacities of the hosts as hard limits.
    pub(crate) fn new(model: &Model, ranges: &[LoadRange]) -> Self {
        Self::with_hard_limits(model, ranges, &model.hard_limits())
    }

    /// Creates a penalty with other hard limits.
    pub(crate) fn with_hard_limits(model: &Model, ranges: &[LoadRange], hard_limits: &[LoadRange]) -> Self {
        let curvature = model
            .hosts
            .iter()
            .map(|host| PerResource::from_fn(|resource| 1.0 / host.target[resource].max(1.0)))
            .collect();
        Self { ranges: ranges.to_vec(), hard_limits: hard_limits.to_vec(), scale: model.bytes_per_unit(), curvature }
    }

    /// Returns the cost of one host with that load; 0 exactly when the load is within its range and hard limit.
    pub(crate) fn of_host(&self, host: usize, load: Weight) -> f64 {
        let (range, hard_limit) = (&self.ranges[host], &self.hard_limits[host]);
        let mut cost = 0.0;
        for resource in HostResource::ALL {
            let violation = range.violation(resource, load);
            if violation > 0 {
                let violation = violation as f64;
                cost += violation * self.scale[resource] * (1.0 + violation * self.curvature[host][resource]);
                cost += hard_limit.violation(resource, load) as f64 * self.scale[resource] * HARD_LIMIT_FACTOR;
            }
        }
        cost
    }

    /// Returns the cost of all hosts.
    pub(crate) fn total(&self, state: &Assignment) -> f64 {
        state.load.iter().enumerate().map(|(host, load)| self.of_host(host, *load)).sum()
    }
}

/// Returns whether every load is within its range.
pub(crate) fn is_within(state: &Assignment, ranges: &[LoadRange]) -> bool {
    (0..ranges.len()).all(|host| is_host_within(state, ranges, host))
}

/// Returns whether the loads of one host are within its range.
pub(crate) fn is_host_within(state: &Assignment, ranges: &[LoadRange], host: usize) -> bool {
    ranges[host].contains(state.load[host])
}
