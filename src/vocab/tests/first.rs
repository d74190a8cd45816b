//! First words without the library's help, beside the library's.

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_first_word_is_that_of_the_library(
        text in "[ \\n\\t'a-zA-Z0-9_.,(éß北ﬁ\u{301}\u{200d}🚀-]{1,24}"
    ) {
        static OURS: LazyLock<Vec<(String, Tokenizer)>> = LazyLock::new(samples);
        let shared = ["assets/tokenizers", "assets/models"].map(tokenizers);
        for (name, tokenizer) in shared.into_iter().flatten().chain(OURS.iter()) {
            let mid_text = &tokenizer.mid_text;
            let found = mid_text.first_word(&text);
            let expected = mid_text.first_word_by_library(&text);
            prop_assert_eq!(found.as_deref(), expected.as_deref(), "{} `{}`", name, text);
        }
    }
}

#[test]
fn common_kinds_need_no_library() {
    let all = tokenizers("assets/tokenizers").iter();
    let quick = all.filter(|(_, tokenizer)| tokenizer.mid_text.is_quick());
    let names: Vec<&str> = quick.map(|(name, _)| name.as_str()).collect();
    for name in ["gpt-2", "llama-2", "llama-3", "mistral-v3", "qwen2"] {
        let there = real(name).is_some();
        assert!(!there || names.contains(&name), "{name}: {names:?}");
    }
}
