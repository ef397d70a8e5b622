//! What a report says of single rows, by name: why they are dropped, what was repaired in them, what is worth knowing.
//!
//! This is the one table of these names. Their explanations for people are the front end's, which looks them up by name;
//! a test there compares its table with [`Reason::NAMES`] and its like.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use strum::{EnumString, IntoStaticStr, VariantNames};

/// The field, value or message that a reason is about; empty if there is none.
pub type Detail = Cow<'static, str>;

/// Why a row is dropped. Written as its name in snake case, with the detail after a colon: `not_text:output`.
#[derive(Debug, Clone, PartialEq, Eq, IntoStaticStr, EnumString, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum Reason {
    /// The model's own template does not print an answer that has a loss.
    AnswerLeftOutByTheTemplate,
    /// Truncation would leave no supervised token.
    CutoffLenLeavesNothingToLearn,
    /// An earlier row has the same conversation.
    Duplicate,
    /// The only answers are empty.
    EmptyAnswer,
    /// A key occurs twice; its name.
    KeyTwice(Detail),
    /// A text has half a surrogate pair in it.
    LoneSurrogate,
    /// A turn's loss is neither 0 nor 1.
    #[strum(serialize = "loss_weight_not_0_or_1")]
    LossWeightNot0Or1,
    /// The record has no such key, which the format needs; the file's name of it.
    MissingKey(Detail),
    /// No assistant turn has a loss.
    NoAnswer,
    /// No turn of a user or a tool.
    NoPrompt,
    /// A turn has no role.
    NoRole,
    /// A field is not a list; its name.
    NotAList(Detail),
    /// The record, or an element of the list of this name, is no object.
    NotAnObject(Detail),
    /// A field is not a list of pairs; its name.
    NotPairs(Detail),
    /// A field is no text; its name.
    NotText(Detail),
    /// No token is supervised.
    NothingToLearn,
    /// The model's own template raised an exception; its message.
    RefusedByTheTemplate(Detail),
    /// The model's own template failed; the message.
    TemplateError(Detail),
    /// The borders of the turns cannot be found in what the model's own template prints.
    TemplateRewritesTurns,
    /// A number is not finite.
    NumberNotFinite,
    /// Longer than `cutoff_len`, and rows are not to be truncated.
    TooLong,
    /// The arguments of a tool call are text that is not JSON.
    ToolCallArgumentsNotJson,
    /// The arguments of a tool call are JSON, and no object.
    ToolCallArgumentsNotAnObject,
    /// A tool call is not JSON.
    ToolCallNotJson,
    /// A tool call lacks its name or its arguments.
    ToolCallWithoutNameOrArguments,
    /// The offered tools are neither an object nor a list of objects.
    ToolsAreNoJson,
    /// The record has the keys of no known format.
    UnknownFormat,
    /// A turn has a role that is not known; its name.
    UnknownRole(Detail),
    /// The tokenizer refused the text; its message.
    Untokenizable(Detail),
}

impl Reason {
    /// The names of all reasons.
    pub const NAMES: &'static [&'static str] = <Self as VariantNames>::VARIANTS;

    /// The name, without the detail.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.into()
    }

    /// The detail, if this reason can have one.
    fn detail_mut(&mut self) -> Option<&mut Detail> {
        match self {
            Self::KeyTwice(detail)
            | Self::MissingKey(detail)
            | Self::NotAList(detail)
            | Self::NotAnObject(detail)
            | Self::NotPairs(detail)
            | Self::NotText(detail)
            | Self::RefusedByTheTemplate(detail)
            | Self::TemplateError(detail)
            | Self::UnknownRole(detail)
            | Self::Untokenizable(detail) => Some(detail),
            _ => None,
        }
    }

    /// What the reason is about: a field, a value or a message; empty if it is about the whole row.
    #[must_use]
    pub fn detail(&self) -> Detail {
        self.clone().detail_mut().map(std::mem::take).unwrap_or_default()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self.detail() {
            detail if detail.is_empty() => Ok(()),
            detail => write!(f, ":{detail}"),
        }
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (name, detail) = text.split_once(':').unwrap_or((&text, ""));
        let mut reason = Self::from_str(name).map_err(|_| D::Error::custom(format!("unknown reason `{name}`")))?;
        if let Some(place) = reason.detail_mut() {
            *place = Cow::Owned(detail.to_owned());
        }
        Ok(reason)
    }
}

/// What was repaired in a row that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum Repair {
    /// An empty answer among others has no loss.
    EmptyAnswerWithoutLoss,
    /// An answer before the first prompt has no loss.
    LeadingAnswerWithoutLoss,
    /// Neighbouring turns of one role became one.
    SameRoleNeighboursJoined,
    /// Several system prompts before the first turn became one.
    SystemPromptsJoined,
    /// A turn has its thoughts under `thinking`; they are read as `reasoning_content`.
    ThinkingReadAsReasoning,
    /// The thoughts of an answer were removed, as asked for.
    ThoughtsRemoved,
    /// A prompt after the last answer was removed.
    TrailingPromptRemoved,
}

/// What else is worth knowing of a row that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case")]
pub enum Notice {
    /// A text has the characters of an added token that is no control token.
    AddedTokenInText,
    /// The template prints an answer otherwise once others follow: it is learned in a sample that ends with it.
    AnswerInASampleOfItsOwn,
    /// An answer begins with white space.
    AnswerStartsWithBlanks,
    /// An answer does not begin as the template's generation prompt does, which opens or closes a thought.
    AnswerUnlikeThePrompt,
    /// A column that `columns` names is not in the row; its name follows, behind a colon.
    ColumnNotInRow,
    /// The template does not print some of the content.
    ContentLeftOut,
    /// A text has what would be a control token elsewhere; it stays text.
    ControlTokenKeptAsText,
    /// A prompt is empty.
    EmptyPrompt,
    /// The template prints nothing that ends an answer: the end-of-sequence token was added.
    StopTokenAdded,
    /// The template does not print the thoughts of an answer.
    ThoughtsLeftOut,
    /// The template has no turn for a tool's result.
    ToolResultAsQuestion,
    /// The template has no form for tools.
    ToolsAsPlainText,
    /// Parameters that are null were left out of the tools.
    ToolsNullsLeftOut,
    /// Tools that stood bare were wrapped as functions.
    ToolsWrapped,
}

impl Repair {
    /// The names of all repairs.
    pub const NAMES: &'static [&'static str] = <Self as VariantNames>::VARIANTS;

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

impl Notice {
    /// The names of all notices.
    pub const NAMES: &'static [&'static str] = <Self as VariantNames>::VARIANTS;

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_read_as_it_is_written() {
        for name in Reason::NAMES {
            let mut reason = Reason::from_str(name).unwrap();
            let json = |reason: &Reason| serde_json::to_string(reason).unwrap();
            assert_eq!(json(&reason), format!("\"{name}\""));
            if let Some(detail) = reason.detail_mut() {
                *detail = Cow::Borrowed("a: \"b\"");
                assert_eq!(json(&reason), format!(r#""{name}:a: \"b\"""#));
            }
            assert_eq!(serde_json::from_str::<Reason>(&json(&reason)).unwrap(), reason);
        }
        assert!(serde_json::from_str::<Reason>("\"nonsense\"").is_err());
    }

    #[test]
    fn every_name_is_in_snake_case_and_stands_once() {
        let mut names = [Reason::NAMES, Repair::NAMES, Notice::NAMES].concat();
        assert!(names.iter().all(|name| name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))));
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
