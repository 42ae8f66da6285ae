//! What Prometheus would read: the operator's metrics say what the statuses say.

use std::{collections::BTreeMap, time::Duration};

use super::{Outcome, Suite, Test, ensure, everywhere, privilege::in_namespace};
use crate::{
    error::{Error, Result},
    install::NAMESPACE,
    report::{Seen, poll_until},
};

pub(super) const TESTS: &[Test] =
    &[Test { name: "the_operators_metrics_say_what_the_statuses_say", run: operator }];

/// A status is computed a moment after the change that it is about.
const SHOWN: Duration = Duration::from_secs(15);

/// The samples of the operator, each under its name and labels.
pub(super) fn scrape(suite: &Suite) -> Result<BTreeMap<String, String>> {
    let pods = in_namespace(suite, &["pods", "--selector=app.kubernetes.io/component=operator"])?;
    let name = pods["items"][0]["metadata"]["name"].as_str().unwrap_or_default();
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}:8081/proxy/metrics");
    let text = suite.cluster.kubectl(&["get", "--raw", &path])?;
    if !text.ends_with("# EOF\n") {
        return Err(Error::Unclear { what: path, why: "not a whole OpenMetrics text".into() });
    }
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.filter_map(|line| line.rsplit_once(' '));
    Ok(samples.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

fn operator(suite: &Suite) -> Outcome {
    suite.tune("web", &everywhere(&["tcpFinTimeoutSeconds: 30"]))?;
    suite.wait_until_applied("web")?;
    let nodes = suite.cluster.nodes().len().to_string();
    let expected = [
        ("tcpclose_operator_leader", "1"),
        ("tcpclose_nodes", &nodes),
        ("tcpclose_nodes_matched", &nodes),
        ("tcpclose_nodes_silent", "0"),
        ("tcpclose_tunings", "1"),
        ("tcpclose_tuning_nodes{tuning=\"web\",state=\"updated\"}", &nodes),
        ("tcpclose_tuning_condition{tuning=\"web\",type=\"Ready\",status=\"true\"}", "1"),
        ("tcpclose_tuning_counted_nodes{tuning=\"web\"}", &nodes),
    ];
    poll_until("the operator shows what the status says", SHOWN, || {
        let samples = scrape(suite)?;
        let wrong: Vec<_> = expected
            .iter()
            .filter(|(name, value)| samples.get(*name).is_none_or(|seen| seen != value))
            .map(|(name, value)| format!("{name} is {:?}, not {value}", samples.get(*name)))
            .collect();
        Ok(Seen::when(wrong.is_empty(), || wrong.join("; ")))
    })?;
    let taken = "tcpclose_operator_api_writes_total{kind=\"order\",result=\"taken\"}";
    let samples = scrape(suite)?;
    let written = samples.get(taken).and_then(|count| count.parse::<u64>().ok());
    ensure(written.is_some_and(|count| count > 0), || format!("{taken} is {written:?}"))
}
