//! The built-in templates.

use super::Piece::{Control, Eos, Text};
use super::{ChatTemplate, Frame, Thinking, ToolStyle};

const IM_START: super::Piece = Control("<|im_start|>");
const IM_AFTER: &[super::Piece] = &[Control("<|im_end|>"), Text("\n")];

const fn chatml(before: &'static [super::Piece]) -> Frame {
    Frame { before, after: IM_AFTER }
}

/// Plain ChatML.
const CHATML: ChatTemplate = ChatTemplate {
    name: "chatml",
    begin: &[],
    default_system: "",
    system: chatml(&[IM_START, Text("system\n")]),
    user: chatml(&[IM_START, Text("user\n")]),
    assistant: chatml(&[IM_START, Text("assistant\n")]),
    tool: chatml(&[IM_START, Text("tool\n")]),
    trim: false,
    thinking: Thinking::Unknown,
    tools: ToolStyle::Unknown,
};

const LLAMA3_AFTER: &[super::Piece] = &[Control("<|eot_id|>")];

const fn llama3(before: &'static [super::Piece]) -> Frame {
    Frame { before, after: LLAMA3_AFTER }
}

const HEADER: super::Piece = Control("<|start_header_id|>");
const HEADER_END: super::Piece = Control("<|end_header_id|>");

/// All of them. The order decides which one `auto` names where several render alike.
static TEMPLATES: [ChatTemplate; 7] = [
    // https://huggingface.co/Qwen/Qwen3-0.6B, tokenizer_config.json
    ChatTemplate { name: "qwen3", thinking: Thinking::Qwen3, tools: ToolStyle::Qwen, ..CHATML },
    // The 2507 instruct models: Qwen3 without thoughts.
    ChatTemplate { name: "qwen3_nothink", tools: ToolStyle::Qwen, ..CHATML },
    // Qwen2.5
    ChatTemplate {
        name: "qwen",
        default_system: "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
        tools: ToolStyle::Qwen,
        ..CHATML
    },
    CHATML,
    // SmolLM2-Instruct
    ChatTemplate {
        name: "smollm2",
        default_system: "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
        ..CHATML
    },
    // Llama-3-Instruct
    ChatTemplate {
        name: "llama3",
        begin: &[Control("<|begin_of_text|>")],
        default_system: "",
        system: llama3(&[HEADER, Text("system"), HEADER_END, Text("\n\n")]),
        user: llama3(&[HEADER, Text("user"), HEADER_END, Text("\n\n")]),
        assistant: llama3(&[HEADER, Text("assistant"), HEADER_END, Text("\n\n")]),
        tool: llama3(&[HEADER, Text("tool"), HEADER_END, Text("\n\n")]),
        trim: true,
        thinking: Thinking::Unknown,
        tools: ToolStyle::Unknown,
    },
    // Stanford Alpaca, as LLaMA-Factory has it: needs no control token but the end of the sequence.
    ChatTemplate {
        name: "alpaca",
        begin: &[],
        default_system: "Below is an instruction that describes a task. \
                         Write a response that appropriately completes the request.",
        system: Frame { before: &[], after: &[Text("\n\n")] },
        user: Frame { before: &[Text("### Instruction:\n")], after: &[Text("\n\n### Response:\n")] },
        assistant: Frame { before: &[], after: &[Eos, Text("\n\n")] },
        tool: Frame { before: &[Text("### Observation:\n")], after: &[Text("\n\n### Response:\n")] },
        trim: false,
        thinking: Thinking::Unknown,
        tools: ToolStyle::Unknown,
    },
];

/// The template of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static ChatTemplate> {
    TEMPLATES.iter().find(|t| t.name == name)
}

/// All names, in the order of the list.
#[must_use]
pub fn names() -> Vec<&'static str> {
    TEMPLATES.iter().map(|t| t.name).collect()
}
