//! Roll out: how a changed tuning reaches its nodes.

pub mod gate;
