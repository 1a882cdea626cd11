//! dunlin against real hosts: Debian with systemd and sshd, made by `script/fleet` (docs/test-fleet.md).
//!
//! `DUNLIN_BIN` names the program under test (`script/test` gives one without failpoints; otherwise it is the one
//! that cargo built for this test). `DUNLIN_TEST_FLEETS` names the fleets, separated by commas: as many tests run at a
//! time, or one on the fleet `test` where it is not set. Where a machine cannot carry a fleet,
//! `DUNLIN_NO_FLEET=reason` leaves these tests out; nothing else does.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test stops at what is missing, and prints what it measured"
)]

mod attacks;
mod chosen_instance;
mod cluster;
mod contracts;
mod crashes;
mod deploy;
mod deploy_kills;
mod deploy_load;
mod ended_agents;
mod failover;
mod faults;
mod hosts;
mod interrupted_publish;
mod interrupts;
mod keep_source;
#[path = "../support/messages.rs"]
mod messages;
mod open_loop;
mod output;
mod partitions;
mod project;
mod provision;
mod reachability;
mod rebalance;
mod rejections;
mod replica_pairs;
mod replicas;
mod restarts;
mod rollouts;
mod services;
mod shop;
mod socket_activation;
#[path = "../support/terminal.rs"]
mod terminal;
mod timing;
mod tls;
mod writers;
