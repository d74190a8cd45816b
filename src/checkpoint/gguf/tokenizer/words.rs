//! How byte-level tokenizers divide a text into words, by the names of llama.cpp
//! (`tokenizer.ggml.pre`).
//!
//! A GGUF file has the name only. The rules are those of the `tokenizer.json` of the models that
//! llama.cpp recognises under it (`convert_hf_to_gguf_update.py` lists them); where its own expression is
//! a rewriting of theirs, theirs is taken.

use serde_json::{Value as Json, json};

/// One step of the division.
enum Cut {
    /// What the expression matches is a word of its own.
    Matches(&'static str),
    /// Every digit is a word.
    Digits,
    /// GPT-2's words, which `ByteLevel` has built in; always last.
    Gpt2,
}

use Cut::{Digits, Gpt2, Matches};

/// The words of one kind of tokenizers.
pub(super) struct Words {
    /// Under which names llama.cpp knows them.
    names: &'static [&'static str],
    cuts: &'static [Cut],
    /// Whether characters are composed first.
    composed: bool,
    /// A word that is a token is not put together from its bytes.
    pub ignore_merges: bool,
    /// Whether texts begin with BOS where the file does not say.
    pub add_bos: bool,
}

const PLAIN: Words = Words {
    names: &[],
    cuts: &[Gpt2],
    composed: false,
    ignore_merges: false,
    add_bos: false,
};

const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_3_5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT_4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const HAN: &str = "[一-龥ࠀ-一가-퟿]+";
const DEEPSEEK_LETTERS: &str = "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const DEEPSEEK_MARKS: &str = "\\s?[!-/:-~！-／：-～‘-‟\u{3000}-。]+";
const DEEPSEEK_3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

/// All that are known.
const ALL: [Words; 13] = [
    Words {
        names: &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "exaone4",
            "trillion",
            "granite-docling",
        ],
        ..PLAIN
    },
    Words {
        names: &[
            "smollm",
            "starcoder",
            "refact",
            "codeshell",
            "exaone",
            "minerva-7b",
        ],
        cuts: &[Digits, Gpt2],
        ..PLAIN
    },
    Words {
        names: &["command-r"],
        cuts: &[Digits, Gpt2],
        composed: true,
        ..PLAIN
    },
    Words {
        names: &[
            "llama3",
            "llama-v3",
            "llama-bpe",
            "falcon3",
            "pixtral",
            "lfm2",
        ],
        cuts: &[Matches(LLAMA_3)],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    Words {
        names: &["dbrx", "smaug-bpe"],
        cuts: &[Matches(LLAMA_3)],
        ..PLAIN
    },
    Words {
        names: &[
            "qwen2",
            "deepseek-r1-qwen",
            "stablelm2",
            "megrez",
            "hunyuan",
        ],
        cuts: &[Matches(QWEN_2)],
        composed: true,
        ..PLAIN
    },
    Words {
        names: &["qwen35"],
        cuts: &[Matches(QWEN_3_5)],
        composed: true,
        ..PLAIN
    },
    Words {
        names: &["gpt-4o", "llama4", "kanana2"],
        cuts: &[Matches(GPT_4O)],
        ..PLAIN
    },
    Words {
        names: &["seed-coder"],
        cuts: &[Matches(SEED_CODER)],
        ..PLAIN
    },
    Words {
        names: &["tekken"],
        cuts: &[Matches(TEKKEN)],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    Words {
        names: &["deepseek-llm"],
        cuts: &[
            Matches("[\r\n]"),
            Matches(DEEPSEEK_LETTERS),
            Matches(DEEPSEEK_MARKS),
            Matches("\\s+$"),
            Matches(HAN),
            Matches("\\p{N}+"),
        ],
        ..PLAIN
    },
    Words {
        names: &["deepseek-coder"],
        cuts: &[
            Matches("[\r\n]"),
            Matches("\\s?\\p{L}+"),
            Matches("\\s?\\p{P}+"),
            Matches(HAN),
            Matches("\\p{N}"),
        ],
        ..PLAIN
    },
    Words {
        names: &["deepseek-v3", "hunyuan-dense"],
        cuts: &[
            Matches("\\p{N}{1,3}"),
            Matches("[一-龥぀-ゟ゠-ヿ]+"),
            Matches(DEEPSEEK_3),
        ],
        ..PLAIN
    },
];

impl Words {
    /// Those of a name.
    pub fn named(name: &str) -> Option<&'static Words> {
        ALL.iter().find(|words| words.names.contains(&name))
    }

    /// The names of all that are known.
    pub fn known() -> String {
        let names = ALL.iter().flat_map(|words| words.names);
        names.copied().collect::<Vec<_>>().join(", ")
    }

    /// The `normalizer` of a `tokenizer.json`.
    pub fn normalizer(&self) -> Json {
        match self.composed {
            true => json!({ "type": "NFC" }),
            false => Json::Null,
        }
    }

    /// The `pre_tokenizer` of a `tokenizer.json`.
    pub fn pre_tokenizer(&self) -> Json {
        let bytes = |use_regex: bool| {
            json!({
                "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex,
            })
        };
        let mut parts: Vec<Json> = Vec::new();
        for cut in self.cuts {
            parts.push(match cut {
                Matches(regex) => json!({
                    "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false,
                }),
                Digits => json!({ "type": "Digits", "individual_digits": true }),
                Gpt2 => bytes(true),
            });
        }
        if !matches!(self.cuts, [.., Gpt2]) {
            parts.push(bytes(false));
        }
        match parts.len() {
            1 => parts.remove(0),
            _ => json!({ "type": "Sequence", "pretokenizers": parts }),
        }
    }
}
