//! The interface of the engines.

use super::added::AddedToken;
use std::sync::Arc;

/// Turns text into ids.
pub trait Engine: Send + Sync {
    /// The library's name, for reports.
    fn name(&self) -> &'static str;

    /// Appends the ids of `text`. No control token is looked for in it; the model may have one in its vocabulary
    /// ([`Content::encode`](super::Content::encode)).
    ///
    /// # Errors
    ///
    /// The library's message if it refuses the text.
    fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), String>;
}

/// An engine that knows no added tokens yet.
pub(super) trait Base: Engine {
    /// The token that stands for characters or words that the vocabulary does not have.
    fn unknown(&self) -> Option<u32>;

    /// The largest id of the vocabulary: the model makes no other of text.
    fn largest(&self) -> u32;

    /// The same for text in which the added tokens are tokens; the special ones among them stay text.
    ///
    /// # Errors
    ///
    /// They cannot be searched for.
    fn with_added(self: Arc<Self>, added: &[AddedToken]) -> Result<Arc<dyn Engine>, String>;
}
