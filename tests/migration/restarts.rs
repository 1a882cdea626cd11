//! A restart loses nothing, and an instance whose ACL file would make it lose transactions is fixed before one.

use dunlin::plan::Action;
use dunlin::resources::redis_shard::acl::{self, AclFile};
use redis::Connection;

use crate::fixture::{MoveFixture, app_credentials, connect_admin, connect_as};
use crate::messages;

/// The line that earlier templates had. Redis does not replay transactions as a user without rights.
const OLD_LINE: &str = "user default off resetchannels -@all";

/// Writes keys under a prefix, in each form in which a client can write.
fn write(fixture: &MoveFixture, prefix: &str) {
    let client = &mut connect_as(&fixture.address(0), &app_credentials()).unwrap();
    let set = |name: &str| redis::cmd("SET").arg(format!("{prefix}:{name}")).arg(1).to_owned();
    set("single").exec(client).unwrap();
    redis::pipe().atomic().add_command(set("multi-1")).add_command(set("multi-2")).exec(client).unwrap();
    let two = "redis.call('SET', KEYS[1], 1) redis.call('SET', KEYS[2], 1)";
    let keys = |name: &str| [1, 2].map(|n| format!("{prefix}:{name}-{n}"));
    redis::cmd("EVAL").arg(two).arg(2).arg(&keys("script")[..]).exec(client).unwrap();
    let library = format!("#!lua name=two\nredis.register_function('two', function(KEYS) {two} end)");
    redis::cmd("FUNCTION").arg("LOAD").arg("REPLACE").arg(library).exec(client).unwrap();
    redis::cmd("FCALL").arg("two").arg(2).arg(&keys("function")[..]).exec(client).unwrap();
}

/// The keys of a prefix that are not there.
fn missing(fixture: &MoveFixture, prefix: &str) -> Vec<&'static str> {
    let client = &mut connect_as(&fixture.address(0), &app_credentials()).unwrap();
    let names = ["single", "multi-1", "multi-2", "script-1", "script-2", "function-1", "function-2"];
    let is_missing = |name: &&str| {
        let exists: bool = redis::cmd("EXISTS").arg(format!("{prefix}:{name}")).query(client).unwrap();
        !exists
    };
    names.into_iter().filter(is_missing).collect()
}

fn stop_and_start(fixture: &mut MoveFixture) {
    fixture.stop(0);
    fixture.restart_instance(0);
    fixture.wait_until_ready(0);
}

fn kill_and_start(fixture: &mut MoveFixture) {
    fixture.kill_instance(0);
    fixture.restart_instance(0);
    fixture.wait_until_ready(0);
}

const RESTARTS: [fn(&mut MoveFixture); 2] = [stop_and_start, kill_and_start];

fn provisioned() -> MoveFixture {
    let mut fixture = MoveFixture::with_appendfsync(1, "always");
    fixture.provision_primary(0).unwrap();
    fixture
}

/// An instance that runs with the ACL file of an earlier template.
fn provisioned_long_ago() -> MoveFixture {
    let mut fixture = provisioned();
    fixture.stop(0);
    let text = std::fs::read_to_string(fixture.acl_path(0)).unwrap();
    assert!(text.contains(acl::DEFAULT_USER_LINE), "{text}");
    std::fs::write(fixture.acl_path(0), text.replace(acl::DEFAULT_USER_LINE, OLD_LINE)).unwrap();
    fixture.restart_instance(0);
    fixture.wait_until_ready(0);
    fixture
}

fn info(connection: &mut Connection, name: &str) -> Option<String> {
    let info: String = redis::cmd("INFO").arg("server").query(connection).unwrap();
    info.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()))
}

#[test]
fn a_restart_loses_nothing() {
    for restart in RESTARTS {
        let mut fixture = provisioned();
        write(&fixture, "new");
        restart(&mut fixture);
        assert_eq!(missing(&fixture, "new"), Vec::<&str>::new());
        // The user that keeps its rights for this lets nobody in.
        let client = redis::Client::open(format!("redis://{}/", fixture.address(0))).unwrap();
        let answer =
            client.get_connection().and_then(|mut client| redis::cmd("GET").arg("new:single").exec(&mut client));
        assert_eq!(answer.unwrap_err().code(), Some("NOAUTH"));
    }
}

/// Without this the other tests here would show nothing.
#[test]
fn with_the_old_line_a_restart_loses_transactions() {
    for restart in RESTARTS {
        let mut fixture = provisioned_long_ago();
        let version = info(&mut connect_admin(&fixture.address(0)).unwrap(), "valkey_version");
        if version.is_some_and(|version| !version.starts_with('8')) {
            return; // Valkey from 9.0 on replays them all the same.
        }
        write(&fixture, "old");
        restart(&mut fixture);
        let lost = ["multi-1", "multi-2", "script-1", "script-2", "function-1", "function-2"];
        assert_eq!(missing(&fixture, "old"), lost);
    }
}

#[test]
fn provisioning_fixes_the_running_instance_and_the_file_and_then_a_restart_loses_nothing() {
    for restart in RESTARTS {
        let mut fixture = provisioned_long_ago();
        write(&fixture, "before");
        let mut connection = connect_admin(&fixture.address(0)).unwrap();
        let process = info(&mut connection, "run_id");
        let diff = fixture.provision_primary(0).unwrap();
        let shown: Vec<_> = diff.changes.iter().map(|change| change.attribute.as_str()).collect();
        assert_eq!(shown, ["ACL user default in memory", "ACL user default"], "{diff:?}");
        messages::check("acl-user-without-rights", [("in memory", diff.changes[0].from.as_deref().unwrap())]);

        assert_eq!(info(&mut connection, "run_id"), process, "it was not restarted, and this connection not closed");
        let users: Vec<String> = redis::cmd("ACL").arg("LIST").query(&mut connection).unwrap();
        let users = AclFile::parse(&users.join("\n")).unwrap();
        assert_eq!(users.missing_replay_rights(), Vec::<&str>::new());
        assert_eq!(users.is_user_enabled("default"), Some(false));
        acl::require_replay_rights(&std::fs::read_to_string(fixture.acl_path(0)).unwrap()).unwrap();
        assert_eq!(fixture.provision_primary(0).unwrap().action, Action::None);
        // What is in memory may be saved over the file.
        redis::cmd("ACL").arg("SAVE").exec(&mut connection).unwrap();
        acl::require_replay_rights(&std::fs::read_to_string(fixture.acl_path(0)).unwrap()).unwrap();

        write(&fixture, "after");
        restart(&mut fixture);
        assert_eq!((missing(&fixture, "before"), missing(&fixture, "after")), (Vec::new(), Vec::new()));
    }
}
