//! Fit: a status is at most 8 KB, whatever agents and people have written into it. Words go first, then the last of a list.

use crds::TcpCloseTuningStatus;

use super::clip;

/// So many bytes of JSON are a status at most.
pub(super) const STATUS_MAX: usize = 8 * 1024;
/// What the messages of lists are shortened to, step by step. The whole message is in the node's own status.
const LIST_MESSAGES: [usize; 3] = [192, 128, 64];
/// The same for conditions, where that is not enough: nodes may have names of 253 characters.
const CONDITION_MESSAGES: [usize; 3] = [512, 256, 128];

/// The status, shortened until it fits.
pub fn fit(mut status: TcpCloseTuningStatus) -> TcpCloseTuningStatus {
    for max in LIST_MESSAGES {
        if fits(&status) {
            return status;
        }
        let of_nodes = status.worst.iter_mut().map(|worst| &mut worst.message);
        let of_rules = status.refusals.iter_mut().map(|refusal| &mut refusal.message);
        shorten(of_nodes.chain(of_rules), max);
    }
    while !fits(&status) && status.worst.len() + status.refusals.len() > 0 {
        if status.worst.len() >= status.refusals.len() {
            status.worst.pop();
        } else {
            status.refusals.pop();
        }
    }
    for max in CONDITION_MESSAGES {
        if fits(&status) {
            return status;
        }
        shorten(status.conditions.iter_mut().map(|condition| &mut condition.message), max);
    }
    status
}

fn shorten<'a>(messages: impl Iterator<Item = &'a mut String>, max: usize) {
    for message in messages {
        *message = clip(message, max);
    }
}

/// Its length as the API server stores it.
fn fits(status: &TcpCloseTuningStatus) -> bool {
    serde_json::to_vec(status).is_ok_and(|json| json.len() <= STATUS_MAX)
}
