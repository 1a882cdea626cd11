//! Resource types from outside, through the register: data cases, apply on a real folder, and sequences of steps whose
//! plan must be what apply does.

mod cases;
#[path = "../support/messages.rs"]
mod messages;
mod paths;
mod sequences;
mod support;
