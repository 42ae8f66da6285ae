//! Closing sockets as an independent witness counts them: `ss` for the states, `/proc/net/sockstat` for the machine. Only the
//! type of the result is the product's.

use tcp_close::sockets::SocketCounts;

use crate::{
    error::{Error, Result},
    node::Node,
};

/// Counts what `ss` lists in the node's network namespace.
pub fn listed(node: &Node) -> Result<SocketCounts> {
    Ok(count(&list(node)?))
}

/// How many sockets there, whoever has them, ask whether their peer's window has opened.
pub fn probing(node: &Node) -> Result<usize> {
    Ok(list(node)?.lines().filter(|line| is_probing(line)).count())
}

fn list(node: &Node) -> Result<String> {
    let output = node.exec(
        "ss",
        &["--tcp", "--all", "--numeric", "--no-header", "--oneline", "--extended", "--options"],
    )?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Error::Unclear { what: format!("ss on {}", node.name), why });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The orphans of the whole machine, as the node's sockstat shows them.
pub fn machine_orphans(node: &Node) -> Result<u64> {
    let text = node.read_proc_net("sockstat")?;
    let unclear = || Error::Unclear { what: format!("sockstat on {}", node.name), why: text.clone() };
    let line = text.lines().find(|line| line.starts_with("TCP: ")).ok_or_else(unclear)?;
    let mut words = line.split_ascii_whitespace().skip_while(|word| *word != "orphan").skip(1);
    words.next().and_then(|word| word.parse().ok()).ok_or_else(unclear)
}

fn is_probing(line: &str) -> bool {
    line.contains("timer:(persist")
}

fn count(text: &str) -> SocketCounts {
    let mut listed = SocketCounts::default();
    for line in text.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        // ss prints no inode for a socket that has none, and no owner for a mini-socket.
        let owned = words.iter().any(|word| word.starts_with("ino:") && *word != "ino:0");
        let full = !line.contains("timer:(timewait");
        // A FIN that is not acknowledged is one byte of Send-Q.
        let unsent = words.get(2).and_then(|queue| queue.parse::<u64>().ok()).is_some_and(|queue| queue > 1);
        let state = match words.first().copied().unwrap_or_default() {
            "TIME-WAIT" => &mut listed.time_wait,
            "CLOSE-WAIT" => {
                listed.unaccepted += u64::from(!owned);
                &mut listed.close_wait
            }
            "FIN-WAIT-1" => {
                listed.zero_window_orphans += u64::from(!owned && unsent && is_probing(line));
                &mut listed.fin_wait1
            }
            "FIN-WAIT-2" => {
                listed.fin_wait2_held += u64::from(owned);
                &mut listed.fin_wait2
            }
            "CLOSING" => &mut listed.closing,
            "LAST-ACK" => &mut listed.last_ack,
            _ => continue,
        };
        *state += 1;
        // In CLOSE_WAIT a socket without an owner waits to be accepted.
        let closes = !line.starts_with("CLOSE-WAIT");
        listed.orphans += u64::from(closes && full && !owned);
    }
    listed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Captured from ss of iproute2 6.1.
    const LINES: &str = "\
TIME-WAIT 0 0 10.9.0.2:33000 10.9.0.3:80 timer:(timewait,59sec,0) ino:0 sk:1
FIN-WAIT-2 0 0 10.9.0.2:33001 10.9.0.3:80 timer:(timewait,59sec,0) ino:0 sk:2
FIN-WAIT-2 0 0 10.9.0.2:33002 10.9.0.3:80 ino:77 sk:3 -->
FIN-WAIT-1 0 1 10.9.0.2:33003 10.9.0.3:80 timer:(on,186ms,0) ino:0 sk:4 ---
FIN-WAIT-1 0 120001 10.9.0.2:33006 10.9.0.3:80 timer:(persist,1.2sec,3) ino:0 sk:7 ---
FIN-WAIT-1 0 120001 10.9.0.2:33007 10.9.0.3:80 timer:(persist,1.2sec,3) ino:78 sk:8 --->
FIN-WAIT-1 0 1 10.9.0.2:33008 10.9.0.3:80 timer:(persist,1.2sec,3) ino:0 sk:9 ---
CLOSING 0 1 10.9.0.2:33009 10.9.0.3:80 timer:(on,186ms,0) ino:79 sk:a ---
CLOSE-WAIT 1 0 10.9.0.2:33004 10.9.0.3:80 ino:0 sk:5
CLOSE-WAIT 1 0 10.9.0.2:33010 10.9.0.3:80 ino:80 sk:b
ESTAB 0 0 10.9.0.2:33005 10.9.0.3:80 ino:9 sk:6
";

    #[test]
    fn a_socket_is_told_by_its_state_its_timer_its_queue_and_its_owner() {
        let expected = SocketCounts {
            time_wait: 1,
            fin_wait1: 4,
            fin_wait2: 2,
            fin_wait2_held: 1,
            closing: 1,
            close_wait: 2,
            unaccepted: 1,
            last_ack: 0,
            orphans: 3,
            zero_window_orphans: 1,
        };
        assert_eq!(count(LINES), expected);
    }
}
