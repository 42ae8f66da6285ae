//! The switch: one word for the whole cluster, in the ConfigMap `tcpclose-control` of the operator's namespace.
//! `kubectl patch` is all that an on-call engineer needs to stop everything, or to take everything back.

use k8s_openapi::api::core::v1::ConfigMap;

/// The ConfigMap.
pub const NAME: &str = "tcpclose-control";
/// Its key.
pub const KEY: &str = "state";
/// The word by which every order becomes its own removal.
pub const RELEASE: &str = "Release";

/// What the switch says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Switch {
    /// Work: what is there while nobody has said anything.
    #[default]
    Run,
    /// Leave every order as it is.
    Hold,
    /// Take every value back, by its removal policy.
    Release,
    /// A word that nobody knows. Somebody meant something by it, so nothing moves.
    Unknown(String),
}

impl Switch {
    /// What it says now, given what it said before. A map that went after it had said Release went with the product: that
    /// does not mean that everything is to be ordered anew.
    #[must_use]
    pub fn read(map: Option<&ConfigMap>, before: &Self) -> Self {
        let Some(map) = map else {
            return if *before == Self::Release { Self::Release } else { Self::Run };
        };
        match map.data.iter().flatten().find(|(key, _)| *key == KEY).map(|(_, word)| word.trim()) {
            None | Some("Run") => Self::Run,
            Some("Hold") => Self::Hold,
            Some(RELEASE) => Self::Release,
            Some(other) => Self::Unknown(other.chars().take(WORD_MAX).collect()),
        }
    }

    /// Whether every order stays as it is.
    pub fn freezes(&self) -> bool {
        matches!(self, Self::Hold | Self::Unknown(_))
    }

    /// Its state in one word, as metrics show it.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Unknown(_) => "unknown",
        }
    }

    /// Every word of [`label`](Self::label).
    pub const LABELS: [&'static str; 4] = ["run", "hold", "release", "unknown"];

    /// Why nothing is ordered, for people; `None` where it says Run.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Run => None,
            Self::Hold => Some(format!("ConfigMap {NAME} says Hold: every order stays as it is")),
            Self::Release => Some(format!("ConfigMap {NAME} says Release: every value is taken back")),
            Self::Unknown(word) => Some(format!(
                "ConfigMap {NAME} says {word:?}, which is no known word: every order stays as it is. Let {KEY} be Run, Hold \
                 or Release"
            )),
        }
    }
}

/// So much of a word that nobody knows is repeated.
const WORD_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn map(state: Option<&str>) -> ConfigMap {
        let data = state.map(|state| [(KEY.to_string(), state.to_string())].into());
        ConfigMap { data, ..ConfigMap::default() }
    }

    fn read(state: &str) -> Switch {
        Switch::read(Some(&map(Some(state))), &Switch::Run)
    }

    #[test]
    fn an_absent_map_or_key_means_run() {
        assert_eq!(Switch::read(None, &Switch::Run), Switch::Run);
        assert_eq!(Switch::read(None, &Switch::Hold), Switch::Run);
        assert_eq!(Switch::read(Some(&map(None)), &Switch::Hold), Switch::Run);
    }

    #[test]
    fn each_word_is_read_and_another_one_is_kept_to_be_said() {
        assert_eq!(
            [read("Run"), read("Hold"), read("Release\n")],
            [Switch::Run, Switch::Hold, Switch::Release]
        );
        assert_eq!(read("hold"), Switch::Unknown("hold".into()));
        assert!(read("hold").reason().unwrap().contains("says \"hold\", which is no known word"));
        assert_eq!(read(&"x".repeat(4_000)), Switch::Unknown("x".repeat(32)));
    }

    #[test]
    fn release_outlives_its_map_until_a_map_is_seen_again() {
        assert_eq!(Switch::read(None, &Switch::Release), Switch::Release);
        assert_eq!(Switch::read(Some(&map(None)), &Switch::Release), Switch::Run);
    }
}
