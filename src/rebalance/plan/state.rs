//! An assignment of items to hosts, with its loads and what they violate, kept up to date move by move.

use super::model::{BYTES, Band, Model, OPS, Weight};

/// Where every item is.
#[derive(Debug, Clone)]
pub(crate) struct State {
    /// Host of each item.
    pub at: Vec<usize>,
    /// Load of each host.
    pub load: Vec<Weight>,
    /// Items on each host, in no particular order.
    pub on: Vec<Vec<usize>>,
    /// Place of each item in its host's list.
    place: Vec<usize>,
    /// Bytes of items away from home.
    pub moved: i64,
    /// Number of items away from home.
    pub moves: usize,
}

impl State {
    /// Everything at home.
    pub(crate) fn new(model: &Model) -> Self {
        Self::with(model, model.items.iter().map(|item| item.home).collect())
    }

    /// The given assignment.
    pub(crate) fn with(model: &Model, at: Vec<usize>) -> Self {
        let mut state = Self {
            load: vec![[0, 0]; model.hosts.len()],
            on: vec![Vec::new(); model.hosts.len()],
            place: vec![0; at.len()],
            moved: 0,
            moves: 0,
            at,
        };
        for (item, data) in model.items.iter().enumerate() {
            let host = state.at[item];
            state.load[host] = add(state.load[host], data.weight);
            state.place[item] = state.on[host].len();
            state.on[host].push(item);
            if host != data.home {
                state.moved += data.weight[BYTES];
                state.moves += 1;
            }
        }
        state
    }

    /// Puts an item onto a host.
    pub(crate) fn put(&mut self, model: &Model, item: usize, host: usize) {
        let (from, data) = (self.at[item], &model.items[item]);
        if from == host {
            return;
        }
        let place = self.place[item];
        self.on[from].swap_remove(place);
        if let Some(other) = self.on[from].get(place) {
            self.place[*other] = place;
        }
        self.place[item] = self.on[host].len();
        self.on[host].push(item);
        self.load[from] = sub(self.load[from], data.weight);
        self.load[host] = add(self.load[host], data.weight);
        self.at[item] = host;
        if from == data.home {
            self.moved += data.weight[BYTES];
            self.moves += 1;
        } else if host == data.home {
            self.moved -= data.weight[BYTES];
            self.moves -= 1;
        }
    }

    /// Whether the item may stand on the host beside the present places of its shard's other copies.
    pub(crate) fn legal(&self, model: &Model, item: usize, host: usize) -> bool {
        let mut mates = model.items[item].mates.iter();
        model.allowed(item, host) && !mates.any(|mate| model.rules_out(item, host, *mate, self.at[*mate]))
    }

    /// Items that may not stand where they are.
    pub(crate) fn misplaced(&self, model: &Model) -> Vec<usize> {
        (0..self.at.len()).filter(|item| !self.legal(model, *item, self.at[*item])).collect()
    }
}

/// The sum of two weights.
pub(crate) fn add(a: Weight, b: Weight) -> Weight {
    [a[BYTES] + b[BYTES], a[OPS] + b[OPS]]
}

/// The difference of two weights.
pub(crate) fn sub(a: Weight, b: Weight) -> Weight {
    [a[BYTES] - b[BYTES], a[OPS] - b[OPS]]
}

/// What being outside of bands costs, in bytes.
#[derive(Debug, Clone)]
pub(crate) struct Penalty {
    /// The loads that are wanted.
    bands: Vec<Band>,
    /// The loads that must be kept; as wide as the bands or wider.
    walls: Vec<Band>,
    /// Bytes that one unit of each resource stands for.
    scale: [f64; 2],
    /// What a unit outside costs more, per unit outside, so that two small excesses are better than a large one.
    steep: Vec<[f64; 2]>,
}

/// How much worse a byte outside of a wall is than a byte outside of a band.
const WALL: f64 = 20.0;

impl Penalty {
    /// Bands to aim for; the walls are what the hosts can hold.
    pub(crate) fn new(model: &Model, bands: &[Band]) -> Self {
        Self::walled(model, bands, &model.walls())
    }

    /// Bands to aim for within walls to keep.
    pub(crate) fn walled(model: &Model, bands: &[Band], walls: &[Band]) -> Self {
        let ops = if model.total[OPS] > 0 { model.total[BYTES] as f64 / model.total[OPS] as f64 } else { 0.0 };
        let steep = model.hosts.iter().map(|host| host.target.map(|target| 1.0 / target.max(1.0))).collect();
        Self { bands: bands.to_vec(), walls: walls.to_vec(), scale: [1.0, ops], steep }
    }

    /// The cost of one host with that load; 0 exactly when it is within its band and walls.
    pub(crate) fn of(&self, host: usize, load: Weight) -> f64 {
        let (band, wall) = (&self.bands[host], &self.walls[host]);
        let mut cost = 0.0;
        for resource in [BYTES, OPS] {
            let outside = outside(band, resource, load);
            if outside > 0 {
                let outside = outside as f64;
                cost += outside * self.scale[resource] * (1.0 + outside * self.steep[host][resource]);
                cost += outside_of(wall, resource, load) * self.scale[resource] * WALL;
            }
        }
        cost
    }

    /// The cost of all hosts.
    pub(crate) fn total(&self, state: &State) -> f64 {
        state.load.iter().enumerate().map(|(host, load)| self.of(host, *load)).sum()
    }
}

/// How far a load is outside of a band, in units of the resource.
pub(crate) fn outside(band: &Band, resource: usize, load: Weight) -> i64 {
    (load[resource] - band.hi[resource]).max(band.lo[resource] - load[resource]).max(0)
}

fn outside_of(band: &Band, resource: usize, load: Weight) -> f64 {
    outside(band, resource, load) as f64
}
