//! The agents of a process, and, to compare, writers of the naive design.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crds::{TcpCloseNode, TcpCloseNodeStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use node_agent::{
    procfs::Procfs,
    run::{Agent, Settings, TURN},
};
use serde_json::json;
use tokio::time::MissedTickBehavior;

use super::{Crowd, kernel::Memory};
use crate::{
    bench::client::api,
    error::{Error, Result},
};

/// The API server puts these into the token of an agent's pod; the admission policy reads them.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const NODE_UID: &str = "authentication.kubernetes.io/node-uid";

/// A node as its agent knows it.
pub(super) struct Node {
    name: String,
    pub(super) uid: String,
}

/// One in each line: its name and its uid.
pub(super) fn nodes(text: &str) -> Vec<Node> {
    let words = text.lines().filter_map(|line| line.split_once(' '));
    words.map(|(name, uid)| Node { name: name.into(), uid: uid.into() }).collect()
}

/// The next agent waits while as many nodes hold no order yet as start in so many seconds: who pressed on with a control plane that
/// is behind would only put it further back.
const BEHIND_MAX: usize = 5;
/// Between two looks at that.
const LOOK: Duration = Duration::from_millis(50);

/// Starts an agent, or a writer, for each node, one after the other. Returns when the last has been started.
pub(super) async fn start(crowd: Crowd, nodes: Vec<Node>, kernels: Vec<Memory>) -> Result<()> {
    let behind_max = crowd.starts_per_second as usize * BEHIND_MAX;
    let config = config(&crowd).await?;
    let mut starts = tokio::time::interval(Duration::from_secs(1) / crowd.starts_per_second.max(1));
    starts.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for (at, (node, kernel)) in nodes.into_iter().zip(kernels).enumerate() {
        starts.tick().await;
        let config = impersonating(&config, &crowd.user, &node);
        if let Some(interval) = crowd.naive {
            // A client that keeps its connection: a new one for each write would be unfair.
            let client = Client::try_from(config).map_err(api("make a client"))?;
            tokio::task::spawn_local(write_naively(client, node.name, interval));
        } else {
            while at.saturating_sub(kernel.board().ordered()) >= behind_max {
                tokio::time::sleep(LOOK).await;
            }
            let client =
                crds::client::client(&config, crds::client::IDLE_OF_MANY).map_err(api("make a client"))?;
            let settings = Settings {
                turn: if at < crowd.timed { TURN } else { crowd.turn },
                state_dir: crowd.journals.join(&node.name),
                node: node.name,
                procfs: Procfs::of(Arc::new(kernel)),
                node_address: None,
                pods: None,
                textfile_directory: None,
                report_peers: false,
            };
            tokio::task::spawn_local(async move { Agent::new(settings, client).live(|| ()).await });
        }
    }
    Ok(())
}

async fn config(crowd: &Crowd) -> Result<Config> {
    let unclear = |why: String| Error::Unclear { what: crowd.kubeconfig.display().to_string(), why };
    let saved = Kubeconfig::read_from(&crowd.kubeconfig).map_err(|error| unclear(error.to_string()))?;
    let config = Config::from_custom_kubeconfig(saved, &KubeConfigOptions::default()).await;
    let mut config = config.map_err(|error| unclear(error.to_string()))?;
    config.cluster_url = crowd.server.parse().map_err(|_| unclear(crowd.server.clone()))?;
    Ok(config)
}

/// To the API server this is the agent's service account with a token of its pod on that node.
fn impersonating(config: &Config, user: &str, node: &Node) -> Config {
    let mut config = config.clone();
    config.auth_info.impersonate = Some(user.into());
    config.auth_info.impersonate_user_extra = Some(HashMap::from([
        (NODE_NAME.into(), vec![node.name.clone()]),
        (NODE_UID.into(), vec![node.uid.clone()]),
    ]));
    config
}

/// The naive design: what is stored is written anew at an interval, whatever has happened.
async fn write_naively(client: Client, node: String, interval: Duration) -> Result<()> {
    let api_ = Api::<TcpCloseNode>::all(client);
    let stored = api_.get(&node).await.map_err(api("read a TcpCloseNode"))?.status.unwrap_or_default();
    let mut writes = tokio::time::interval(interval);
    writes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        writes.tick().await;
        let status = TcpCloseNodeStatus { reported_at: Some(Time(Timestamp::now())), ..stored.clone() };
        // What fails shows as a write that is not counted.
        let patch = Patch::Merge(json!({ "status": status }));
        let _ = api_.patch_status(&node, &PatchParams::default(), &patch).await;
    }
}
