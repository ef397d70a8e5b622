"""What the names in a report mean, and what to do about them: one table, for every name that the core knows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Explanation:
    """What was found, and how to fix it (empty if there is nothing to fix)."""

    what: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}" if self.fix else self.what


REASONS = {
    "answer_left_out_by_the_template": Explanation(
        "the model's own template does not print the content of the answer, such as a tool call",
        "name a template that supports it: `qlora-fast template list`",
    ),
    "duplicate": Explanation(
        "an earlier row has the same conversation (deduplicate: exact)",
        "nothing to fix; `first` in the file names that row",
    ),
    "cutoff_len_leaves_nothing_to_learn": Explanation(
        "with the prompt and the template in place, no token of an answer fits into cutoff_len",
        "raise cutoff_len, or shorten the prompt",
    ),
    "empty_answer": Explanation("the answer is empty or blank", "write one, or leave the row out"),
    "key_twice": Explanation(
        "a key occurs twice in the record, in a turn or in a tool call, so it is not clear which one counts", "keep one"
    ),
    "lone_surrogate": Explanation(
        "a text contains half a surrogate pair, such as \\ud83d: it was truncated in the middle of a character",
        "remove it, or complete the character",
    ),
    "loss_weight_not_0_or_1": Explanation(
        "a turn's loss weight is neither 0 nor 1", "use 1 for turns to train on and 0 for the others"
    ),
    "missing_key": Explanation(
        "the record has no such key, so there is no answer to train on",
        "rename the key that holds the answer, or say which it is in a dataset_info.json beside the data: "
        '{"mine": {"file_name": "data.json", "columns": {"response": "KEY"}}}, then dataset=mine',
    ),
    "no_answer": Explanation("no turn of the assistant is left to train on", "add the answer"),
    "no_prompt": Explanation("there is no question before the answer", "add the question"),
    "no_role": Explanation("a turn has no role", "give it a `role` (or `from`)"),
    "not_a_list": Explanation("the field must be a list", "put its content into `[…]`"),
    "not_an_object": Explanation("the record, or a turn of it, is not a JSON object", "write it as `{…}`"),
    "not_pairs": Explanation("`history` must be a list of [question, answer] pairs", "pair them up"),
    "not_text": Explanation(
        "the field holds a number, a list or an object where text belongs",
        "write it as text in quotes; pictures and sound are not trained on",
    ),
    "number_not_finite": Explanation(
        "a number is NaN, infinite or too large, which JSON cannot hold", "write null or a number, or remove the key"
    ),
    "nothing_to_learn": Explanation(
        "no turn is marked to be trained on, or what is marked has no tokens", "check the turns' loss flags"
    ),
    "refused_by_the_template": Explanation(
        "the model's own template refuses this conversation", "follow its message, or name a built-in template"
    ),
    "template_error": Explanation(
        "the model's own template failed on this row", "look at the row, or name a built-in template"
    ),
    "template_rewrites_turns": Explanation(
        "in the output of the model's own template it is not clear where an answer begins or ends",
        "name a built-in template, or write one (docs/templates.md)",
    ),
    "too_long": Explanation("longer than cutoff_len, and `truncation: drop` is set", "raise cutoff_len"),
    "tool_call_arguments_not_json": Explanation(
        "the arguments of a tool call are text that is not JSON", "complete them; a call without arguments has `{}`"
    ),
    "tool_call_arguments_not_an_object": Explanation(
        "the arguments of a tool call are not a JSON object", "give each a name; a call without arguments has `{}`"
    ),
    "tool_call_not_json": Explanation("a tool call is not valid JSON", "fix its JSON"),
    "tool_call_without_name_or_arguments": Explanation(
        "a tool call has no `name` or no `arguments`", "give it both; arguments may be `{}`"
    ),
    "tools_are_no_json": Explanation("the offer of tools is not a JSON object or a list of them", "fix its JSON"),
    "unknown_format": Explanation(
        "the record has none of the keys of a known format",
        "use `instruction` and `output`, `conversations`, or `messages`",
    ),
    "unknown_role": Explanation(
        "a turn has an unknown role", "use user, assistant, system or tool (or human, gpt, observation)"
    ),
    "untokenizable": Explanation(
        "the tokenizer failed on the text, or would have turned part of it into a control token",
        "look for unusual characters in the text",
    ),
}
"""Why a row was dropped."""

REPAIRS = {
    "empty_answer_without_loss": Explanation("an empty answer in a longer dialogue stays as context, without loss"),
    "leading_answer_without_loss": Explanation("an answer before the first question stays as context, without loss"),
    "same_role_neighbours_joined": Explanation("two consecutive turns of the same role were joined by a line break"),
    "system_prompts_joined": Explanation("several system prompts before the first turn were joined by line breaks"),
    "thinking_read_as_reasoning": Explanation("the thoughts under `thinking` were read as `reasoning_content`"),
    "thoughts_removed": Explanation("the thoughts of an answer were removed (enable_thinking: false)"),
    "trailing_prompt_removed": Explanation("a last question without an answer was removed"),
}
"""What was repaired in a row that was kept."""

NOTICES = {
    "answer_in_a_sample_of_its_own": Explanation(
        "the model's own template prints an answer differently when other turns follow: it is trained on in a separate "
        "sample that ends with it, as in generation"
    ),
    "answer_starts_with_blanks": Explanation(
        "an answer begins with blanks or a line break, which some templates would merge with their own"
    ),
    "answer_unlike_the_prompt": Explanation(
        "an answer does not begin as the template's generation prompt does, which opens or closes a thought: it is supervised "
        "from where the two differ",
        "serve the model with the prompt that its answers were trained behind: with thinking on if they have thoughts, "
        "off if they have none",
    ),
    "column_not_in_row": Explanation(
        "the `columns` of dataset_info.json name this column, and the row does not have it: it counts as empty",
        "if no row has it, the name is wrong: `ignored` lists the keys that exist",
    ),
    "content_left_out": Explanation("the template does not print some of the content"),
    "added_token_in_text": Explanation(
        "the text has the characters of a token that was added to the tokenizer and is not a control token: as in a chat, "
        "they become that token where its flags allow it"
    ),
    "control_token_kept_as_text": Explanation(
        "the text contains the characters of a control token; they stay plain text"
    ),
    "empty_prompt": Explanation("the prompt is empty", "correct if the model is to begin"),
    "stop_token_added": Explanation(
        "the model's own template prints nothing that ends an answer: the end-of-sequence token is added and trained on"
    ),
    "thoughts_left_out": Explanation("the template leaves the thoughts of earlier answers out, as in a real chat"),
    "tool_result_as_question": Explanation(
        "the template has no turn for a tool's result: it is rendered as a question"
    ),
    "tools_as_plain_text": Explanation(
        "the template has no form for tools, or they are not JSON: they are rendered as text in the system prompt"
    ),
    "tools_nulls_left_out": Explanation(
        "parameters that are null were left out of the tools: tables (Parquet, `datasets`) have one wherever another row has "
        "a parameter of that name"
    ),
    "tools_wrapped": Explanation(
        'tools without this wrapper are given to the template as {"type": "function", "function": …}, as servers do'
    ),
}
"""What else is worth knowing about a row that was kept."""

_NOT_SEEN = Explanation(
    "only text is trained on: pictures, sound and video are ignored, and their placeholders stay text",
    "leave such rows out",
)
_NOT_PREFERENCES = Explanation(
    "preference data (DPO, KTO) marks answers as good or bad with it; here every answer is trained on, bad ones too",
    "leave the rows with bad answers out",
)
_MADE_HERE = Explanation("qlora-fast generates it from the rest of the row")
KEYS = {
    **dict.fromkeys(("image", "images", "image_path", "video", "videos", "audio", "audios", "pixel_values"), _NOT_SEEN),
    **dict.fromkeys(("kto_tag", "label", "chosen", "chosen_score", "rejected_score", "margin"), _NOT_PREFERENCES),
    **dict.fromkeys(("text", "input_ids", "labels", "attention_mask"), _MADE_HERE),
    **dict.fromkeys(
        ("weight", "sample_weight", "weights"),
        Explanation(
            "rows have no weights: each counts by its supervised tokens", "repeat rows, or mix datasets (mix_strategy)"
        ),
    ),
}
"""Keys beside a row's text that other trainings give a meaning: what becomes of them here."""

_ALL = {**REASONS, **REPAIRS, **NOTICES}


def explain(name: str) -> Explanation | None:
    """The explanation of a name, whatever field or value stands behind its colon."""
    return _ALL.get(name.partition(":")[0])


def explain_key(key: str) -> str:
    """What a key that is not used stands for; empty for keys that mean nothing to any training."""
    return str(KEYS.get(key) or "")


def shown_key(key: str, rows: int | None = None) -> str:
    """An ignored key as a line of a report: ``key `label` in 50 rows: …``."""
    named = f"key `{key}`" if rows is None else f"key `{key}` in {rows:,} rows"
    why = explain_key(key)
    return f"{named}: {why}" if why else named
