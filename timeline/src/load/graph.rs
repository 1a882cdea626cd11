//! A graph of users and followers, made through the service and noted in a file for writers and checks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::OpenOptions,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, ensure};
use hyper::Method;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::{
    Base,
    client::{ApiCall, Client},
};

const CLIENTS: usize = 8;

/// Users with their tokens and the ids of those whom they follow.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Graph {
    /// The users.
    pub users: Vec<GraphUser>,
}

/// A user of the graph.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GraphUser {
    /// The id.
    pub id: u64,
    /// A token that names the user.
    pub token: String,
    /// The ids of those whom the user follows.
    pub follows: BTreeSet<u64>,
}

impl Graph {
    /// Reads a graph from a file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or is of another form.
    pub fn load(path: &Path) -> anyhow::Result<Graph> {
        let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{}: not a graph", path.display()))
    }

    /// Writes the graph to a new file that only its owner reads, as it holds tokens.
    ///
    /// # Errors
    /// Returns an error if the file exists or cannot be written.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let mut file = file.with_context(|| format!("creating {}", path.display()))?;
        let text = serde_json::to_vec(self)?;
        file.write_all(&text).with_context(|| format!("writing {}", path.display()))
    }

    /// Returns the number of followers by user.
    pub fn followers(&self) -> BTreeMap<u64, u64> {
        let mut followers = BTreeMap::new();
        for followee in self.users.iter().flat_map(|user| &user.follows) {
            *followers.entry(*followee).or_default() += 1;
        }
        followers
    }
}

/// Creates `users` users, lets each follow `follows` others, and reads every home timeline once: posts are delivered
/// only to timelines that are in Redis.
///
/// # Errors
/// Returns an error if there are more follows than other users, or the service refuses a request.
pub async fn create_graph(bases: Vec<Base>, registrar: &str, users: usize, follows: usize) -> anyhow::Result<Graph> {
    ensure!(users > follows, "a user can follow at most {} of {users} users", users.saturating_sub(1));
    let created = create_users(&bases, registrar, users).await?;
    let ids: Arc<Vec<u64>> = Arc::new(created.iter().map(|user| user.id).collect());
    let created = Arc::new(created);
    let mut tasks = JoinSet::new();
    for number in 0..CLIENTS {
        let (mut client, ids, created) = (Client::new(bases.clone(), number), ids.clone(), created.clone());
        tasks.spawn(async move {
            let mut share = Vec::new();
            for (index, user) in created.iter().enumerate().skip(number).step_by(CLIENTS) {
                let followees = choose_followees(index, ids.len(), follows);
                let user =
                    GraphUser { follows: followees.into_iter().map(|other| ids[other]).collect(), ..user.clone() };
                for followee in &user.follows {
                    let path = format!("/v1/users/{followee}/follow");
                    let token = Some(user.token.clone());
                    client.send_until_done(&ApiCall { method: Method::PUT, path, token, ..ApiCall::default() }).await?;
                }
                client.send_until_done(&ApiCall::get("/v1/timelines/home", Some(&user.token))).await?;
                share.push(user);
            }
            Ok::<Vec<GraphUser>, anyhow::Error>(share)
        });
    }
    collect(tasks).await
}

async fn create_users(bases: &[Base], registrar: &str, users: usize) -> anyhow::Result<Vec<GraphUser>> {
    #[derive(Deserialize)]
    struct RegisteredUser {
        id: u64,
        token: String,
    }
    let mut tasks = JoinSet::new();
    for number in 0..CLIENTS {
        let (mut client, token) = (Client::new(bases.to_vec(), number), Some(registrar.to_owned()));
        tasks.spawn(async move {
            let mut share = Vec::new();
            for index in (number..users).step_by(CLIENTS) {
                let json = format!("{{\"name\":\"user {index}\"}}");
                let (method, path) = (Method::POST, "/v1/users".to_owned());
                let call = ApiCall { method, path, token: token.clone(), json, ..ApiCall::default() };
                let RegisteredUser { id, token } = client.fetch(&call).await?;
                share.push(GraphUser { id, token, follows: BTreeSet::new() });
            }
            Ok::<Vec<GraphUser>, anyhow::Error>(share)
        });
    }
    Ok(collect(tasks).await?.users)
}

async fn collect(mut tasks: JoinSet<anyhow::Result<Vec<GraphUser>>>) -> anyhow::Result<Graph> {
    let mut users = Vec::new();
    while let Some(share) = tasks.join_next().await {
        users.extend(share??);
    }
    users.sort_by_key(|user| user.id);
    Ok(Graph { users })
}

/// Chooses whom a user follows: the first users have the most followers, as in a real graph.
fn choose_followees(index: usize, users: usize, follows: usize) -> BTreeSet<usize> {
    let mut chosen = BTreeSet::new();
    for attempt in 0u64.. {
        if chosen.len() >= follows.min(users.saturating_sub(1)) {
            break;
        }
        let share = scatter(((index as u64) << 32) | attempt) as f64 / u64::MAX as f64;
        let followee = ((share * share * users as f64) as usize).min(users - 1);
        if followee != index {
            chosen.insert(followee);
        }
    }
    chosen
}

/// Spreads consecutive numbers (SplitMix64's finalizer).
pub(super) fn scatter(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::choose_followees;

    #[test]
    fn a_user_follows_the_given_number_of_others() {
        for index in 0..50 {
            let followees = choose_followees(index, 50, 10);
            assert_eq!(followees.len(), 10);
            assert!(!followees.contains(&index) && followees.iter().all(|followee| *followee < 50));
        }
        assert_eq!(choose_followees(0, 3, 2).into_iter().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn the_first_users_have_the_most_followers() {
        let followees = (0..200).flat_map(|index| choose_followees(index, 200, 10));
        let (first, rest): (Vec<_>, Vec<_>) = followees.partition(|followee| *followee < 50);
        assert!(first.len() * 10 > rest.len() * 9, "{} {}", first.len(), rest.len());
    }
}
