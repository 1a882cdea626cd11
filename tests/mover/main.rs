//! Moves of shards between real redis-server processes on loopback addresses, written to all the while.

mod access;
mod child;
mod directed;
mod failover;
mod links;
mod moves;
mod places;
mod preflight;
mod provision;
mod received;
mod relay;
mod replica;
mod restarts;
mod reverse;
mod sparing;
mod torture;
mod verification;
mod writers;
