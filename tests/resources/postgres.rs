//! Postgres types on a real server: what apply leaves is what a second plan calls done, and later steps plan on what
//! earlier ones make.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use dunlin::plan::Action;
use dunlin::resources::{ApplyContext, DynResource};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::messages;
use crate::support::{ResourceBlobs, apply_step, plan_steps};

/// A server of its own, which listens on a socket in a folder and on no network.
struct Server {
    dir: TempDir,
    programs: PathBuf,
}

impl Server {
    fn start() -> Server {
        let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
            .expect("the package postgresql is installed")
            .map(|entry| entry.unwrap().path().join("bin"))
            .filter(|programs| programs.join("initdb").exists())
            .collect();
        versions.sort();
        let server = Server { dir: TempDir::new().unwrap(), programs: versions.pop().expect("a version of Postgres") };
        if is_root() {
            let (uid, gid) = postgres_ids();
            std::os::unix::fs::chown(server.dir.path(), Some(uid), Some(gid)).unwrap();
        }
        let data = server.data().display().to_string();
        server.run("initdb", &["--no-sync", "--auth=trust", "-U", "postgres", "--locale=C", "-E", "UTF8", "-D", &data]);
        let log = server.dir.path().join("log").display().to_string();
        let options = format!("-k {} -c listen_addresses='' -c fsync=off", server.dir.path().display());
        server.run("pg_ctl", &["-D", &data, "-w", "-l", &log, "-o", &options, "start"]);
        server
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn run(&self, program: &str, args: &[&str]) {
        let mut command = Command::new(self.programs.join(program));
        command.args(args).current_dir("/");
        if is_root() {
            let (uid, gid) = postgres_ids();
            command.uid(uid).gid(gid);
        }
        let output = command.stdout(std::process::Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Logs in as a role, which must have the password; returns the answer to the query.
    fn query_as(&self, role: &str, password: &str, sql: &str) -> Result<String, String> {
        let socket = self.dir.path().display().to_string();
        let output = Command::new(self.programs.join("psql"))
            .args(["-X", "-A", "-t", "-w", "-h", &socket, "-U", role, "-d", "app", "-c", sql])
            .env("PGPASSWORD", password)
            .output()
            .unwrap();
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Adds the keys that lead to this server.
    fn at(&self, mut table: Value) -> Value {
        table["socket"] = json!(self.dir.path());
        table
    }

    fn hba(&self, rules: &Value) -> Value {
        let owner = crate::owner::current_owner().0;
        let owner = if is_root() { "postgres".to_owned() } else { owner };
        self.at(json!({ "path": self.data().join("pg_hba.conf"), "owner": owner, "rules": rules }))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.data().display().to_string();
        self.run("pg_ctl", &["-D", &data, "-m", "immediate", "stop"]);
    }
}

fn is_root() -> bool {
    crate::owner::current_owner().0 == "root"
}

fn postgres_ids() -> (u32, u32) {
    let id = |flag: &str| {
        let output = Command::new("id").args([flag, "postgres"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("the user postgres exists")
    };
    (id("-u"), id("-g"))
}

/// Plans all steps, applies them in order, and holds that each found what its row said and that a second plan is empty.
fn apply_all(steps: &[(&str, Value)]) -> Vec<Action> {
    let mut store = ResourceBlobs::default();
    let steps: Vec<Box<dyn DynResource>> =
        steps.iter().map(|(kind, table)| store.parse_step(kind, table.clone()).unwrap()).collect();
    let planned: Vec<_> = plan_steps(&steps, &store).into_iter().map(Result::unwrap).collect();
    let mut context = ApplyContext::new(&store);
    for (step, row) in steps.iter().zip(&planned) {
        let applied = apply_step(&**step, &mut context, &store).unwrap();
        assert_eq!((applied.action, &applied.changes), (row.action, &row.changes), "{}", row.resource);
    }
    for row in plan_steps(&steps, &store).into_iter().map(Result::unwrap) {
        assert_eq!((row.action, &row.changes), (Action::None, &Vec::new()), "{}", row.resource);
    }
    planned.into_iter().map(|row| row.action).collect()
}

#[test]
fn roles_databases_and_rules_are_made_changed_and_removed() {
    let server = Server::start();
    let role = |password: &str| ("postgres_role", server.at(json!({ "name": "app", "password": password })));
    let database = ("postgres_database", server.at(json!({ "name": "app", "owner": "app" })));
    let rules = json!([
        { "type": "local", "databases": ["all"], "users": ["postgres"], "method": if is_root() { "peer" } else { "trust" } },
        { "type": "local", "databases": ["app"], "users": ["app"], "method": "scram-sha-256" },
    ]);
    let hba = ("postgres_hba", server.hba(&rules));
    let made = apply_all(&[role("it's \\ $1"), database.clone(), hba.clone()]);
    assert_eq!(made, [Action::Add, Action::Add, Action::Change]);
    assert_eq!(server.query_as("app", "it's \\ $1", "select current_user"), Ok("app".to_owned()));
    // A message of Postgres.
    assert!(server.query_as("app", "wrong", "select 1").unwrap_err().contains("password authentication failed"));
    assert_eq!(apply_all(&[role("second"), database.clone(), hba]), [Action::Change, Action::None, Action::None]);
    assert_eq!(server.query_as("app", "second", "select 1"), Ok("1".to_owned()));
    let removed = apply_all(&[
        ("postgres_database", server.at(json!({ "name": "app", "state": "absent" }))),
        ("postgres_role", server.at(json!({ "name": "app", "state": "absent" }))),
    ]);
    assert_eq!(removed, [Action::Remove, Action::Remove]);
}

#[test]
fn mistakes_change_nothing() {
    let server = Server::start();
    let mut store = ResourceBlobs::default();
    let steps =
        [store.parse_step("postgres_database", server.at(json!({ "name": "app", "owner": "nobody" }))).unwrap()];
    let owner = plan_steps(&steps, &store).remove(0).unwrap_err();
    let path = server.data().join("pg_hba.conf");
    let before = fs::read_to_string(&path).unwrap();
    let rules = json!([
        { "type": "local", "databases": ["all"], "users": ["postgres"], "method": "trust" },
        { "type": "host", "databases": ["all"], "users": ["all"], "address": "192.0.2.300/32", "method": "reject" },
    ]);
    let step = store.parse_step("postgres_hba", server.hba(&rules)).unwrap();
    let rules = format!("{:#}", apply_step(&*step, &mut ApplyContext::new(&store), &store).unwrap_err());
    assert_eq!(fs::read_to_string(&path).unwrap(), before);
    let nowhere = json!({ "name": "app", "socket": Path::new("/nonexistent") });
    let step = [store.parse_step("postgres_role", nowhere).unwrap()];
    let socket = plan_steps(&step, &store).remove(0).unwrap_err();
    messages::check("postgres-mistakes", [("owner", owner), ("rules", rules), ("socket", socket)]);
}
