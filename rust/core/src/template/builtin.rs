//! The built-in templates: builtin.json, in the same form as a user's own.

use super::chat_template::ChatTemplate;
use super::spec::Spec;
use std::sync::LazyLock;

/// All of them, as written. The order decides which one `auto` names where several render alike.
static SPECS: LazyLock<Vec<Spec>> =
    LazyLock::new(|| serde_json::from_str(include_str!("builtin.json")).unwrap_or_default());

static TEMPLATES: LazyLock<Vec<ChatTemplate>> =
    LazyLock::new(|| SPECS.iter().filter_map(|spec| spec.compile().ok()).collect());

/// The template of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static ChatTemplate> {
    TEMPLATES.iter().find(|t| t.name == name)
}

/// The template of this name, as it is written.
#[must_use]
pub fn written(name: &str) -> Option<&'static Spec> {
    SPECS.iter().find(|spec| spec.name == name)
}

/// All names, in the order of the list.
#[must_use]
pub fn names() -> Vec<&'static str> {
    TEMPLATES.iter().map(|t| t.name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn all_of_them_compile() {
        let specs: Vec<super::Spec> = serde_json::from_str(include_str!("builtin.json")).unwrap();
        for spec in &specs {
            assert!(spec.compile().is_ok(), "{}: {:?}", spec.name, spec.compile());
            assert!(!spec.about.is_empty());
        }
        assert_eq!(super::names().len(), specs.len());
        assert!(specs.len() >= 13);
    }
}
