//! One stage of the data path over a file, and all stages before it: for counting instructions (instructions.py).
//!
//! `stages STAGE DATA TOKENIZER TEMPLATE [OUT]`; nothing is parallel, so that the counts are the same on every machine.

use qlora_fast_core::encode::{Encoded, Encoder, Scratch};
use qlora_fast_core::prepare::{Options, prepare};
use qlora_fast_core::record::{self, Variables, reader::Reader};
use qlora_fast_core::template::{Learn, Source, Template};
use qlora_fast_core::tokenizer::{Choice, Tokenizer};
use std::hint::black_box;
use std::path::Path;

#[derive(PartialEq, PartialOrd)]
enum Stage {
    Load,
    Read,
    Parse,
    Render,
    Encode,
    Write,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [stage, data, tokenizer, template, rest @ ..] = &words[..] else {
        panic!("stages STAGE DATA TOKENIZER TEMPLATE [OUT]");
    };
    let stage = match stage.as_str() {
        "load" => Stage::Load,
        "read" => Stage::Read,
        "parse" => Stage::Parse,
        "render" => Stage::Render,
        "encode" => Stage::Encode,
        "write" => Stage::Write,
        other => panic!("there is no stage `{other}`"),
    };
    if stage == Stage::Write {
        let options = serde_json::json!({
            "data": [data], "tokenizer": tokenizer, "template": template, "cutoff_len": 2048, "threads": 1,
            "out": rest.first().expect("a folder to write"),
        });
        let options: Options = serde_json::from_value(options).expect("sound options");
        prepare(&options, &mut |_, _, _| true).expect("sound data");
        return;
    }
    let template = Template::new(&Source::named(template), None, None).expect("a built-in template");
    let tokenizer = Tokenizer::load(Path::new(tokenizer), Choice::Auto, None).expect("a tokenizer");
    let encoder = Encoder::new(&template, &tokenizer, None).expect("the template's tokens");
    if stage == Stage::Load {
        return;
    }
    let (variables, mut scratch, mut encoded) = (Variables::new(), Scratch::default(), Encoded::default());
    for chunk in Reader::open(Path::new(data)).expect("a file") {
        let chunk = chunk.expect("sound JSON");
        for span in &chunk.records {
            let text = std::str::from_utf8(&chunk.bytes[span.start..span.end]).expect("UTF-8");
            if stage < Stage::Parse {
                continue;
            }
            let Ok(conversation) = record::parse(text, None, &variables).expect("sound JSON").conversation else {
                continue;
            };
            if stage < Stage::Render {
                black_box(&conversation);
                continue;
            }
            let rendered = encoder.render(&conversation, None, Learn::default()).expect("a built-in template");
            if stage < Stage::Encode {
                black_box(&rendered);
                continue;
            }
            encoder.encode_into(&rendered.turns, &mut scratch, &mut encoded).expect("text is encodable");
            black_box(&encoded);
        }
    }
}
