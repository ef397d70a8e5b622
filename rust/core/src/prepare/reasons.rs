//! The names that a report can hold: why rows are dropped, what was repaired, what is worth knowing.
//!
//! Behind a colon stands the field or the value that the name speaks of. The explanations for people are the front
//! end's; a test there walks these lists.

/// Why a row is dropped.
pub const REASONS: &[&str] = &[
    "answer_left_out_by_the_template",
    "control_token_in_text_that_the_template_rewrites",
    "control_token_in_tool_json",
    "cutoff_len_leaves_nothing_to_learn",
    "duplicate",
    "empty_answer",
    "key_twice",
    "loss_weight_not_0_or_1",
    "no_answer",
    "no_prompt",
    "no_role",
    "not_a_list",
    "not_an_object",
    "not_pairs",
    "not_text",
    "nothing_to_learn",
    "refused_by_the_template",
    "template_error",
    "template_rewrites_turns",
    "too_long",
    "tool_call_not_json",
    "tool_call_without_name_or_arguments",
    "tools_are_no_json",
    "unknown_format",
    "unknown_role",
    "untokenizable",
];

/// What was mended in rows that are kept.
pub const REPAIRS: &[&str] = &[
    "empty_answer_without_loss",
    "leading_answer_without_loss",
    "same_role_neighbours_joined",
    "trailing_prompt_removed",
];

/// What else is worth knowing of rows that are kept.
pub const NOTICES: &[&str] = &[
    "answer_starts_with_blanks",
    "content_left_out",
    "control_token_kept_as_text",
    "empty_prompt",
    "thoughts_left_out",
    "tool_result_as_question",
    "tools_as_plain_text",
];

/// Whether a reason stands in the list, whatever it says behind its colon.
pub(super) fn is_known(reason: &str) -> bool {
    REASONS.contains(&reason.split(':').next().unwrap_or_default())
}
