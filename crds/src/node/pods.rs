//! How connections close in the network namespaces of a node's pods, which the node's sysctls do not reach.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sockets::States;

/// The network namespaces on a node beside its own. Pods on the host's network are in the node's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pods {
    /// Why nothing is known of pods, where they are to be counted and cannot be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub unknown: Option<String>,
    /// How many namespaces there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<u32>,
    /// Of them: could not be read the last time. They are in no sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread: Option<u32>,
    /// Sockets in TIME_WAIT, and in FIN_WAIT2 after close(), which the kernel does not tell apart here, summed over the
    /// namespaces that were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_wait_and_fin_wait2: Option<u64>,
    /// When they were counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_at: Option<Time>,
    /// The ten with the most TIME_WAIT, the ten with the most CLOSE_WAIT and the ten with the most overflows, none twice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 30))]
    pub most: Vec<PodCounts>,
}

/// One pod's network namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodCounts {
    /// The pod's namespace. Absent, like the name, where no process in the network namespace belongs to a known container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub namespace: Option<String>,
    /// The pod's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub name: Option<String>,
    /// Its sockets in TIME_WAIT, and in FIN_WAIT2 after close(), which the kernel does not tell apart here. As old as the
    /// sum of all pods.
    pub time_wait_and_fin_wait2: u64,
    /// TCPTimeWaitOverflow: its connections that skipped TIME_WAIT because tcp_max_tw_buckets was reached, which a pod has of
    /// its own. Absent at first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overflows_per_minute: Option<u64>,
    /// Its closing sockets by state. They are read pod after pod, so each has its own age; absent until its turn has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub states: Option<States>,
}
