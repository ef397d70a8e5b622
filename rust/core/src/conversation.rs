//! A dialogue, whatever format it came in, and the rules that make it usable for training.

use crate::reasons::{Reason, Repair};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The role of the turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions to the model.
    System,
    /// The user.
    User,
    /// The model: the turns that are trained on.
    Assistant,
    /// The result of a tool call.
    Tool,
}

impl Role {
    /// Its name, as chat templates spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// One turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message<'a> {
    /// The role of the turn.
    pub role: Role,
    /// Its text.
    #[serde(borrow)]
    pub content: Cow<'a, str>,
    /// The reasoning before the answer, if the data keeps it apart from the content.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<Cow<'a, str>>,
    /// Tool calls of an assistant turn, each as the JSON text `{"name": …, "arguments": …}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<String>,
    /// The `id` of each tool call; empty where the template reads none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub call_ids: Vec<Option<String>>,
    /// Other keys of the turn that the template reads, such as `name` and `tool_call_id`.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub others: serde_json::Map<String, serde_json::Value>,
    /// Whether the turn has a loss; unset: assistant turns have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<bool>,
}

impl<'a> Message<'a> {
    /// A plain turn.
    pub fn new(role: Role, content: impl Into<Cow<'a, str>>) -> Self {
        Self {
            role,
            content: content.into(),
            reasoning: None,
            tool_calls: Vec::new(),
            call_ids: Vec::new(),
            others: serde_json::Map::new(),
            loss: None,
        }
    }

    /// Whether the turn has no content at all.
    fn is_empty(&self) -> bool {
        self.tool_calls.is_empty() && is_blank(&self.content) && self.reasoning.as_deref().is_none_or(is_blank)
    }

    /// Whether the turn has a loss.
    #[must_use]
    pub fn is_learned(&self) -> bool {
        self.loss.unwrap_or(self.role == Role::Assistant)
    }
}

/// A whole dialogue.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conversation<'a> {
    /// The turns, in order.
    #[serde(borrow)]
    pub messages: Vec<Message<'a>>,
    /// The offered tools as the data has them, usually JSON text.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Cow<'a, str>>,
}

fn is_blank(text: &str) -> bool {
    text.trim_ascii().is_empty()
}

/// The text without `<think>…</think>`, and without what a thought that a prompt opened left of itself; `None` if it
/// has neither.
fn without_thoughts(text: &str) -> Option<String> {
    const OPEN: &str = "<think>";
    const CLOSE: &str = "</think>";
    let (mut rest, end) = text.rsplit_once(CLOSE)?;
    let mut said = String::new();
    // What stands before a thought is kept; a thought that nothing opens goes back to the beginning.
    while let Some((before, behind)) = rest.split_once(OPEN) {
        said.push_str(before.rsplit_once(CLOSE).map_or(before, |(_, before)| before));
        rest = behind.split_once(CLOSE).map_or("", |(_, rest)| rest);
    }
    said.push_str(end);
    Some(said.trim_start_matches('\n').to_owned())
}

impl Conversation<'_> {
    /// Makes a dialogue usable for training and returns the repairs; `Err` is the reason to drop it.
    ///
    /// Neighbouring prompts, and neighbouring answers, are joined by a line break. A prompt without an answer is
    /// removed. An answer before any prompt, and an empty answer, stay as context, without loss.
    ///
    /// # Errors
    ///
    /// The reason to drop the row: [`Reason::NoAnswer`], [`Reason::EmptyAnswer`] or [`Reason::NoPrompt`].
    pub fn repair(&mut self) -> std::result::Result<Vec<Repair>, Reason> {
        let mut repairs = Vec::new();
        self.join_system_prompts(&mut repairs);
        self.join_neighbours(&mut repairs);

        let answered = self.messages.iter().rposition(|m| m.role == Role::Assistant).ok_or(Reason::NoAnswer)?;
        if answered + 1 < self.messages.len() {
            self.messages.truncate(answered + 1);
            repairs.push(Repair::TrailingPromptRemoved);
        }
        let prompt =
            self.messages.iter().position(|m| matches!(m.role, Role::User | Role::Tool)).ok_or(Reason::NoPrompt)?;
        for message in &mut self.messages[..prompt] {
            if message.role == Role::Assistant && message.is_learned() {
                message.loss = Some(false);
                repairs.push(Repair::LeadingAnswerWithoutLoss);
            }
        }
        let mut emptied = 0;
        for message in &mut self.messages {
            if message.role == Role::Assistant && message.is_learned() && message.is_empty() {
                message.loss = Some(false);
                emptied += 1;
            }
        }
        if !self.messages.iter().any(Message::is_learned) {
            return Err(if emptied > 0 { Reason::EmptyAnswer } else { Reason::NoAnswer });
        }
        repairs.extend(std::iter::repeat_n(Repair::EmptyAnswerWithoutLoss, emptied));
        Ok(repairs)
    }

    /// Removes the thoughts of every answer, apart from its content or in it; returns how many answers had any.
    pub fn remove_thoughts(&mut self) -> usize {
        let mut had = 0;
        for message in self.messages.iter_mut().filter(|m| m.role == Role::Assistant) {
            let apart = message.reasoning.take().is_some();
            let rest = without_thoughts(&message.content);
            had += usize::from(apart || rest.is_some());
            if let Some(rest) = rest {
                message.content = Cow::Owned(rest);
            }
        }
        had
    }

    /// One system prompt out of those before the first turn: most templates print one only. Equal ones count once.
    fn join_system_prompts(&mut self, repairs: &mut Vec<Repair>) {
        let first_turn = self.messages.iter().position(|m| m.role != Role::System).unwrap_or(self.messages.len());
        if first_turn < 2 {
            return;
        }
        let mut prompts = self.messages.drain(..first_turn);
        let Some(mut joined) = prompts.next() else { return };
        for prompt in prompts {
            if is_blank(&joined.content) {
                joined.content = prompt.content;
            } else if !is_blank(&prompt.content) && prompt.content != joined.content {
                let text = joined.content.to_mut();
                text.push('\n');
                text.push_str(&prompt.content);
            }
            repairs.push(Repair::SystemPromptsJoined);
        }
        self.messages.insert(0, joined);
    }

    fn join_neighbours(&mut self, repairs: &mut Vec<Repair>) {
        if !self.messages.windows(2).any(|two| Self::joins(&two[0], &two[1])) {
            return;
        }
        let mut joined: Vec<Message<'_>> = Vec::with_capacity(self.messages.len());
        for message in self.messages.drain(..) {
            match joined.last_mut() {
                Some(last) if Self::joins(last, &message) => {
                    if is_blank(&last.content) {
                        last.content = message.content;
                    } else if !is_blank(&message.content) {
                        let text = last.content.to_mut();
                        text.push('\n');
                        text.push_str(&message.content);
                    }
                    repairs.push(Repair::SameRoleNeighboursJoined);
                }
                _ => joined.push(message),
            }
        }
        self.messages = joined;
    }

    /// Plain turns that agree in having a loss, and in what else the template reads of them, can be joined; calls,
    /// reasoning, tool results and instructions cannot.
    fn joins(a: &Message<'_>, b: &Message<'_>) -> bool {
        a.role == b.role
            && matches!(a.role, Role::User | Role::Assistant)
            && a.tool_calls.is_empty()
            && b.tool_calls.is_empty()
            && b.reasoning.is_none()
            && a.is_learned() == b.is_learned()
            && a.others == b.others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialogue(turns: &[(Role, &'static str)]) -> Conversation<'static> {
        Conversation { messages: turns.iter().map(|&(role, text)| Message::new(role, text)).collect(), tools: None }
    }

    #[test]
    fn a_sound_dialogue_is_left_alone() {
        let mut c = dialogue(&[(Role::System, "s"), (Role::User, "q"), (Role::Assistant, "a")]);
        let before = c.clone();
        assert_eq!(c.repair(), Ok(vec![]));
        assert_eq!(c, before);
    }

    #[test]
    fn neighbours_are_joined_and_a_trailing_prompt_goes() {
        let mut c = dialogue(&[(Role::User, "a"), (Role::User, "b"), (Role::Assistant, "c"), (Role::User, "d")]);
        assert_eq!(c.repair(), Ok(vec![Repair::SameRoleNeighboursJoined, Repair::TrailingPromptRemoved]));
        assert_eq!(c, dialogue(&[(Role::User, "a\nb"), (Role::Assistant, "c")]));
    }

    #[test]
    fn system_prompts_before_the_first_turn_are_joined_and_counted() {
        let system = |texts: &[&'static str]| {
            let mut turns: Vec<_> = texts.iter().map(|&text| (Role::System, text)).collect();
            turns.extend([(Role::User, "q"), (Role::System, "later"), (Role::Assistant, "a")]);
            let mut c = dialogue(&turns);
            let repairs = c.repair().unwrap();
            assert_eq!(c.messages.len(), 4);
            (c.messages[0].content.to_string(), repairs.len())
        };
        assert_eq!(system(&["one"]), ("one".to_owned(), 0));
        assert_eq!(system(&["one", "two"]), ("one\ntwo".to_owned(), 1));
        assert_eq!(system(&["one", " ", "two"]), ("one\ntwo".to_owned(), 2));
        assert_eq!(system(&["", "two"]), ("two".to_owned(), 1));
        assert_eq!(system(&["one", "one"]), ("one".to_owned(), 1));
    }

    #[test]
    fn a_greeting_is_context() {
        let mut c = dialogue(&[(Role::Assistant, "hi"), (Role::User, "q"), (Role::Assistant, "a")]);
        assert_eq!(c.repair(), Ok(vec![Repair::LeadingAnswerWithoutLoss]));
        assert_eq!(c.messages.iter().map(Message::is_learned).collect::<Vec<_>>(), [false, false, true]);
    }

    #[test]
    fn what_cannot_be_learned_says_why() {
        assert_eq!(dialogue(&[(Role::User, "q")]).repair(), Err(Reason::NoAnswer));
        assert_eq!(dialogue(&[]).repair(), Err(Reason::NoAnswer));
        assert_eq!(dialogue(&[(Role::User, "q"), (Role::Assistant, "")]).repair(), Err(Reason::EmptyAnswer));
        assert_eq!(dialogue(&[(Role::Assistant, "a")]).repair(), Err(Reason::NoPrompt));
    }

    #[test]
    fn blanks_are_no_answer_and_join_nothing() {
        assert_eq!(dialogue(&[(Role::User, "q"), (Role::Assistant, " \n")]).repair(), Err(Reason::EmptyAnswer));
        let mut c = dialogue(&[(Role::User, ""), (Role::User, "b"), (Role::Assistant, "c"), (Role::Assistant, " ")]);
        assert_eq!(c.repair(), Ok(vec![Repair::SameRoleNeighboursJoined; 2]));
        assert_eq!(c, dialogue(&[(Role::User, "b"), (Role::Assistant, "c")]));
    }

    #[test]
    fn thoughts_are_removed_wherever_they_stand() {
        for (content, rest) in [
            ("<think>\nhm\n</think>\n\nyes", "yes"),
            ("hm\n</think>\n\nyes", "yes"),
            ("well, <think>a</think>b<think>c</think>d", "well, bd"),
            ("a</think>b<think>c</think>d", "bd"),
            ("<think></think>", ""),
            ("\n<think> that never ends", "\n<think> that never ends"),
            ("\nyes", "\nyes"),
        ] {
            let mut c = dialogue(&[(Role::User, "<think>q</think>"), (Role::Assistant, content)]);
            assert_eq!(c.remove_thoughts(), usize::from(content != rest), "{content}");
            assert_eq!(c, dialogue(&[(Role::User, "<think>q</think>"), (Role::Assistant, rest)]), "{content}");
        }
        let mut c = dialogue(&[(Role::User, "q"), (Role::Assistant, "a")]);
        c.messages[1].reasoning = Some("hm".into());
        assert_eq!((c.remove_thoughts(), c.messages[1].reasoning.clone()), (1, None));
    }

    #[test]
    fn turns_of_two_names_are_not_joined() {
        let mut c = dialogue(&[(Role::User, "a"), (Role::User, "b"), (Role::User, "c"), (Role::Assistant, "d")]);
        for (turn, name) in [(0, "Ada"), (1, "Bo"), (2, "Bo")] {
            c.messages[turn].others.insert("name".to_owned(), name.into());
        }
        assert_eq!(c.repair(), Ok(vec![Repair::SameRoleNeighboursJoined]));
        let said: Vec<_> = c.messages.iter().map(|m| m.content.as_ref()).collect();
        assert_eq!(said, ["a", "b\nc", "d"]);
    }

    #[test]
    fn one_empty_answer_of_several_is_context() {
        let turns = [(Role::User, "q"), (Role::Assistant, ""), (Role::User, "r"), (Role::Assistant, "a")];
        assert_eq!(dialogue(&turns).repair(), Ok(vec![Repair::EmptyAnswerWithoutLoss]));
    }
}
