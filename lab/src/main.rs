//! A real cluster on one machine: demo, tests, benches.

fn main() {}
