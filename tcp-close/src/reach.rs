//! How much of a node's closing is in network namespaces that its sysctls reach: pods have their own and inherit nothing.

/// Sockets in TIME_WAIT, and in FIN_WAIT2 after close(), which sockstat's `tw` counts together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// In nodes' own network namespaces.
    pub in_nodes: u64,
    /// In the namespaces of their pods.
    pub in_pods: u64,
}

impl Reach {
    /// All of them.
    pub fn all(self) -> u64 {
        self.in_nodes.saturating_add(self.in_pods)
    }

    /// Which percentage is in reach, rounded down; `None` where there is nothing.
    pub fn percent(self) -> Option<u32> {
        let share = u128::from(self.in_nodes) * 100;
        share.checked_div(self.all().into()).and_then(|percent| percent.try_into().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percent(in_nodes: u64, in_pods: u64) -> Option<u32> {
        Reach { in_nodes, in_pods }.percent()
    }

    #[test]
    fn the_percentage_never_says_more_than_is_true() {
        assert_eq!((percent(999, 1), percent(1, 999), percent(5, 0)), (Some(99), Some(0), Some(100)));
    }

    #[test]
    fn where_nothing_closes_there_is_no_percentage() {
        assert_eq!(percent(0, 0), None);
    }
}
