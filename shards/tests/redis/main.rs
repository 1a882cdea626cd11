//! Against real redis-servers on loopback: the slot function, and the connection set through switches and failures.

mod keyslot;
mod server;
