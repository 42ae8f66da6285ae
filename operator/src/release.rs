//! Release: what runs before an uninstall. It asks the operator to take every order back, waits until the nodes have
//! done so, and says which have not. Whatever happens, it comes to an end: nobody's uninstall hangs on a dead node.

mod ledger;

use std::fmt;
use std::time::Duration;

use crds::client::backoff;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use serde_json::json;

use crate::snapshot::{Node, OrderObject};
use crate::switch::{KEY, NAME, RELEASE};
use ledger::{Health, Ledger};

/// Who the API server says has thrown the switch.
const FIELD_MANAGER: &str = "tcp-close-uninstall";
const TIMEOUT: Duration = Duration::from_secs(10);
/// A list for people names no more nodes.
const LISTED_MAX: usize = 100;
const CONCURRENT: usize = 8;

/// What became of it, for people.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What did not work.
    pub problems: Vec<String>,
    /// How many nodes had something to put back.
    pub nodes: usize,
    /// What was not put back and why, node by node, the first by name.
    pub not_restored: Vec<String>,
    /// How many more there are.
    pub more: usize,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        if self.not_restored.is_empty() {
            return match self.nodes {
                0 if !self.problems.is_empty() => Ok(()),
                0 => writeln!(f, "no node is known to hold a value of a tuning"),
                nodes => writeln!(f, "put back on every node that held a value of a tuning: {nodes}"),
            };
        }
        writeln!(f, "not restored:")?;
        for line in &self.not_restored {
            writeln!(f, "  {line}")?;
        }
        if self.more > 0 {
            writeln!(f, "  and {} more", self.more)?;
        }
        writeln!(
            f,
            "These nodes keep their values until they boot. An agent that is installed again still knows the old ones, and \
             puts them back when the tuning is deleted."
        )
    }
}

/// A step that the API server did not take.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("ask the operator to take its orders back (ConfigMap {1}/{NAME})")]
    Ask(#[source] kube::Error, String),
    #[error("ask the operator to take its orders back (ConfigMap {namespace}/{NAME}): no answer within {} s", TIMEOUT.as_secs())]
    NoAnswer { namespace: String },
    #[error("TcpCloseNodes are not defined in this cluster any longer: what the nodes hold is not known")]
    NotDefined,
    #[error("read the TcpCloseNodes: what the nodes hold is not known")]
    Denied(#[source] kube::Error),
}

/// Asks, waits no longer than this, and says what is left. Without an operator that could have been asked, it does not
/// wait.
pub async fn release(client: &Client, namespace: &str, patience: Duration) -> Outcome {
    let asked = ask(client, namespace).await;
    let mut ledger = Ledger::default();
    let followed = if asked.is_ok() {
        let following = follow(client, &mut ledger, Ledger::is_settled);
        tokio::time::timeout(patience, following).await
    } else {
        tokio::time::timeout(TIMEOUT, follow(client, &mut ledger, Ledger::is_listed)).await
    };
    let mut problems: Vec<_> = asked.err().iter().map(|error| crate::chain(error)).collect();
    match followed {
        Ok(Ok(())) => {}
        Ok(Err(error)) => problems.push(crate::chain(&error)),
        Err(_) => problems.extend(ledger.unheard()),
    }
    let left: Vec<_> = ledger.left().collect();
    let more = left.len().saturating_sub(LISTED_MAX);
    let listed = left.into_iter().take(LISTED_MAX);
    let lines = listed.map(async |left| left.said(health(client, left.node).await));
    let not_restored = futures::stream::iter(lines).buffered(CONCURRENT).collect().await;
    Outcome { problems, nodes: ledger.nodes(), not_restored, more }
}

/// Throws the switch.
async fn ask(client: &Client, namespace: &str) -> Result<(), Error> {
    let patch = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": NAME, "namespace": namespace },
        "data": { KEY: RELEASE },
    });
    let api = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let (params, patch) = (PatchParams::apply(FIELD_MANAGER).force(), Patch::Apply(&patch));
    let asking = api.patch(NAME, &params, &patch);
    match tokio::time::timeout(TIMEOUT, asking).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(Error::Ask(error, namespace.into())),
        Err(_) => Err(Error::NoAnswer { namespace: namespace.into() }),
    }
}

/// Notes what the nodes say until that is enough, or can never be.
async fn follow(client: &Client, ledger: &mut Ledger, enough: fn(&Ledger) -> bool) -> Result<(), Error> {
    let api = Api::<OrderObject>::all(client.clone());
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).backoff(backoff()));
    loop {
        match events.try_next().await {
            Ok(Some(event)) => ledger.note(event),
            Ok(None) => return Ok(()),
            Err(watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error))
                if is_final(&error) =>
            {
                return Err(if is_code(&error, 404) { Error::NotDefined } else { Error::Denied(error) });
            }
            Err(error) => ledger.note_trouble(crate::chain(&error)),
        }
        if enough(ledger) {
            return Ok(());
        }
    }
}

/// Whether to ask again would get the same answer.
fn is_final(error: &kube::Error) -> bool {
    [401, 403, 404].into_iter().any(|code| is_code(error, code))
}

fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// How the Node is. It is looked at for those that are listed, and only to say why.
async fn health(client: &Client, node: &str) -> Health {
    let api = Api::<Node>::all(client.clone());
    match tokio::time::timeout(TIMEOUT, api.get_opt(node)).await {
        Ok(Ok(Some(node))) if node.is_ready() => Health::Ready,
        Ok(Ok(Some(_))) => Health::NotReady,
        Ok(Ok(None)) => Health::Gone,
        Ok(Err(_)) | Err(_) => Health::Unknown,
    }
}

#[cfg(test)]
mod tests;
