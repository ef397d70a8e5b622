//! What every engine can do.

/// Turns text into ids.
pub trait Engine: Send + Sync {
    /// The library's name, for reports.
    fn name(&self) -> &'static str;

    /// Appends the ids of `text`; no control token is ever among them.
    ///
    /// # Errors
    ///
    /// A message, should the library refuse the text.
    fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), String>;
}
