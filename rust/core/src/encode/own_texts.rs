//! The ids of what a template writes itself.

use crate::tokenizer::Content;
use std::sync::Arc;

/// Ids of the template's own texts. A frame is a few short ones, the same in every row, and looking for one among them is
/// quicker than encoding it.
#[derive(Default)]
pub(super) struct OwnTexts {
    /// Whose they are.
    content: Option<Arc<Content>>,
    known: Vec<(Box<str>, Vec<u32>)>,
}

impl OwnTexts {
    /// As many as are remembered: a model's own template may write another text in every row.
    const MOST: usize = 16;
    const LONGEST: usize = 64;

    /// Appends the ids of a text.
    ///
    /// # Errors
    ///
    /// The tokenizer's message if it refuses the text.
    pub(super) fn encode(
        &mut self,
        content: &Arc<Content>,
        text: &str,
        ids: &mut Vec<u32>,
    ) -> std::result::Result<(), String> {
        if !self.content.as_ref().is_some_and(|own| Arc::ptr_eq(own, content)) {
            *self = Self { content: Some(content.clone()), known: Vec::new() };
        }
        if let Some((_, known)) = self.known.iter().find(|(own, _)| **own == *text) {
            ids.extend_from_slice(known);
            return Ok(());
        }
        let before = ids.len();
        content.encode(text, ids)?;
        if text.len() <= Self::LONGEST && self.known.len() < Self::MOST {
            self.known.push((text.into(), ids[before..].to_vec()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::Encoder;
    use crate::template::{Source, Template};
    use crate::tokenizer::{Choice, Tokenizer};
    use std::path::Path;

    #[test]
    fn what_is_remembered_is_what_is_encoded_whoever_asks() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tokenizer/tokenizer.json");
        let template = Template::new(&Source::named("chatml"), None, None).unwrap();
        let whole = Tokenizer::load(&path, Choice::Auto, None).unwrap();
        // The same without merges: every text has other ids.
        let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        json["model"]["merges"] = serde_json::json!([]);
        let folder = tempfile::tempdir().unwrap();
        let bare = folder.path().join("tokenizer.json");
        std::fs::write(&bare, serde_json::to_vec(&json).unwrap()).unwrap();
        let bare = Tokenizer::load(&bare, Choice::Auto, None).unwrap();

        let contents = [&whole, &bare]
            .map(|tokenizer| Encoder::new(&template, tokenizer, None).unwrap().binding().content.clone());
        let texts: Vec<String> = (0..40).map(|i| format!("{}assistant {i}\n", "the ".repeat(i % 20))).collect();
        let mut own = OwnTexts::default();
        for content in [&contents[0], &contents[0], &contents[1], &contents[0]] {
            for text in texts.iter().chain(&texts) {
                let (mut remembered, mut encoded) = (vec![7], vec![7]);
                own.encode(content, text, &mut remembered).unwrap();
                content.encode(text, &mut encoded).unwrap();
                assert_eq!(remembered, encoded, "{text}");
            }
            assert_eq!(own.known.len(), OwnTexts::MOST);
        }
    }
}
