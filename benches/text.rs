//! Alpaca files of English and Chinese, made of common words from a seed.

use qlora_fast_core::pack::SplitMix64;

const ENGLISH: &str = "the of and a to in is you that it he was for on are as with his they I at be this have from or one had by \
    word but not what all were we when your can said there use an each which she do how their if will up other about out many";
const CHINESE: &str = "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事";

/// An Alpaca JSON array of `rows` records, about a third of them Chinese, about 400 bytes each.
#[must_use]
pub fn alpaca(rows: usize) -> String {
    let mut random = SplitMix64::new(rows as u64);
    let words: Vec<&str> = ENGLISH.split_whitespace().collect();
    let characters: Vec<char> = CHINESE.chars().collect();
    let mut sentence = |n: u32| -> String {
        let mut text = String::new();
        if random.below(3) == 0 {
            text.extend((0..n).map(|_| characters[random.below(characters.len() as u32) as usize]));
            return text + "。";
        }
        for i in 0..n {
            text.push_str(if i == 0 { "" } else { " " });
            text.push_str(words[random.below(words.len() as u32) as usize]);
            if random.below(12) == 0 {
                text.push_str([",", ".", "\n", " 2024", " (x+1)"][random.below(5) as usize]);
            }
        }
        text + "."
    };
    let records: Vec<_> = (0..rows)
        .map(|_| serde_json::json!({"instruction": sentence(14), "input": "", "output": sentence(50)}))
        .collect();
    serde_json::Value::Array(records).to_string()
}
