//! What a fleet costs: simulated agents and the real operator on a real API server and a real etcd, size by size, and beside
//! them the naive design, in which every node writes every 10 s.

mod gauge;
pub(crate) mod growth;
mod plane;
mod run;
mod table;

use std::{path::Path, time::Duration};

use self::{plane::Plane, run::Run, table::Figures};
use super::Machine;
use crate::{
    checkout::{Cache, Checkout},
    error::{Error, Result},
    programs,
    report::say,
};

pub use table::Fleet;

/// The sizes that are measured where nobody says otherwise.
pub(super) const SIZES: [usize; 5] = [3, 100, 1000, 5000, 15_000];

/// Nodes and reports of `--growth`.
const GROWING: usize = 15_000;
const REPORTS: u64 = 1_000_000;

/// What is measured, and for how long.
#[derive(Clone, Debug)]
pub struct Extent {
    /// How many nodes, size by size.
    pub sizes: Vec<usize>,
    /// Writes are counted for so long, or for a report interval where that is shorter.
    pub window: Duration,
    /// Before counting begins.
    pub settling: Duration,
    /// How many overflows are waited for.
    pub overflows: usize,
    /// The naive design is measured for so long.
    pub naive: Duration,
}

impl Extent {
    /// All that is worth a table.
    pub(super) fn of(sizes: &[usize]) -> Self {
        let seconds = Duration::from_secs;
        let sizes = if sizes.is_empty() { SIZES.to_vec() } else { sizes.to_vec() };
        Self { sizes, window: seconds(120), settling: seconds(10), overflows: 5, naive: seconds(30) }
    }
}

/// Measures with this operator, or with the checkout's.
pub(super) fn bench(sizes: &[usize], operator: Option<&Path>) -> Result<Fleet> {
    let checkout = Checkout::current()?;
    let operator = match operator {
        Some(operator) => operator.to_owned(),
        None => programs::build(&checkout, &Cache::of_user()?.build().join("bench"))?.operator,
    };
    measure(&checkout, &operator, &Extent::of(sizes))
}

/// Measures whether the operator's memory grows.
pub(super) fn bench_growth() -> Result<()> {
    print!("{}", growth::measure(GROWING, REPORTS)?);
    Ok(())
}

/// Measures with this operator.
pub fn measure(checkout: &Checkout, operator: &Path, extent: &Extent) -> Result<Fleet> {
    let machine = Machine::look()?;
    let mut sizes = Vec::new();
    for nodes in &extent.sizes {
        say(format!("a fleet of {nodes}"));
        sizes.push(measure_size(checkout, operator, extent, *nodes)?);
    }
    Ok(Fleet { sizes, machine: machine.told()? })
}

fn measure_size(checkout: &Checkout, operator: &Path, extent: &Extent, nodes: usize) -> Result<Figures> {
    let plane = Plane::start(checkout, operator, nodes)?;
    // A thread of its own, which stays in the control plane's network namespace.
    let measured = std::thread::scope(|scope| {
        scope.spawn(|| Run::start(&plane, extent, nodes)?.carry_out()).join().unwrap_or_else(|_| {
            Err(Error::Unclear { what: "the bench".into(), why: "its thread panicked".into() })
        })
    });
    let ended = plane.end();
    let figures = measured?;
    ended.map(|()| figures)
}
