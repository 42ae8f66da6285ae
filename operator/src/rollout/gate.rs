//! The gate: do the changed nodes do worse than they did, and worse than the others do? Only computes.

use crds::node::Rates;

/// What is known of the nodes of one rollout.
#[derive(Clone, Debug, Default)]
pub struct Evidence<'a> {
    /// The nodes that hold the new revision.
    pub changed: Vec<Changed<'a>>,
    /// How connections fare on nodes that do not hold it yet.
    pub unchanged: Vec<&'a Rates>,
}

/// A node that holds the new revision.
#[derive(Clone, Debug)]
pub struct Changed<'a> {
    /// Its name.
    pub node: &'a str,
    /// How connections fared there before the change.
    pub before: Option<&'a Rates>,
    /// How they fare since, where that has been measured after the change.
    pub since: Option<&'a Rates>,
}

/// What the gate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No figure has become worse.
    Passed(String),
    /// The figures say nothing: why.
    Inconclusive(String),
    /// A figure has become worse: which, from what to what, and on which nodes.
    Failed(String),
}

/// Whether the changed nodes do worse. Fewer connections than `min_connections` since the change say nothing.
pub fn judge(_evidence: &Evidence<'_>, _min_connections: u32) -> Verdict {
    Verdict::Inconclusive("figures are not compared yet".into())
}
