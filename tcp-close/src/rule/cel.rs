//! Rules that see the object alone, as CEL for the API server.

use super::{Predicate, Rule, Sees, Severity};

impl Rule {
    /// The rule over a tuning's `spec`, true where it is kept. `None` for one that forbids nothing, needs the node, or is in
    /// the schema already.
    pub fn cel(&self) -> Option<String> {
        let kept = format!("!({})", self.breach_as_cel()?);
        match self.severity {
            Severity::Refuse => Some(kept),
            Severity::Caution => Some(format!(
                "{kept} || (has(self.safety) && has(self.safety.acknowledge) && '{}' in self.safety.acknowledge)",
                self.id
            )),
            Severity::Note => None,
        }
    }

    /// What meets the rule, whoever accepts it; only of what an object alone can meet.
    pub fn breach_as_cel(&self) -> Option<String> {
        let (Sees::Object(predicate), Some(sysctl)) = (&self.sees, self.sysctl) else { return None };
        let field = format!("self.sysctls.{}", sysctl.field());
        Some(format!("has({field}) && {}", broken(predicate, &field)))
    }
}

fn broken(predicate: &Predicate, field: &str) -> String {
    match predicate {
        Predicate::In(range) if range.start() == range.end() => format!("{field} == {}", range.start()),
        Predicate::In(range) => format!("{field} >= {} && {field} <= {}", range.start(), range.end()),
        Predicate::While(this, other, that) => {
            let other = format!("self.sysctls.{}", other.field());
            format!("{field} == {this} && has({other}) && {other} == {that}")
        }
        Predicate::WithoutWordOnNat(this) => format!(
            "{field} == {this} && !(has(self.safety) && has(self.safety.clientsBehindNat) && \
             self.safety.clientsBehindNat == 'Never')"
        ),
    }
}
