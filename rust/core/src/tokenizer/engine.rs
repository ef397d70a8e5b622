//! The interface of the engines.

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
