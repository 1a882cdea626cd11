//! Resource types from outside, through the register: data cases, apply on a real folder, and sequences of steps whose
//! plan must be what apply does.

mod cases;
mod paths;
mod sequences;
mod support;
