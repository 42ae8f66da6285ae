//! Confirm: look again before something is undone. A watch can lag, and one that was answered by an API server that is
//! behind can lag far.

use std::sync::Arc;
use std::time::Duration;

use crds::TcpCloseTuning;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, Client};

use super::{Limited, Limiter};
use crate::pace::Stopwatch;
use crate::resolve::Resolution;
use crate::snapshot::{Node, Snapshot, Tuning};
use crate::store::Objects;
use crate::summarise::Now;

/// More nodes than this are listed, not read one by one.
const FEW: usize = 10;
/// Nodes or tunings in one answer.
const PAGE: u32 = 500;
const TIMEOUT: Duration = Duration::from_secs(10);

/// A look that was not possible.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("list the tunings anew before values are taken back")]
    Tunings(#[source] kube::Error),
    #[error("read the nodes anew before values are taken back")]
    Nodes(#[source] kube::Error),
    #[error("look again before values are taken back: no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
}

/// What may be ordered now of what is decided on a snapshot. What has waited long enough is decided once more, on what a
/// quorum of the API server holds; where that cannot be had, it waits anew.
pub async fn limit(
    limiter: &mut Limiter,
    client: &Client,
    snapshot: &Snapshot,
    decide: impl Fn(&Snapshot) -> Resolution,
    now: Now,
) -> Limited {
    let first = limiter.limit(snapshot, decide(snapshot), now);
    if first.doubtful.is_empty() {
        return first;
    }
    let asked = Stopwatch::start();
    let fresh = match look(client, snapshot, &first.doubtful).await {
        Ok(fresh) => decide(&fresh),
        Err(error) => {
            tracing::warn!("{}", crate::chain(&error));
            Resolution::default()
        }
    };
    limiter.confirm(snapshot, &fresh, &first.doubtful, now.clock);
    let looked = asked.spent();
    let second = limiter.limit(snapshot, decide(snapshot), now);
    Limited { news: [first.news, second.news].concat(), looked, ..second }
}

/// The cluster as a quorum of the API server knows it: its tunings, and of its nodes these. An API server that no longer
/// knows the kind, because somebody makes its CRD anew, has not said that nobody wants a tuning.
async fn look(client: &Client, snapshot: &Snapshot, nodes: &[String]) -> Result<Snapshot, Error> {
    let looking = async {
        let tunings = tunings(client).await.map_err(Error::Tunings)?;
        let metadata = metadata(client, nodes).await.map_err(Error::Nodes)?;
        let asked = |name: &String| nodes.len() > FEW || nodes.contains(name);
        Ok(Snapshot { nodes: with_metadata(snapshot, asked, metadata), tunings, ..snapshot.clone() })
    };
    tokio::time::timeout(TIMEOUT, looking).await.unwrap_or(Err(Error::Timeout))
}

async fn tunings(client: &Client) -> kube::Result<Vec<Tuning>> {
    let api = Api::<DeserializeGuard<TcpCloseTuning>>::all(client.clone());
    let mut tunings = Vec::new();
    // Without a resourceVersion, a list is what a quorum holds.
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = api.list(&page).await?;
        tunings.extend(list.items.iter().map(Tuning::from));
        match list.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => page = page.continue_token(&next),
            None => break,
        }
    }
    tunings.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(tunings)
}

/// A Node has 10 to 20 KB; only its name, uid and labels say which tunings are for it.
async fn metadata(client: &Client, nodes: &[String]) -> kube::Result<Vec<ObjectMeta>> {
    let api = Api::<Node>::all(client.clone());
    let mut found = Vec::new();
    if nodes.len() <= FEW {
        for name in nodes {
            match api.get_metadata(name).await {
                Ok(node) => found.push(node.metadata),
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        return Ok(found);
    }
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = api.list_metadata(&page).await?;
        found.extend(list.items.into_iter().map(|node| node.metadata));
        match list.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => page = page.continue_token(&next),
            None => return Ok(found),
        }
    }
}

/// The nodes, with what was found of those that were asked for. One that was not found is gone.
fn with_metadata(
    snapshot: &Snapshot,
    asked: impl Fn(&String) -> bool,
    found: Vec<ObjectMeta>,
) -> Objects<Node> {
    let others = snapshot.nodes.iter();
    let mut nodes: Objects<Node> =
        others.filter(|(name, _)| !asked(name)).map(|(name, node)| (name.clone(), node.clone())).collect();
    nodes.extend(found.into_iter().filter_map(|metadata| {
        let name = metadata.name.clone()?;
        let mut node = (**snapshot.nodes.get(&name)?).clone();
        node.metadata = metadata;
        node.strip();
        Some((name, Arc::new(node)))
    }));
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Cluster, node};

    #[test]
    fn what_was_asked_for_is_as_it_was_found_and_the_rest_as_it_was_known() {
        let cluster = Cluster::new(&["n1", "n2", "n3"], vec![]);
        let mut found = node("n1").metadata;
        found.labels.get_or_insert_default().insert("name".into(), "fresh".into());
        let nodes = with_metadata(&cluster.snapshot, |name| name != "n3", vec![found]);
        assert_eq!(nodes.keys().collect::<Vec<_>>(), ["n1", "n3"], "n2 is gone");
        assert_eq!(nodes["n1"].labels().get("name"), Some("fresh"));
        assert!(nodes["n1"].is_ready(), "what else is known of it stays");
    }
}
