//! What a fleet costs: simulated agents and the real operator on a real API server and a real etcd, size by size, and beside
//! them the naive design, in which every node writes every 10 s.

mod gauge;
mod growth;
mod plane;
mod run;
mod table;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use self::{plane::Plane, run::Run, table::Figures};
use super::Machine;
use crate::{
    checkout::{Cache, Checkout},
    error::{Error, Result},
    programs,
    report::say,
};

pub use gauge::Usage;
pub use growth::{Growth, measure as measure_growth};
pub use table::Fleet;

/// The sizes that are measured where nobody says otherwise.
pub(super) const SIZES: [usize; 5] = [3, 100, 1000, 5000, 15_000];

/// Nodes and reports of `--growth`.
const GROWING: usize = 15_000;
const REPORTS: u64 = 1_000_000;
/// The same through an API server.
const GROWING_PROCESS: usize = 1000;
const REPORTS_TO_PROCESS: u64 = 50_000;

/// What is measured, and for how long.
#[derive(Clone, Debug)]
pub struct Extent {
    /// How many nodes, size by size.
    pub sizes: Vec<usize>,
    /// Writes are counted for so long, or for a report interval where that is shorter.
    pub window: Duration,
    /// Before counting begins.
    pub settling: Duration,
    /// How many overflows are timed, each on a node of its own.
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
    measure(&checkout, &built(&checkout, operator)?, &Extent::of(sizes))
}

fn built(checkout: &Checkout, operator: Option<&Path>) -> Result<PathBuf> {
    let build = || Ok(programs::build(checkout, &Cache::of_user()?.build().join("bench"))?.operator);
    operator.map_or_else(build, |operator| Ok(operator.to_owned()))
}

/// Measures whether the operator's memory grows: of its code with a million reports, of its process with some ten thousands.
pub(super) fn bench_growth(operator: Option<&Path>) -> Result<()> {
    let checkout = Checkout::current()?;
    print!("{}", growth::measure(GROWING, REPORTS)?);
    let operator = built(&checkout, operator)?;
    print!("{}", growth::measure_process(&checkout, &operator, GROWING_PROCESS, REPORTS_TO_PROCESS)?);
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
    // The path of the method would be for one lifetime.
    #[allow(clippy::redundant_closure_for_method_calls)]
    with_run(checkout, operator, extent, nodes, |run| run.carry_out())
}

/// Does something with a fleet, and takes it down however that ends.
fn with_run<T: Send>(
    checkout: &Checkout,
    operator: &Path,
    extent: &Extent,
    nodes: usize,
    work: impl FnOnce(Run<'_>) -> Result<T> + Send,
) -> Result<T> {
    let plane = Plane::start(checkout, operator, nodes)?;
    // A thread of its own, which stays in the control plane's network namespace.
    let measured = std::thread::scope(|scope| {
        scope.spawn(|| work(Run::start(&plane, extent, nodes)?)).join().unwrap_or_else(|_| {
            Err(Error::Unclear { what: "the bench".into(), why: "its thread panicked".into() })
        })
    });
    let ended = plane.end();
    let measured = measured?;
    ended.map(|()| measured)
}
