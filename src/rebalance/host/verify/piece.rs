//! A piece of a key: commands that are short enough for a server with other clients.

use redis::{Cmd, Value};

/// The same commands for both servers, whose answers must be equal.
#[derive(Debug)]
pub struct Piece {
    pub cmds: Vec<Cmd>,
    /// Removes from an answer what may differ between a primary and its replica.
    pub normalize: fn(Value) -> Value,
}

impl Piece {
    /// Makes a piece whose answers must be equal as they are.
    pub fn of(cmds: Vec<Cmd>) -> Self {
        Self { cmds, normalize: std::convert::identity }
    }
}
