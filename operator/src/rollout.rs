//! Roll out: how a changed tuning reaches its nodes. First some that are watched for a while, then the others, a few at a
//! time; and back, where it fails.
//!
//! How far a rollout is stands in the tuning's status ([`advance()`] says what comes next), and the orders follow what is
//! stored there ([`place()`]). Everything else is derived from the orders and reports themselves. So an operator that is ended
//! anywhere goes on where it was. All of it only computes.

pub mod advance;
pub mod begin;
mod canary;
pub mod gate;
pub mod member;
pub mod place;
pub mod stray;

pub use advance::{Progress, advance};
pub use member::{Member, members};
pub use place::place;
pub use stray::{Stray, strays};

#[cfg(test)]
mod tests;
