//! The interface of the engines.

use super::added::AddedToken;
use std::sync::Arc;

/// Turns text into ids.
pub trait Engine: Send + Sync {
    /// The library's name, for reports.
    fn name(&self) -> &'static str;

    /// Appends the ids of `text`; no control token is ever among them.
    ///
    /// # Errors
    ///
    /// The library's message if it refuses the text.
    fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), String>;
}

/// An engine that knows no added tokens yet.
pub(super) trait Base: Engine {
    /// The same for text in which the added tokens are tokens; the special ones among them stay text.
    ///
    /// # Errors
    ///
    /// They cannot be searched for.
    fn with_added(self: Arc<Self>, added: &[AddedToken]) -> Result<Arc<dyn Engine>, String>;
}
