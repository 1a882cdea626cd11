//! Against real redis-servers on loopback: the slot function, and the connection set through switches and failures.

mod follow;
mod keyslot;
mod server;
