//! What transformers' tokenizer classes take for special tokens where no file says so.

use serde_json::Value;

/// The tokens that a class has by default.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Defaults {
    bos: Option<&'static str>,
    eos: Option<&'static str>,
    unk: Option<&'static str>,
    pad: Option<&'static str>,
}

impl Defaults {
    const fn new(
        bos: Option<&'static str>,
        eos: Option<&'static str>,
        unk: Option<&'static str>,
        pad: Option<&'static str>,
    ) -> Self {
        Self { bos, eos, unk, pad }
    }

    /// The default of `bos_token` and so on.
    pub(super) fn of(&self, key: &str) -> Option<&'static str> {
        match key {
            "bos_token" => self.bos,
            "eos_token" => self.eos,
            "unk_token" => self.unk,
            "pad_token" => self.pad,
            _ => None,
        }
    }
}

const NONE: Defaults = Defaults::new(None, None, None, None);
const SENTENCE: Defaults = Defaults::new(Some("<s>"), Some("</s>"), Some("<unk>"), None);
const PADDED: Defaults = Defaults::new(Some("<s>"), Some("</s>"), Some("<unk>"), Some("<pad>"));
const GPT_2: Defaults = Defaults::new(
    Some("<|endoftext|>"),
    Some("<|endoftext|>"),
    Some("<|endoftext|>"),
    None,
);
const QWEN: Defaults = Defaults::new(
    None,
    Some("<|endoftext|>"),
    Some("<|endoftext|>"),
    Some("<|endoftext|>"),
);
const GEMMA: Defaults = Defaults::new(Some("<bos>"), Some("<eos>"), Some("<unk>"), Some("<pad>"));
const COHERE: Defaults = Defaults::new(
    Some("<BOS_TOKEN>"),
    Some("<|END_OF_TURN_TOKEN|>"),
    Some("<UNK>"),
    Some("<PAD>"),
);
const CLIP: Defaults = Defaults::new(
    Some("<|startoftext|>"),
    Some("<|endoftext|>"),
    Some("<|endoftext|>"),
    Some("<|endoftext|>"),
);
const T5: Defaults = Defaults::new(None, Some("</s>"), Some("<unk>"), Some("<pad>"));
const BERT: Defaults = Defaults::new(None, None, Some("[UNK]"), Some("[PAD]"));
const DEBERTA: Defaults = Defaults::new(Some("[CLS]"), Some("[SEP]"), Some("[UNK]"), Some("[PAD]"));

/// By class, without `Fast` at the end; the signatures of transformers 4.57 and 5.24, which agree
/// on what is here.
const CLASSES: [(&str, Defaults); 20] = [
    ("LlamaTokenizer", SENTENCE),
    ("CodeLlamaTokenizer", SENTENCE),
    ("GPT2Tokenizer", GPT_2),
    ("CodeGenTokenizer", GPT_2),
    ("GPTNeoXTokenizer", GPT_2),
    ("WhisperTokenizer", GPT_2),
    ("Qwen2Tokenizer", QWEN),
    ("Qwen3_5Tokenizer", QWEN),
    ("GemmaTokenizer", GEMMA),
    ("CohereTokenizer", COHERE),
    ("CLIPTokenizer", CLIP),
    ("BloomTokenizer", PADDED),
    ("BartTokenizer", PADDED),
    ("RobertaTokenizer", PADDED),
    ("XLMRobertaTokenizer", PADDED),
    ("XGLMTokenizer", PADDED),
    ("T5Tokenizer", T5),
    ("BertTokenizer", BERT),
    ("DistilBertTokenizer", BERT),
    ("DebertaV2Tokenizer", DEBERTA),
];

/// The class of a `model_type` in `config.json`, for folders that name no class.
const MODELS: [(&str, &str); 20] = [
    ("llama", "LlamaTokenizer"),
    ("mistral", "LlamaTokenizer"),
    ("mixtral", "LlamaTokenizer"),
    ("code_llama", "CodeLlamaTokenizer"),
    ("gpt2", "GPT2Tokenizer"),
    ("gptj", "GPT2Tokenizer"),
    ("gpt_neo", "GPT2Tokenizer"),
    ("gpt_bigcode", "GPT2Tokenizer"),
    ("starcoder2", "GPT2Tokenizer"),
    ("codegen", "CodeGenTokenizer"),
    ("phi", "CodeGenTokenizer"),
    ("gpt_neox", "GPTNeoXTokenizer"),
    ("mpt", "GPTNeoXTokenizer"),
    ("olmo", "GPTNeoXTokenizer"),
    ("qwen2", "Qwen2Tokenizer"),
    ("qwen3", "Qwen2Tokenizer"),
    ("gemma", "GemmaTokenizer"),
    ("gemma2", "GemmaTokenizer"),
    ("cohere", "CohereTokenizer"),
    ("bloom", "BloomTokenizer"),
];

/// The defaults of the class that `tokenizer_config.json` names, else `config.json`, else the
/// latter's model type.
pub(super) fn defaults(tokenizer: &Value, model: &Value) -> &'static Defaults {
    let text = |file: &'_ Value, key: &str| file.get(key)?.as_str().map(str::to_owned);
    let by_model = || {
        let kind = text(model, "model_type")?;
        let row = MODELS.iter().find(|(name, _)| *name == kind)?;
        Some(row.1.to_owned())
    };
    let class = text(tokenizer, "tokenizer_class")
        .or_else(|| text(model, "tokenizer_class"))
        .or_else(by_model)
        .unwrap_or_default();
    let class = class.strip_suffix("Fast").unwrap_or(&class);
    CLASSES
        .iter()
        .find(|(name, _)| *name == class)
        .map_or(&NONE, |(_, defaults)| defaults)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_class_is_named_by_either_file_or_by_the_kind_of_the_model() {
        let llama = json!({"model_type": "llama"});
        for (tokenizer, model, eos) in [
            (
                json!({"tokenizer_class": "GPT2TokenizerFast"}),
                &llama,
                Some("<|endoftext|>"),
            ),
            (
                json!({"tokenizer_class": "PreTrainedTokenizerFast"}),
                &llama,
                None,
            ),
            (json!({"tokenizer_class": null}), &llama, Some("</s>")),
            (
                json!({}),
                &json!({"tokenizer_class": "GemmaTokenizer", "model_type": "llama"}),
                Some("<eos>"),
            ),
            (json!({}), &json!({"model_type": ["llama"]}), None),
            (json!({"tokenizer_class": 7}), &json!({}), None),
        ] {
            assert_eq!(
                defaults(&tokenizer, model).of("eos_token"),
                eos,
                "{tokenizer} {model}"
            );
        }
        assert_eq!(
            defaults(&json!({"tokenizer_class": "Qwen2Tokenizer"}), &llama).of("bos_token"),
            None
        );
    }
}
