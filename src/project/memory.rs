//! Answers that were found once.

use std::collections::HashMap;
use std::hash::Hash;

use foldhash::fast::RandomState;

/// Most answers that are remembered; then all are forgotten.
const MOST: usize = 1 << 17;

/// Answers by question.
#[derive(Debug)]
pub(super) struct Memory<Question, Answer> {
    known: HashMap<Question, Answer, RandomState>,
}

impl<Question, Answer> Default for Memory<Question, Answer> {
    fn default() -> Self {
        Self {
            known: HashMap::default(),
        }
    }
}

impl<Question: Hash + Eq, Answer: Copy> Memory<Question, Answer> {
    /// The answer to a question, which `find` finds.
    #[inline]
    pub(super) fn of(&mut self, question: Question, find: impl FnOnce() -> Answer) -> Answer {
        if let Some(known) = self.known.get(&question) {
            return *known;
        }
        let answer = find();
        if self.known.len() >= MOST {
            self.known.clear();
        }
        self.known.insert(question, answer);
        answer
    }
}
