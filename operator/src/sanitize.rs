//! Sanitize: what agents have written, made harmless where it enters.
//!
//! An agent may write what it likes into the status of its own node, and somebody may have taken it over. The schema
//! bounds most of that, but an object may have come to be stored without it, and text within its bounds can still hold
//! line breaks and terminal escapes. From here it goes into statuses, events, logs and metrics.

use std::collections::BTreeSet;

use crds::TcpCloseNodeStatus;
use crds::node::{Pods, Rates, Sockets, States, SysctlStatus};
use tcp_close::Sysctl;

use crate::resolve::OBSERVE_MAX;
use crate::summarise::clip;

/// No text of a node's status is longer, by its schema.
const TEXT_MAX: usize = 512;
/// Why something cannot be decoded takes no more words.
const ERROR_MAX: usize = 256;
/// No name of a rule is longer.
const RULE_MAX: usize = 64;
/// Sysctls of a node, and pods with the most, by the schema.
const SYSCTLS_MAX: usize = 32;
const PODS_MAX: usize = 30;
/// The kernel counts sockets in an `int`. Sums over any fleet of such counts fit in a status.
const COUNT_MAX: u64 = u32::MAX as u64;

/// Printable ASCII stays, and all else is shown by its number: `\u{1b}[31m`. At most this many characters.
fn text(foreign: &str, max: usize) -> String {
    let mut shown = String::new();
    for letter in foreign.chars().take(max + 1) {
        match letter {
            ' '..='~' => shown.push(letter),
            _ => shown.extend(letter.escape_unicode()),
        }
    }
    clip(&shown, max)
}

/// Why an object cannot be decoded: it quotes what it could not.
pub fn error(foreign: &str) -> String {
    text(foreign, ERROR_MAX)
}

/// Sanitizes what the agent of a node has written, and drops the texts and lists that nothing here reads. Every field
/// is named: a new one has to be decided on.
pub fn status(status: &mut TcpCloseNodeStatus) {
    let TcpCloseNodeStatus {
        observed_generation: _,
        observed_revision,
        node_uid,
        boot_id,
        life,
        reported_at: _,
        agent_version,
        summary,
        conditions,
        node,
        sysctls,
        observe,
        sockets,
        sockstat,
        rates,
        rates_before,
        rates_since,
        conntrack,
        ports,
        pods,
    } = status;
    (*summary, *conditions, *ports) = (None, Vec::new(), None);
    for name in [observed_revision, node_uid, boot_id, life, agent_version].into_iter().flatten() {
        in_place(name);
    }
    if let Some(node) = node {
        in_place(&mut node.kernel_release);
    }
    sysctls.truncate(SYSCTLS_MAX);
    sysctls.iter_mut().for_each(sysctl);
    observe.truncate(OBSERVE_MAX);
    for observed in observe {
        once_each(&mut observed.sysctls);
        observed.sysctls.iter_mut().for_each(sysctl);
    }
    if let Some(Sockets { states, machine_orphans, unattributed_orphans }) = sockets {
        self::states(states);
        bound([Some(machine_orphans), unattributed_orphans.as_mut()]);
    }
    bound([sockstat.as_mut().map(|sockstat| &mut sockstat.time_wait_and_fin_wait2)]);
    [rates, rates_before, rates_since].into_iter().flatten().for_each(self::rates);
    if let Some(conntrack) = conntrack {
        bound([&mut conntrack.entries, &mut conntrack.max].map(Some));
    }
    pods.iter_mut().for_each(self::pods);
}

fn sysctl(row: &mut SysctlStatus) {
    (row.remarks, row.changed_by) = (Vec::new(), None);
    row.rates_before.as_deref_mut().map(rates);
    row.rule = row.rule.as_deref().map(|rule| text(rule, RULE_MAX));
    for text in [Some(&mut row.name), Some(&mut row.state), row.tuning.as_mut(), row.message.as_mut()] {
        text.into_iter().for_each(in_place);
    }
}

/// What a tuning would do to a sysctl is said once, and of sysctls alone.
fn once_each(rows: &mut Vec<SysctlStatus>) {
    let mut seen = BTreeSet::new();
    rows.retain(|row| Sysctl::from_name(&row.name).is_some_and(|sysctl| seen.insert(sysctl)));
}

fn pods(pods: &mut Pods) {
    pods.unknown = None;
    bound([pods.time_wait_and_fin_wait2.as_mut()]);
    pods.most.truncate(PODS_MAX);
    for pod in &mut pods.most {
        for name in [&mut pod.namespace, &mut pod.name].into_iter().flatten() {
            in_place(name);
        }
        bound([Some(&mut pod.time_wait_and_fin_wait2), pod.overflows_per_minute.as_mut()]);
        pod.states.iter_mut().for_each(states);
    }
}

fn states(states: &mut States) {
    let States {
        time_wait,
        orphans,
        zero_window_orphans,
        fin_wait1,
        fin_wait2,
        fin_wait2_held,
        closing,
        close_wait,
        unaccepted,
        last_ack,
        measured_at: _,
    } = states;
    bound([time_wait, orphans, fin_wait1, fin_wait2, closing, close_wait, last_ack].map(Some));
    bound([zero_window_orphans, fin_wait2_held, unaccepted].map(Option::as_mut));
}

fn rates(rates: &mut Rates) {
    let Rates {
        seconds: _,
        overflows,
        aborts_on_memory,
        aborts_on_timeout,
        aborts_on_close,
        aborts_on_data,
        aborts_on_linger,
        aborts_failed,
        resets_sent,
        established_resets,
        reused,
        paws_rejected,
        connects,
        accepts,
        failed_connects,
        retransmissions,
    } = rates;
    let aborts = [
        aborts_on_memory,
        aborts_on_timeout,
        aborts_on_close,
        aborts_on_data,
        aborts_on_linger,
        aborts_failed,
    ];
    bound(aborts.map(Option::as_mut));
    bound([overflows, resets_sent, established_resets, reused, paws_rejected].map(Option::as_mut));
    bound([connects, accepts, failed_connects, retransmissions].map(Option::as_mut));
}

fn bound<'a>(counts: impl IntoIterator<Item = Option<&'a mut u64>>) {
    for count in counts.into_iter().flatten() {
        *count = (*count).min(COUNT_MAX);
    }
}

fn in_place(foreign: &mut String) {
    *foreign = text(foreign, TEXT_MAX);
}

#[cfg(test)]
mod tests;
