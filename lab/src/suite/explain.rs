//! What people see of the resources before they write one: `kubectl explain`, names, and columns.

use serde_json::Value;

use super::{Failure, Outcome, Suite, Test, ensure, everywhere};

pub(super) const TESTS: &[Test] = &[
    Test { name: "kubectl_explain_describes_every_field_and_its_bounds", run: explain },
    Test { name: "short_names_and_the_category_list_both_kinds", run: names },
    Test { name: "the_columns_are_those_of_an_on_call_engineer", run: columns },
];

/// A field of a schema, with the path that `kubectl explain` takes.
struct Field<'a> {
    path: String,
    schema: &'a Value,
}

/// Every field below a schema, depth first.
fn fields<'a>(path: &str, schema: &'a Value) -> Vec<Field<'a>> {
    let own = schema["properties"].as_object().into_iter().flatten();
    let below = own.flat_map(|(name, field)| {
        let path = format!("{path}.{name}");
        let mut found = vec![Field { path: path.clone(), schema: field }];
        found.extend(fields(&path, field));
        found.extend(fields(&path, &field["items"]));
        found
    });
    below.collect()
}

/// A text without the lines that a terminal's width made.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn explain(suite: &Suite) -> Outcome {
    let definition = suite.get("customresourcedefinition", "tcpclosetunings.tcpclose.dev")?;
    let spec = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let fields = fields("tct.spec", spec);
    let sysctls = fields.iter().filter(|field| field.path.starts_with("tct.spec.sysctls.")).count();
    ensure(sysctls == tcp_close::Sysctl::ALL.len(), || format!("{sysctls} sysctls have a field"))?;
    for field in &fields {
        let said = suite.cluster.kubectl(&["explain", &field.path])?;
        is_explained(field, &said).map_err(|why| Failure(format!("{}: {why}:\n{said}", field.path)))?;
    }
    println!("    {} fields", fields.len());
    Ok(())
}

fn is_explained(Field { path, schema }: &Field<'_>, said: &str) -> Result<(), String> {
    let description = schema["description"].as_str().unwrap_or_default();
    if description.len() < 15 || description.contains('\n') || !flat(said).contains(&flat(description)) {
        return Err(format!("not described in one paragraph: {description:?}"));
    }
    let name = path.rsplit('.').next().unwrap_or_default();
    if !said.contains(&format!("FIELD: {name} <")) {
        return Err("its name and type are missing".into());
    }
    for word in schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !said.lines().any(|line| line.trim() == word) {
            return Err(format!("it does not say that {word} is a choice"));
        }
    }
    // kubectl prints no bounds but those in the text.
    if let (Some(low), Some(high)) = (schema["minimum"].as_f64(), schema["maximum"].as_f64()) {
        let bounds = format!("{low:.0} to {high:.0}");
        if !flat(said).contains(&bounds) {
            return Err(format!("it does not say {bounds}"));
        }
    } else if schema["type"] == "integer" {
        return Err("a number without bounds".into());
    }
    Ok(())
}

fn names(suite: &Suite) -> Outcome {
    suite.tune("web", &everywhere(&["tcpFinTimeoutSeconds: 30"]))?;
    let tunings = ["tcpclosetuning.tcpclose.dev/web".to_owned()];
    let nodes: Vec<_> = suite.cluster.nodes().iter().map(|node| node.name.clone()).collect();
    let nodes: Vec<_> = nodes.iter().map(|name| format!("tcpclosenode.tcpclose.dev/{name}")).collect();
    let both = [&nodes[..], &tunings].concat();
    for (name, expected) in [
        ("tct", &tunings[..]),
        ("tcpclosetuning", &tunings),
        ("tcn", &nodes),
        ("tcpclosenode", &nodes),
        ("tcpclose", &both),
    ] {
        let said = suite.cluster.kubectl(&["get", name, "--output", "name"])?;
        let mut seen: Vec<_> = said.lines().map(ToOwned::to_owned).collect();
        seen.sort();
        ensure(seen == expected, || format!("kubectl get {name} lists {seen:?}, not {expected:?}"))?;
    }
    Ok(())
}

fn columns(suite: &Suite) -> Outcome {
    suite.tune("web", &everywhere(&["tcpFinTimeoutSeconds: 30"]))?;
    suite.wait_until_applied("web")?;
    for (arguments, expected) in [
        (&["get", "tct"][..], "NAME READY REASON NODES TIME-WAIT ORPHANS AGE"),
        (
            &["get", "tct", "--output", "wide"],
            "NAME READY REASON NODES TIME-WAIT ORPHANS MODE FIN-WAIT1 FIN-WAIT2 CLOSING CLOSE-WAIT LAST-ACK AGE MESSAGE",
        ),
        (&["get", "tcn"], "NAME IN-FORCE STATE TIME-WAIT ORPHANS REASON REPORTED"),
        (
            &["get", "tcn", "--output", "wide"],
            "NAME IN-FORCE STATE TIME-WAIT ORPHANS REASON REPORTED KERNEL REVISION AGE",
        ),
    ] {
        let said = suite.cluster.kubectl(arguments)?;
        let seen = flat(said.lines().next().unwrap_or_default());
        ensure(seen == expected, || format!("kubectl {}: {seen}", arguments.join(" ")))?;
    }
    let row = suite.cluster.kubectl(&["get", "tct", "web", "--no-headers"])?;
    let count = suite.cluster.nodes().len();
    let expected = format!("web True Applied {count}/{count} ");
    ensure(flat(&row).starts_with(&expected), || row.clone())
}
