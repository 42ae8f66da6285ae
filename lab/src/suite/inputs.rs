//! Bad input: each gets an answer that names the field and says what to do. Nothing else is disturbed, nothing is lost.

use serde_json::Value;
use tcp_close::{Sysctl, rule::RULES};

use super::{FIN_TIMEOUT, Failure, Outcome, SOON, Suite, Test, ensure, everywhere, tuning};
use crate::report::{Seen, poll_until};

pub(super) const TESTS: &[Test] = &[
    Test { name: "a_value_of_a_wrong_type_is_refused_with_its_field", run: wrong_types },
    Test { name: "a_value_out_of_bounds_is_refused_with_its_field_and_the_bound", run: out_of_bounds },
    Test { name: "values_that_mean_less_than_they_say_are_refused_with_what_to_do", run: object_rules },
    Test { name: "unknown_and_misspelt_fields_are_refused_by_their_names", run: unknown_fields },
    Test { name: "where_unknown_fields_are_dropped_nothing_is_wider_or_stronger", run: dropped_fields },
    Test { name: "what_is_missing_or_empty_is_refused_by_its_name", run: missing },
    Test { name: "a_refused_edit_leaves_what_was_in_force", run: refused_edits },
    Test { name: "a_selector_that_matches_nothing_is_ready_and_says_so", run: no_matching_nodes },
];

/// The rest of a spec in which only the sysctls are of interest.
const EVERYWHERE: &str = "nodeSelector: {matchLabels: {kubernetes.io/os: linux}}, mode: Enforce";
/// A client that leaves it to the server to drop what it does not know.
const DROPPING: &[&str] = &["--validate=false"];

/// A spec in YAML's short form, and what the answer must hold.
struct Bad {
    spec: String,
    says: Vec<String>,
}

impl Bad {
    fn new(spec: impl Into<String>, says: &[&str]) -> Self {
        Self { spec: spec.into(), says: says.iter().map(ToString::to_string).collect() }
    }

    /// A spec that is good but for its sysctls.
    fn sysctls(sysctls: &str, says: &[&str]) -> Self {
        Self::new(format!("{EVERYWHERE}, sysctls: {sysctls}"), says)
    }

    /// A spec that is good but for its selector.
    fn selector(selector: &str, says: &[&str]) -> Self {
        Self::new(format!("nodeSelector: {selector}, mode: Enforce, sysctls: {{tcpTwReuse: 1}}"), says)
    }
}

fn manifest(name: &str, spec: &str) -> String {
    tuning(name, &format!("  {{{spec}}}"))
}

/// Applies each under this name, and compares the answers.
fn are_refused(suite: &Suite, name: &str, options: &[&str], cases: &[Bad]) -> Outcome {
    for Bad { spec, says } in cases {
        let answer = suite
            .refused(&manifest(name, spec), options)
            .map_err(|Failure(why)| Failure(format!("{{{spec}}}: {why}")))?;
        let lacks = says.iter().find(|words| !answer.contains(*words));
        ensure(lacks.is_none(), || format!("{{{spec}}}: the answer lacks {lacks:?}:\n{answer}"))?;
    }
    println!("    {} refused", cases.len());
    Ok(())
}

fn is_accepted(suite: &Suite, spec: &str) -> Outcome {
    suite.cluster.apply_with(&["--dry-run=server"], &manifest("bad", spec)).map(drop)?;
    Ok(())
}

/// Does something while a tuning is in force, and finds that tuning, its orders and its values as they were, and no other
/// tuning beside it.
fn beside_a_good_tuning(suite: &Suite, act: impl FnOnce() -> Outcome) -> Outcome {
    suite.tune("good", &everywhere(&["tcpFinTimeoutSeconds: 30"]))?;
    suite.wait_until_applied("good")?;
    let before = state(suite)?;
    act()?;
    let after = state(suite)?;
    ensure(before == after, || format!("before: {before:#?}\nafter: {after:#?}"))?;
    let values = suite.values(FIN_TIMEOUT)?;
    ensure(values.iter().all(|live| live == "30"), || format!("the kernels hold {values:?}"))
}

/// All tunings with their specs and conditions, and all orders: what bad input must not move.
fn state(suite: &Suite) -> Result<Vec<Value>, Failure> {
    let mut state = Vec::new();
    for (kind, parts) in [
        ("tcpclosetunings", &["/metadata/name", "/metadata/uid", "/spec", "/status/conditions"][..]),
        ("tcpclosenodes", &["/metadata/name", "/spec"]),
    ] {
        let list = suite.get(kind, "")?;
        for object in list["items"].as_array().into_iter().flatten() {
            state.extend(parts.iter().filter_map(|part| object.pointer(part).cloned()));
        }
    }
    Ok(state)
}

fn wrong_types(suite: &Suite) -> Outcome {
    let mut cases: Vec<_> = Sysctl::ALL
        .iter()
        .map(|sysctl| {
            let field = sysctl.field();
            let says = format!("spec.sysctls.{field} in body must be of type integer: \"string\"");
            Bad::sysctls(&format!("{{{field}: \"1\"}}"), &[&says])
        })
        .collect();
    let sysctls = "sysctls: {tcpTwReuse: 1}";
    cases.extend([
        Bad::sysctls("{tcpFinTimeoutSeconds: 30.5}", &["spec.sysctls.tcpFinTimeoutSeconds", "type int64"]),
        Bad::sysctls("{tcpFinTimeoutSeconds: true}", &["spec.sysctls.tcpFinTimeoutSeconds", "type int64"]),
        Bad::sysctls("{tcpFinTimeoutSeconds: 30s}", &["spec.sysctls.tcpFinTimeoutSeconds", "type integer"]),
        Bad::sysctls("[tcpTwReuse]", &["spec.sysctls in body must be of type object: \"array\""]),
        Bad::new(format!("{EVERYWHERE}, {sysctls}, priority: high"), &["spec.priority", "type integer"]),
        Bad::new(format!("{EVERYWHERE}, {sysctls}, safety: Never"), &["spec.safety", "type object"]),
        Bad::new(
            format!("{EVERYWHERE}, {sysctls}, removalPolicy: restore"),
            &["spec.removalPolicy: Unsupported value: \"restore\": supported values: \"Restore\", \"Keep\""],
        ),
        Bad::new(
            format!("nodeSelector: {{matchLabels: {{kubernetes.io/os: linux}}}}, mode: enforce, {sysctls}"),
            &["spec.mode: Unsupported value: \"enforce\": supported values: \"Enforce\", \"Observe\""],
        ),
        Bad::selector("web", &["spec.nodeSelector", "type object"]),
        Bad::selector("{matchLabels: {gpu: true}}", &["spec.nodeSelector.matchLabels.gpu", "type string"]),
        Bad::selector(
            "{matchExpressions: [{key: pool, operator: in, values: [web]}]}",
            &[
                "spec.nodeSelector.matchExpressions[0].operator: Unsupported value: \"in\"",
                "\"In\", \"NotIn\", \"Exists\", \"DoesNotExist\"",
            ],
        ),
    ]);
    beside_a_good_tuning(suite, || are_refused(suite, "bad", &[], &cases))
}

fn out_of_bounds(suite: &Suite) -> Outcome {
    let mut cases = Vec::new();
    for sysctl in Sysctl::ALL {
        let (field, bounds) = (sysctl.field(), sysctl.facts().orderable);
        let (low, high) = (*bounds.start(), *bounds.end());
        let body = format!("spec.sysctls.{field} in body should be");
        let below = format!("Invalid value: {}: {body} greater than or equal to {low}", low - 1);
        let above = format!("Invalid value: {}: {body} less than or equal to {high}", high + 1);
        cases.push(Bad::sysctls(&format!("{{{field}: {}}}", low - 1), &[&below]));
        cases.push(Bad::sysctls(&format!("{{{field}: {}}}", high + 1), &[&above]));
    }
    for (priority, says) in [(1001, "less than or equal to 1000"), (-1001, "greater than or equal to -1000")]
    {
        let spec = format!("{EVERYWHERE}, priority: {priority}, sysctls: {{tcpTwReuse: 1}}");
        cases.push(Bad::new(spec, &["spec.priority", says]));
    }
    beside_a_good_tuning(suite, || are_refused(suite, "bad", &[], &cases))
}

/// The whole answer to a value that an object's own rule refuses.
pub(super) fn answer_of_rule(id: &str) -> Result<String, Failure> {
    let rule = RULES.iter().find(|rule| rule.id == id);
    let rule = rule.ok_or_else(|| Failure(format!("there is no rule {id}")))?;
    let field = rule.sysctl.map_or("", Sysctl::field);
    Ok(format!(
        "The TcpCloseTuning \"bad\" is invalid: spec.sysctls.{field}: Invalid value: {}",
        rule.object_message()
    ))
}

fn object_rules(suite: &Suite) -> Outcome {
    let fin_timeout = answer_of_rule("fin-timeout-61-to-89")?;
    let tw_reuse = answer_of_rule("tw-reuse-without-timestamps")?;
    let tw_recycle = answer_of_rule("tw-recycle-without-word")?;
    let timestamps = answer_of_rule("timestamps-off")?;
    let unknown =
        format!("{EVERYWHERE}, safety: {{clientsBehindNat: Unknown}}, sysctls: {{tcpTwRecycle: 1}}");
    // Whoever accepts to have no timestamps does not get what needs them.
    let acknowledged = "safety: {acknowledge: [timestamps-off]}";
    let no_timestamps = format!("{EVERYWHERE}, {acknowledged}, sysctls: {{tcpTwReuse: 1, tcpTimestamps: 0}}");
    let cases = [
        Bad::sysctls("{tcpFinTimeoutSeconds: 61}", &[&fin_timeout, "(1 to 60), or 90 and more"]),
        Bad::sysctls("{tcpFinTimeoutSeconds: 75}", &[&fin_timeout]),
        Bad::sysctls("{tcpFinTimeoutSeconds: 89}", &[&fin_timeout]),
        Bad::sysctls("{tcpTimestamps: 0}", &[&timestamps, "add timestamps-off to safety.acknowledge"]),
        Bad::new(no_timestamps, &[&tw_reuse, "set tcpTimestamps to 1"]),
        Bad::sysctls("{tcpTwRecycle: 1}", &[&tw_recycle, "set safety.clientsBehindNat to Never"]),
        Bad::new(unknown, &[&tw_recycle, "tcpTwReuse is the safe relative"]),
    ];
    is_accepted(suite, &format!("{EVERYWHERE}, {acknowledged}, sysctls: {{tcpTimestamps: 0}}"))?;
    beside_a_good_tuning(suite, || are_refused(suite, "bad", &[], &cases))
}

/// The field, in a spec that is good but for it.
const MISSPELT: &[(&str, &str)] = &[
    ("spec.removalPolcy", "removalPolcy: Keep, sysctls: {tcpTwReuse: 1}"),
    ("spec.sysctls.tcpFinTimeout", "sysctls: {tcpFinTimeout: 30, tcpTwReuse: 1}"),
    ("spec.sysctls.net.ipv4.tcp_fin_timeout", "sysctls: {net.ipv4.tcp_fin_timeout: 30, tcpTwReuse: 1}"),
    ("spec.sysctls.kernel.panic", "sysctls: {kernel.panic: 1, tcpTwReuse: 1}"),
    ("spec.safety.clientBehindNat", "safety: {clientBehindNat: Never}, sysctls: {tcpTwReuse: 1}"),
];

fn unknown_fields(suite: &Suite) -> Outcome {
    let own = MISSPELT.iter().map(|(field, rest)| (*field, format!("{EVERYWHERE}, {rest}")));
    let of_a_pod = "nodeSelector: {pool: web}, mode: Enforce, sysctls: {tcpTwReuse: 1}";
    let cases: Vec<_> = own.chain([("spec.nodeSelector.pool", of_a_pod.to_owned())]).collect();
    let strict: Vec<_> =
        cases.iter().map(|(field, spec)| Bad::new(spec, &[&format!("unknown field \"{field}\"")])).collect();
    // The way of Flux, Argo CD and `--server-side`: it knows no lenient mode.
    let typed: Vec<_> = cases
        .iter()
        .map(|(field, spec)| Bad::new(spec, &[&format!(".{field}: field not declared in schema")]))
        .collect();
    beside_a_good_tuning(suite, || {
        are_refused(suite, "bad", &[], &strict)?;
        are_refused(suite, "bad", &["--server-side"], &typed)?;
        are_refused(suite, "bad", &["--server-side", "--validate=false"], &typed)
    })
}

fn dropped_fields(suite: &Suite) -> Outcome {
    let empty = "spec.nodeSelector: Invalid value: must not be empty: say which nodes with matchLabels or \
                 matchExpressions (it is a label selector; a pod's nodeSelector goes under matchLabels). For every node: \
                 matchLabels: {kubernetes.io/os: linux}";
    let values =
        "spec.nodeSelector.matchExpressions[0].values: Invalid value: operators In and NotIn need values";
    let recycle = answer_of_rule("tw-recycle-without-word")?;
    let cases = [
        Bad::selector("{pool: web}", &[empty]),
        Bad::selector("{matchLabel: {pool: web}}", &[empty]),
        Bad::selector("{matchExpressions: [{key: pool, operator: In, value: [web]}]}", &[values]),
        Bad::selector("{matchExpressions: [{key: pool, operators: Exists}]}", &["operator: Required value"]),
        Bad::sysctls("{tcpFinTimeout: 30}", &["spec.sysctls in body should have at least 1 properties"]),
        Bad::new(format!("{EVERYWHERE}, syctls: {{tcpTwReuse: 1}}"), &["spec.sysctls: Required value"]),
        Bad::new(
            "nodeSelector: {matchLabels: {pool: web}}, modus: Observe, sysctls: {tcpTwReuse: 1}",
            &["spec.mode: Required value"],
        ),
        Bad::new(
            format!("{EVERYWHERE}, safety: {{clientBehindNat: Never}}, sysctls: {{tcpTwRecycle: 1}}"),
            &[&recycle],
        ),
    ];
    beside_a_good_tuning(suite, || {
        are_refused(suite, "bad", DROPPING, &cases)?;
        // Of two sysctls the one that is spelt right stays: less is ordered, never something else.
        let spec = format!("{EVERYWHERE}, sysctls: {{tcpFinTimeout: 30, tcpTwReuse: 1}}");
        let options = [DROPPING, &["--dry-run=server", "--output", "jsonpath={.spec.sysctls}"]].concat();
        let stored = suite.cluster.apply_with(&options, &manifest("bad", &spec))?;
        ensure(stored == r#"{"tcpTwReuse":1}"#, || stored.clone())
    })
}

fn missing(suite: &Suite) -> Outcome {
    let empty = "spec.nodeSelector: Invalid value: must not be empty: say which nodes with matchLabels or";
    let values = "matchExpressions[0].values: Invalid value: operators In and NotIn need values; Exists and DoesNotExist \
                  take none";
    let cases = [
        Bad::sysctls("{}", &["spec.sysctls in body should have at least 1 properties"]),
        Bad::sysctls("{tcpTwReuse: null}", &["spec.sysctls in body should have at least 1 properties"]),
        Bad::new(EVERYWHERE, &["spec.sysctls: Required value"]),
        Bad::new(
            "nodeSelector: {matchLabels: {pool: web}}, sysctls: {tcpTwReuse: 1}",
            &["spec.mode: Required value"],
        ),
        Bad::new("mode: Enforce, sysctls: {tcpTwReuse: 1}", &["spec.nodeSelector: Required value"]),
        Bad::selector("null", &["spec.nodeSelector: Required value"]),
        Bad::selector("{}", &[empty]),
        Bad::selector("{matchLabels: {}}", &[empty]),
        Bad::selector("{matchExpressions: []}", &[empty]),
        Bad::selector("{matchExpressions: [{key: pool, operator: In}]}", &[values]),
        Bad::selector("{matchExpressions: [{key: pool, operator: NotIn, values: []}]}", &[values]),
        Bad::selector("{matchExpressions: [{key: pool, operator: Exists, values: [web]}]}", &[values]),
        Bad::selector("{matchExpressions: [{key: pool}]}", &["operator: Required value"]),
        Bad::selector("{matchExpressions: [{operator: Exists}]}", &["key: Required value"]),
        Bad::selector("{matchExpressions: [{key: \"\", operator: Exists}]}", &["matchExpressions[0].key"]),
    ];
    beside_a_good_tuning(suite, || are_refused(suite, "bad", &[], &cases))
}

fn refused_edits(suite: &Suite) -> Outcome {
    let cases = [
        Bad::sysctls("{tcpFinTimeoutSeconds: 75}", &["spec.sysctls.tcpFinTimeoutSeconds"]),
        Bad::sysctls("{tcpFinTimeoutSeconds: 0}", &["spec.sysctls.tcpFinTimeoutSeconds"]),
        Bad::sysctls("{tcpFinTimeout: 20}", &["unknown field \"spec.sysctls.tcpFinTimeout\""]),
        Bad::sysctls("{}", &["spec.sysctls in body should have at least 1 properties"]),
        Bad::selector("{pool: web}", &["unknown field \"spec.nodeSelector.pool\""]),
        Bad::new(
            "nodeSelector: {matchLabels: {pool: web}}, sysctls: {tcpTwReuse: 1}",
            &["spec.mode: Required value"],
        ),
    ];
    let dropping = [
        Bad::selector("{pool: web}", &["spec.nodeSelector: Invalid value: must not be empty"]),
        Bad::sysctls("{tcpFinTimeout: 20}", &["spec.sysctls in body should have at least 1 properties"]),
    ];
    beside_a_good_tuning(suite, || {
        are_refused(suite, "good", &[], &cases)?;
        are_refused(suite, "good", DROPPING, &dropping)
    })
}

fn no_matching_nodes(suite: &Suite) -> Outcome {
    beside_a_good_tuning(suite, || {
        let spec =
            everywhere(&["tcpFinTimeoutSeconds: 20"]).replace("kubernetes.io/os: linux", "pool: nowhere");
        suite.tune("nowhere", &spec)?;
        let took = suite.wait_for_condition("nowhere", "Ready", ("True", "NoMatchingNodes"), SOON)?;
        println!("    said after {:.1} s", took.as_secs_f64());
        let object = suite.get("tcpclosetuning", "nowhere")?;
        let message = object["status"]["conditions"][0]["message"].as_str().unwrap_or_default();
        let words = "no Linux node has the labels that nodeSelector asks for";
        ensure(message.starts_with(words), || object["status"].to_string())?;
        poll_until("there is a warning about nowhere", SOON, || {
            let events = suite.get("events.events.k8s.io", "")?;
            let warns = |event: &Value| {
                event["regarding"]["uid"] == object["metadata"]["uid"]
                    && event["type"] == "Warning"
                    && event["reason"] == "NoMatchingNodes"
                    && event["note"] == message
            };
            let warned = events["items"].as_array().is_some_and(|items| items.iter().any(warns));
            Ok(Seen::when(warned, || "none".into()))
        })?;
        suite.cluster.kubectl(&["delete", "tcpclosetuning", "nowhere"])?;
        Ok(())
    })
}
