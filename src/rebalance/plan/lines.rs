//! A line: one assignment that is disturbed again and again, mended, and replaced where it then moves no more (iterated
//! local search; Lourenço, Martin, Stützle, "Iterated local search", 2003).
//!
//! A kick leaves the bands and a walk finds back into them, far from where it was; where bands are so narrow that walks
//! seldom do, a shake stays within them: branch and bound, content with what moves a little more.

use super::dual::{Dual, Multipliers};
use super::exact::{self, Part};
use super::rng::Rng;
use super::search::{heat, within};
use super::state::{Penalty, State};
use super::walk::{Limits, Prices, Walk};

/// How often a line is kicked, and how often it is shaken after that.
const KICKS: u64 = 12;
const SHAKES: u64 = 8;
/// One of so many items changes its place in a kick; the steps of the walk after it, and how hot that begins.
const KICKED: usize = 10;
const STEPS: usize = 40_000;
const WARM: f64 = 0.3;
/// How much hotter than others a walk ends: branch and bound does the rest.
const HOTTER: f64 = 5.0;
/// By this factor a price swings, for the bands that are seldom met at a steady one.
const SWING: f64 = 1.003;
/// How many parts a shake rearranges, and how many it tries for that at most; each may move one part in so many more.
const SHAKEN: usize = 30;
const TRIES: usize = 600;
const DEARER: i64 = 200;

/// A walk of so many steps, and whether its price swings.
pub(crate) struct Stroll {
    pub steps: usize,
    /// How hot it begins, relative to other walks.
    pub hot: f64,
    pub swings: bool,
    pub seed: u64,
}

/// What all lines have in common, and the starts that they begin at.
pub(crate) struct Lines<'a> {
    pub dual: &'a Dual<'a>,
    pub prices: &'a Multipliers,
    pub penalty: &'a Penalty,
    /// How each disturbed assignment is mended.
    pub mend: Part,
}

impl Lines<'_> {
    /// Follows one line to its end.
    pub(crate) fn follow(&self, mut state: State, seed: u64) -> State {
        for round in 0..KICKS + SHAKES {
            if state.moved <= self.mend.goal {
                break;
            }
            let seed = seed.wrapping_add(round.wrapping_mul(0x9191));
            let disturbed = if round < KICKS { self.kicked(&state, round, seed) } else { self.shaken(&state, seed) };
            let mended = self.mended(disturbed, seed);
            if within(&mended, self.dual.bands) && mended.moved <= state.moved {
                state = mended;
            }
        }
        state
    }

    /// What a walk finds from there.
    pub(crate) fn walked(&self, state: State, stroll: &Stroll) -> State {
        let mut heat = heat(self.dual.model, stroll.steps);
        heat.hot *= stroll.hot;
        heat.cold *= HOTTER;
        let swing = if stroll.swings { SWING } else { 1.0 };
        let walk = Walk::new(self.dual.model, self.penalty, state, stroll.seed);
        let mut walk = walk.priced(Prices { swing, ..Prices::steady(1.0, 4.0) }, Limits::NONE);
        walk.run(heat, self.mend.goal);
        walk.into_best()
    }

    /// What branch and bound makes of it, where it is within the bands.
    pub(crate) fn mended(&self, mut state: State, seed: u64) -> State {
        exact::improve(self.dual, self.prices, &mut state, self.mend, seed);
        state
    }

    /// Some items go home or anywhere, and a walk begins there.
    fn kicked(&self, state: &State, round: u64, seed: u64) -> State {
        let (model, mut state, mut rng) = (self.dual.model, state.clone(), Rng::new(seed));
        let movable: Vec<usize> = (0..state.at.len()).filter(|item| model.items[*item].movable).collect();
        for _ in 0..movable.len() / KICKED {
            let item = movable[rng.below(movable.len())];
            let host = if rng.below(2) == 0 { model.items[item].home } else { rng.below(model.hosts.len()) };
            if state.legal(model, item, host) {
                state.put(model, item, host);
            }
        }
        self.walked(state, &Stroll { steps: STEPS, hot: WARM, swings: round.is_multiple_of(2), seed })
    }

    /// Some parts are otherwise, and little more moves.
    fn shaken(&self, state: &State, seed: u64) -> State {
        let (more, mut state, mut rng) = (state.moved / DEARER, state.clone(), Rng::new(seed ^ 0x5ba6e));
        let tried = (0..TRIES).filter(|_| exact::otherwise(self.dual, self.prices, &mut state, more, &mut rng));
        tried.take(SHAKEN).for_each(drop);
        state
    }
}

#[cfg(test)]
mod tests {
    use super::super::bounds::counted;
    use super::super::model::Model;
    use super::super::starts::tests::{SIZE, astray, fleet};
    use super::super::wishes::Wishes;
    use super::*;

    #[test]
    fn a_kick_leads_elsewhere_within_the_bands() {
        let observation = fleet();
        let model = Model::new(&observation, &Wishes::default());
        let bands = model.bands();
        let (dual, prices, penalty) =
            (Dual::new(&model, &bands), Multipliers::none(&model), Penalty::new(&model, &bands));
        let mend = Part { hosts: 2, items: 2, goal: counted(&model, &bands), patience: 0 };
        let lines = Lines { dual: &dual, prices: &prices, penalty: &penalty, mend };
        let fewest = lines.follow(astray(&model), 1);
        assert_eq!(fewest.moved, mend.goal, "a line gets there without any mending");
        let kicked = lines.kicked(&fewest, 0, 1);
        assert!(within(&kicked, &bands));
        assert_ne!(kicked.at, fewest.at);
    }

    #[test]
    fn a_part_is_otherwise_within_the_bands_and_moves_little_more() {
        let observation = fleet();
        let model = Model::new(&observation, &Wishes { tolerance: 0.3, ..Wishes::default() });
        let bands = model.bands();
        let (dual, prices, mut rng) = (Dual::new(&model, &bands), Multipliers::none(&model), Rng::new(1));
        for more in [0, SIZE as i64] {
            let before = astray(&model);
            let mut state = before.clone();
            assert!(exact::otherwise(&dual, &prices, &mut state, more, &mut rng));
            assert_ne!(state.at, before.at);
            assert!(within(&state, &bands) && state.misplaced(&model).is_empty());
            assert!(state.moved < before.moved + more.max(1));
        }
    }
}
