//! Keys that are too large to be read as a whole, under writes: `script/bench big-keys` in small.

use std::time::Duration;

use dunlin::protocol::shard::{CopyResult, ShardReply, ShardRequest, VerifyResult};

use crate::agent_process::{AgentProcess, read_replies};
use crate::fixture::{MoveFixture, admin_credentials, connect_admin};
use crate::key_load::{BIG_KEY, KeyClients, KeyShape};
use crate::moves::run_copy;

/// Memory of an agent, in bytes, at most.
const MAX_AGENT_MEMORY: u64 = 100 << 20;
const AGENT_TIMEOUT: Duration = Duration::from_secs(300);

/// Copies and compares in an agent of its own, whose memory is measured, then cuts over.
fn copy_and_verify(fixture: &mut MoveFixture) -> (CopyResult, VerifyResult) {
    let spec = fixture.move_spec(0, 1);
    let requests = [ShardRequest::Copy(spec.clone()), ShardRequest::Verify(spec)];
    let mut agent = AgentProcess::start_agent(fixture, &requests, None);
    let memory = agent.wait_and_measure_memory(AGENT_TIMEOUT);
    assert!(memory > 0 && memory < MAX_AGENT_MEMORY, "the agent used {memory} bytes");
    match &read_replies(fixture)[..] {
        [Ok(ShardReply::Copy(copied)), Ok(ShardReply::Verify(verified))] => (copied.clone(), verified.clone()),
        other => panic!("{other:?}"),
    }
}

fn fixture_with_limit() -> MoveFixture {
    let edits = vec![
        ("maxmemory 256mb", "maxmemory 2gb"),
        ("repl-backlog-size", "enable-debug-command local\nrepl-backlog-size"),
    ];
    MoveFixture::with_conf_edits(2, "everysec", edits)
}

#[test]
fn big_keys_of_every_type_move_under_writes_within_bounded_memory() {
    for (shape, size) in KeyShape::ALL.map(|shape| (shape, if shape == KeyShape::Text { 150 << 20 } else { 60_000 })) {
        let mut fixture = fixture_with_limit();
        fixture.provision_primary(0).unwrap();
        shape.fill_key(&mut connect_admin(&fixture.address(0)).unwrap(), size);
        let mut clients = KeyClients::start_clients(shape, size, &fixture.address(0), &admin_credentials());
        let (copied, verified) = copy_and_verify(&mut fixture);
        let rounds = clients.stop_clients();
        let name = shape.name();
        assert!(rounds > 0 && copied.verification.is_equal() && verified.is_equal(), "{name}: {copied:?} {verified:?}");
        assert!(copied.fork_us > 0 && copied.longest_wait_us() >= copied.fork_us, "{name}: {copied:?}");
        assert!(verified.longest_wait_us > 0, "{name}: {verified:?}");
        eprintln!("{name}: the longest wait was {:?}, reported: {verified:?}", clients.take_longest_wait());
        // The agent has exited, so its copy follows the source no more.
        let spec = fixture.move_spec(0, 1);
        run_copy(&fixture, spec.clone()).unwrap();
        fixture.run_request(ShardRequest::CutOver(spec)).unwrap();
        let digest = |n: u8| {
            let mut connection = connect_admin(&fixture.address(n)).unwrap();
            redis::cmd("DEBUG").arg("DIGEST-VALUE").arg(BIG_KEY).query::<Vec<String>>(&mut connection).unwrap()
        };
        assert_eq!(digest(0), digest(1), "{name}");
    }
}

/// A few members say little about a key, and the keys of one batch little about those of the next.
#[test]
fn keys_of_very_different_sizes_are_compared_within_bounded_memory() {
    let mut fixture = fixture_with_limit();
    fixture.provision_primary(0).unwrap();
    let mut source = connect_admin(&fixture.address(0)).unwrap();
    for part in 0..60 {
        let script = "for i = 1, 50 do
                redis.call('HSET', 'uneven', 'small:' .. ARGV[1] .. ':' .. i, i)
                redis.call('SET', 'small:' .. ARGV[1] .. ':' .. i, i)
            end
            redis.call('HSET', 'uneven', 'large:' .. ARGV[1], string.rep('value,', 350000))
            for i = 1, 5 do redis.call('SET', 'middle:' .. ARGV[1] .. ':' .. i, string.rep('value,', 80000)) end";
        redis::cmd("EVAL").arg(script).arg(0).arg(part).exec(&mut source).unwrap();
    }
    let (copied, verified) = copy_and_verify(&mut fixture);
    assert!(copied.verification.is_equal() && verified.is_equal(), "{copied:?} {verified:?}");
    assert_eq!(verified.keys, 3301);
}
