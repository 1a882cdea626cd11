//! Selectors: `redis`, `redis-01`, `redis-*`, `redis-[01:03]`, `zone_a`, unions `a:b` (or `a,b`), intersections `a:&b`,
//! exclusions `a:!b`.
//!
//! Evaluated as Ansible does: first all unions, then the intersections, then the exclusions, wherever they stand. With
//! no union at all one starts from `all`. The result is in the order of the inventory.

use std::fmt;
use std::str::FromStr;

use super::diagnostic::nearest_words;
use super::host::{Inventory, InventoryHost};
use super::range;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SetOperator {
    Union,
    Intersection,
    Exclusion,
}

/// An operator and the names it applies to: several where a range was written, which then count as their union.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SelectorTerm {
    operator: SetOperator,
    names: Vec<String>,
}

/// A parsed selector; displays as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    text: String,
    terms: Vec<SelectorTerm>,
}

/// Error of a text that is not a selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Nothing is in it.
    #[error("the selector is empty; `all` selects every host")]
    Empty,
    /// Two separators without a term in between, or one at an end.
    #[error("the selector `{0}` has an empty term")]
    EmptyTerm(String),
    /// A character that no name, glob or range has, or a bad range.
    #[error("`{term}` cannot be a selector's term: {why}")]
    InvalidTerm {
        /// The term.
        term: String,
        /// Reason why it is invalid.
        why: String,
    },
}

/// Error of a selector that gives no hosts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// A term that is no host, group or zone, or a glob that matches none.
    #[error("no host, group or zone `{term}`{}", suggestion_text(similar))]
    UnknownTerm {
        /// The term.
        term: String,
        /// Names near it, nearest first.
        similar: Vec<String>,
    },
    /// The terms are known, but together they select no host.
    #[error("`{0}` leaves no host")]
    NoHosts(String),
}

fn suggestion_text(near: &[String]) -> String {
    match near {
        [] => String::new(),
        near => format!("; did you mean `{}`?", near.join("`, `")),
    }
}

impl Selector {
    /// Returns the selector of all hosts.
    pub fn all_hosts() -> Self {
        Self {
            text: "all".to_owned(),
            terms: vec![SelectorTerm { operator: SetOperator::Union, names: vec!["all".to_owned()] }],
        }
    }

    /// Returns the selector as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.trim().is_empty() {
            return Err(SelectorError::Empty);
        }
        let mut terms = Vec::new();
        for part in split_terms(text) {
            let (operator, term) = match part.trim() {
                part if part.starts_with('&') => (SetOperator::Intersection, part[1..].trim_start()),
                part if part.starts_with('!') => (SetOperator::Exclusion, part[1..].trim_start()),
                part => (SetOperator::Union, part),
            };
            if term.is_empty() {
                return Err(SelectorError::EmptyTerm(text.to_owned()));
            }
            let fail = |why: String| SelectorError::InvalidTerm { term: term.escape_debug().to_string(), why };
            if let Some(bad) = term.chars().find(|c| !c.is_ascii_alphanumeric() && !"._-*?[:]".contains(*c)) {
                return Err(fail(format!("no name contains `{}`", bad.escape_debug())));
            }
            let names = range::expand_ranges(term).map_err(fail)?;
            terms.push(SelectorTerm { operator, names });
        }
        Ok(Self { text: text.to_owned(), terms })
    }
}

/// Splits at `:` and `,` outside of brackets.
fn split_terms(text: &str) -> Vec<&str> {
    let mut inside = false;
    text.split(|c| {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            _ => {}
        }
        !inside && (c == ':' || c == ',')
    })
    .collect()
}

impl Inventory {
    /// Returns the hosts that a selector matches, in the order of the inventory.
    ///
    /// # Errors
    /// Returns [`SelectError::UnknownTerm`] if a term names nothing (also in an exclusion: a typo there would select
    /// too much), and [`SelectError::NoHosts`] if no host is left.
    pub fn select_hosts(&self, selector: &Selector) -> Result<Vec<&InventoryHost>, SelectError> {
        let of = |operator| selector.terms.iter().filter(move |term| term.operator == operator);
        let mut chosen = vec![of(SetOperator::Union).next().is_none(); self.hosts.len()];
        for term in of(SetOperator::Union) {
            self.term_members(term)?.into_iter().for_each(|index| chosen[index] = true);
        }
        for term in of(SetOperator::Intersection) {
            let mut kept = vec![false; self.hosts.len()];
            self.term_members(term)?.into_iter().for_each(|index| kept[index] = chosen[index]);
            chosen = kept;
        }
        for term in of(SetOperator::Exclusion) {
            self.term_members(term)?.into_iter().for_each(|index| chosen[index] = false);
        }
        let marked = self.hosts.iter().zip(chosen).filter(|(_, chosen)| *chosen);
        let hosts: Vec<&InventoryHost> = marked.map(|(host, _)| host).collect();
        if hosts.is_empty() { Err(SelectError::NoHosts(selector.text.clone())) } else { Ok(hosts) }
    }

    fn term_members(&self, term: &SelectorTerm) -> Result<Vec<usize>, SelectError> {
        let mut named = Vec::new();
        for name in &term.names {
            match self.resolve_name(name) {
                Some(members) => named.extend(members),
                None => return Err(SelectError::UnknownTerm { term: name.clone(), similar: self.nearest_names(name) }),
            }
        }
        Ok(named)
    }

    fn resolve_name(&self, name: &str) -> Option<Vec<usize>> {
        if let Some(index) = self.host_index.get(name) {
            return Some(vec![*index]);
        }
        if !name.contains(['*', '?']) {
            return self.member_indices(name);
        }
        let hosts =
            self.hosts.iter().enumerate().filter(|(_, host)| matches_glob(name, &host.name)).map(|(index, _)| index);
        let mut named: Vec<usize> = hosts.collect();
        let groups: Vec<&str> = self.group_names().filter(|group| matches_glob(name, group)).collect();
        groups.iter().for_each(|group| named.extend(self.member_indices(group).unwrap_or_default()));
        (!named.is_empty() || !groups.is_empty()).then_some(named)
    }

    fn group_names(&self) -> impl Iterator<Item = &str> {
        self.groups.iter().map(|group| group.name.as_str()).chain(self.zone_groups.iter().map(String::as_str))
    }

    fn nearest_names(&self, name: &str) -> Vec<String> {
        let names = self.hosts.iter().map(|host| host.name.as_str()).chain(self.group_names()).chain(["all"]);
        nearest_words(name, names).into_iter().map(str::to_owned).collect()
    }
}

/// Returns whether a glob with `*` and `?` matches a whole name. The time is linear in the product of their lengths.
pub(super) fn matches_glob(glob: &str, name: &str) -> bool {
    let (glob, name) = (glob.as_bytes(), name.as_bytes());
    let (mut g, mut n) = (0, 0);
    // Where the last `*` was seen, and what it has swallowed up to.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match glob.get(g) {
            Some(b'*') => {
                star = Some((g, n));
                g += 1;
            }
            Some(c) if *c == b'?' || *c == name[n] => (g, n) = (g + 1, n + 1),
            _ => match &mut star {
                Some((at, swallowed)) => {
                    *swallowed += 1;
                    (g, n) = (*at + 1, *swallowed);
                }
                None => return false,
            },
        }
    }
    glob[g..].iter().all(|c| *c == b'*')
}
