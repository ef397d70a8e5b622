//! Chat templates: a conversation becomes turns of segments.
//!
//! Two kinds: [`ChatTemplate`], which is data (built in, or from a user's YAML), and [`Jinja`], the model's own text.
//! In both, control tokens exist only as [`Kind::Control`] and [`Kind::Marker`] segments that the template writes;
//! whatever a user typed is [`Kind::Text`] and is encoded by a tokenizer that knows no control tokens. A border between
//! learned and not learned is a border between segments, so no token straddles it.

mod added;
mod builtin;
mod chat_template;
mod check;
mod controls;
mod detect;
mod jinja;
mod probes;
mod render;
mod segment;
mod source;
mod spec;
mod tools;

pub use added::Tags;
pub use builtin::{find, names, written};
pub use chat_template::{ChatTemplate, SystemPlace, Thinking, ToolStyle};
pub use check::{Compared, check};
pub use controls::Controls;
pub use detect::detect;
pub use jinja::{FIXED_DATE, Jinja};
pub use render::{Learn, Rendered};
pub use segment::{Kind, Segment, Turn};
pub use source::{Source, Template};
pub use spec::{KEYS, Problem, Spec};
